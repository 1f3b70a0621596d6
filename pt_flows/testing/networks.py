"""Checks of a network: what a generator, a critic, an energy, an encoder or a predictor promises."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from pt_flows.contracts import CriticNet, DecoderNet, EncoderNet, EnergyNet, GeneratorNet, PredictorNet
from pt_flows.functional.penalties import gradient_norm
from pt_flows.testing.report import NotApplicable
from pt_flows.training.requirements import check_network

Build = Callable[[], Any]
NUM = 6
"""Samples of a batch."""


def made(build: Build, seed: int = 0) -> Any:
    """A network from a seed, in training mode."""
    torch.manual_seed(seed)
    return build().train()


def arguments(net: Any) -> list[Tensor]:
    """Arguments of the network's forward: points or latents, and labels where it takes them."""
    rng = torch.Generator().manual_seed(1)
    is_generator = isinstance(net, GeneratorNet)
    x = torch.randn(NUM, *(net.latent_shape if is_generator else net.event_shape), generator=rng)
    classes = 0 if isinstance(net, PredictorNet) else getattr(net, "num_classes", 0)  # a predictor returns them
    num_labels = 2 if getattr(net, "takes_labels", False) else classes
    return [x, torch.arange(NUM) % num_labels] if num_labels else [x]


def awake(net: nn.Module) -> Any:
    """A copy with parameters a little elsewhere: layers that begin at zero hide those before them."""
    net, rng = deepcopy(net), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=rng)
    return net


def shape(build: Build) -> None:
    """The network says what it takes and gives what it says."""
    net = made(build)
    kinds = [kind for kind in (GeneratorNet, EncoderNet, CriticNet, EnergyNet, PredictorNet) if isinstance(net, kind)]
    name, several = type(net).__name__, "a GeneratorNet, CriticNet, EnergyNet, EncoderNet or PredictorNet"
    assert kinds, f"{name}: expected {several}, got none. Derive it from one of them"
    check_network(name, net, kinds[0])
    what, rest = "one value per sample", ()
    if isinstance(net, GeneratorNet):
        what, rest = "samples of event_shape", net.event_shape
    elif isinstance(net, EncoderNet):
        what, rest = "means and standard deviations of latents", (2, *net.latent_shape)
    elif isinstance(net, PredictorNet) and net.num_classes:
        what, rest = "logits", (net.num_classes,)
    wanted = (NUM, *rest)
    got = tuple(net(*arguments(net)).shape)
    assert got == wanted, f"{name}: expected {what}, shape {wanted}, got {got}. Change forward or event_shape"


def gradients(build: Build) -> None:
    """Every trainable parameter has a gradient."""
    net = awake(made(build))
    out = net(*arguments(net))
    out = (out * torch.randn(out.shape)).sum()
    if isinstance(net, DecoderNet):  # some parameters belong to p(x|z) alone
        out = out + net(*arguments(net), torch.ones(NUM, *net.event_shape)).sum()
    names, parameters = zip(*[(n, p) for n, p in net.named_parameters() if p.requires_grad], strict=True)
    found = torch.autograd.grad(out, parameters, allow_unused=True)
    idle = [name for name, g in zip(names, found, strict=True) if g is None or not bool(g.any())]
    assert not idle, (
        f"{type(net).__name__}: the output does not depend on {', '.join(idle[:3])}. Use it in forward, or set its "
        "requires_grad to False"
    )


def second_derivatives(build: Build) -> None:
    """The gradient in the input can be differentiated in the parameters, as penalties and samplers do."""
    net = made(build)
    if isinstance(net, GeneratorNet | EncoderNet):
        kind = "generator" if isinstance(net, GeneratorNet) else "encoder"
        raise NotApplicable(f"no method differentiates {'a' if kind == 'generator' else 'an'} {kind} twice")
    net = awake(net)
    x, *labels = arguments(net)
    try:
        norms = gradient_norm(lambda u: net(u, *labels), x)
        if norms.requires_grad:
            norms.square().sum().backward()  # unlike autograd.grad, meets functions that raise
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise AssertionError(
            f"{type(net).__name__}: the gradient in the input cannot be differentiated ({reason}). Use operations that "
            "torch differentiates twice, and detach nothing in forward"
        ) from error
    seconds = [p.grad for p in net.parameters() if p.grad is not None]
    finite = bool(norms.isfinite().all()) and all(bool(g.isfinite().all()) for g in seconds)
    assert finite, f"{type(net).__name__}: expected finite second derivatives, got others. Use smooth operations"
    assert any(bool(g.any()) for g in seconds), (
        f"{type(net).__name__}: the gradient in the input does not depend on any parameter, so a penalty on it has no "
        "effect. Detach nothing in forward"
    )


def state(build: Build) -> None:
    """The state dict is all that makes two networks of one class differ."""
    one, other = made(build), made(build, seed=1)
    other.load_state_dict(one.state_dict())
    inputs = arguments(one)
    with torch.no_grad():
        same = torch.equal(one.eval()(*inputs), other.eval()(*inputs))
    assert same, (
        f"{type(one).__name__}: another network with the same state dict gives other values. Make every tensor that "
        "forward uses a parameter or a buffer"
    )


def evaluation_mode(build: Build) -> None:
    """In evaluation mode the network is a function of every sample alone, and changes nothing."""
    net = made(build)
    inputs = arguments(net)
    with torch.no_grad():
        net(*inputs)  # in training mode, which may update statistics
        net.eval()
        before = deepcopy(dict(net.named_buffers()))
        all_at_once, again = net(*inputs), net(*inputs)
        one_by_one = torch.cat([net(*(part[i : i + 1] for part in inputs)) for i in range(NUM)])
    name = type(net).__name__
    assert torch.equal(all_at_once, again), (
        f"{name}: gives other values every time in evaluation mode. Leave randomness to training mode (self.training)"
    )
    changed = [key for key, value in net.named_buffers() if not torch.equal(value, before[key])]
    assert not changed, f"{name}: changes {changed[0]} in evaluation mode. Change buffers in training mode only"
    assert torch.allclose(all_at_once, one_by_one, rtol=1e-3, atol=1e-4), (
        f"{name}: what one sample gives depends on the others in evaluation mode. Use layers that treat samples "
        "one by one"
    )


NETWORK_CHECKS: dict[str, Callable[[Build], None]] = {
    "shape": shape,
    "gradients": gradients,
    "second derivatives": second_derivatives,
    "evaluation mode": evaluation_mode,
    "state dict": state,
}
"""All checks of networks. Each takes a function that builds the network, and raises an error with the reason."""
