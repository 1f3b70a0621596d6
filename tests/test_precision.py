"""bfloat16 inside networks, float32 at their ends, in training with `bf16-mixed`."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from problems import build, data, fit, weights
from torch import Tensor, nn

from pt_flows.callbacks import Performance
from pt_flows.functional.penalties import gradient_norm
from pt_flows.functional.potentials import velocity
from pt_flows.loop.precision import EndsInFloat32, ends
from pt_flows.methods import WGANGP
from pt_flows.nets import (
    ConvFlow,
    DCGANCritic,
    DCGANGenerator,
    MLPCritic,
    MLPGenerator,
    OneLayerGenerator,
    QuadraticCritic,
    ResNetCritic,
)
from pt_flows.training.compiled import CompiledLoss
from pt_flows.training.players import Critic, Generator


def watch(kinds: set[torch.dtype], layer: nn.Module, given: Any, value: Tensor) -> None:
    kinds.add(value.dtype)


def test_layers_inside_are_in_bfloat16_and_those_at_the_ends_in_float32() -> None:
    kinds: dict[str, set[torch.dtype]] = {}
    module = WGANGP(Generator(MLPGenerator(width=24)), Critic(MLPCritic(width=24), steps=2))
    for role, network in module.networks.items():
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear):
                kinds[f"{role} {name}"] = set()
                layer.register_forward_hook(partial(watch, kinds[f"{role} {name}"]))
    fit(module, data(), max_steps=2, precision="bf16-mixed")
    for role in ("generator", "critic"):
        inside = [torch.bfloat16 in found for name, found in kinds.items() if name.startswith(role)]
        assert inside == [False, True, True, False]
    assert not any("forward" in vars(layer) for layer in module.modules())


def test_a_method_of_small_differences_says_that_it_stays_in_float32(capsys: pytest.CaptureFixture[str]) -> None:
    fit(build("ODEGAN"), data(), max_steps=1, precision="bf16-mixed")
    assert "note: ODEGAN trains in float32 in spite of trainer.precision bf16-mixed" in capsys.readouterr().out


def test_a_failed_fit_leaves_the_layers_alone() -> None:
    class Failing(WGANGP):
        def iterate(self, minibatches: Any) -> Any:
            raise KeyboardInterrupt

    module = Failing(Generator(MLPGenerator(width=24)), Critic(MLPCritic(width=24)))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(module, data(), max_steps=2, precision="bf16-mixed")
    assert not any("forward" in vars(layer) for layer in module.modules())


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (DCGANCritic(width=16, image_size=16), ["net.0", "net.5"]),
        (DCGANGenerator(width=16, image_size=16), ["net.0", "net.7"]),
        (ResNetCritic(width=16), ["blocks.0.conv1", "blocks.0.shortcut", "last"]),
        (ConvFlow(image_size=16, width=16), ["embed.net.0", "first", "last"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_takes_or_returns_data_is_an_end(network: nn.Module, names: list[str]) -> None:
    found = list(ends([network]))
    assert [name for name, layer in network.named_modules() if layer in found] == names


def mixed(critic: MLPCritic) -> None:
    """Set a critic's layers as training with `bf16-mixed` does."""
    module = WGANGP(Generator(MLPGenerator()), Critic(critic))
    trainer: Any = SimpleNamespace(precision="bf16-mixed")
    EndsInFloat32().on_fit_start(trainer, module)


def test_a_network_without_layers_is_an_end() -> None:
    module = WGANGP(Generator(OneLayerGenerator()), Critic(QuadraticCritic()))
    trainer: Any = SimpleNamespace(precision="bf16-mixed")
    callback = EndsInFloat32()
    callback.on_fit_start(trainer, module)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = module.generator(torch.randn(5, 2))
        assert x.dtype == module.critic(x).dtype == torch.float32
    callback.teardown(trainer, module, "fit")
    assert "forward" not in vars(module.generator.network)


def test_gradients_by_points_are_in_float32_and_near_those_of_float32() -> None:
    torch.manual_seed(0)
    critic, u = MLPCritic(width=64), torch.randn(256, 2)
    norms, field = gradient_norm(critic, u), velocity(critic, u)
    mixed(critic)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, moved = gradient_norm(critic, u), velocity(critic, u)
    assert found.dtype == moved.dtype == torch.float32
    for value, expected in ((found, norms), (moved, field)):
        assert 0 < (value - expected).norm() < 0.05 * expected.norm()


def test_transport_between_minibatches_stays_in_float32() -> None:
    ends = []
    for precision in ("bf16-mixed", "32-true"):
        module = build("MinibatchW2FE-entropic")
        points: list[Tensor] = [torch.randn(8, 2, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
            ends.append(module.velocity(*points))
    assert torch.equal(*ends)


@pytest.mark.slow
def test_a_compiled_loss_has_the_precision_of_the_loss_itself() -> None:
    """The compiler would else lower recorded products of float32 to bfloat16 once more."""
    torch.manual_seed(0)
    critic, x = MLPCritic(width=128), torch.randn(512, 2)
    mixed(critic)

    def loss(x: Tensor) -> dict[str, Tensor]:
        return {"loss": (gradient_norm(critic, x) - 1).square().mean() + critic(x).mean()}

    messages: list[str] = []
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        compiled = CompiledLoss([critic], loss, "loss", "loss", messages.append)
        terms, gradients = compiled(x)
        expected = loss(x)["loss"]
        wanted = torch.autograd.grad(expected, list(critic.parameters()), allow_unused=True)
    assert messages[0].startswith("compiled: loss")
    assert terms["loss"].dtype == torch.float32
    torch.testing.assert_close(terms["loss"], expected.detach(), rtol=2e-3, atol=0)
    for value, goal in zip(gradients, wanted, strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, goal, rtol=0.02, atol=0.02 * float(goal.abs().max()))


@pytest.mark.slow
def test_bfloat16_trains_compiled() -> None:
    results = []
    for mode in ("fast", "compile"):
        torch.manual_seed(0)
        module = WGANGP(Generator(MLPGenerator(width=32)), Critic(MLPCritic(width=32), steps=2))
        fit(module, data(), max_steps=3, precision="bf16-mixed", callbacks=[Performance(mode)])
        results.append(weights(module))
    assert (results[0] - results[1]).norm() < 0.02 * results[0].norm()
