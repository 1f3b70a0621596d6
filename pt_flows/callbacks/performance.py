"""Settings that make training faster and keep its results up to rounding, with one switch to turn them off."""

from collections.abc import Iterable
from functools import partial
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.backends import cuda, cudnn
from torch.optim import Adam, Optimizer

from pt_flows.callbacks.schedule import as_method
from pt_flows.construction import Constructed
from pt_flows.contracts import EnergyNet
from pt_flows.loop.method import Method
from pt_flows.training.compiled import Compiled, CompiledLoss
from pt_flows.training.distributed import world

Mode = Literal["fast", "reference", "compile"]


class Performance(Constructed, L.Callback):
    """Chooses a faster or a plainer way to compute the same steps.

    `fast` uses channels-last memory for convolutions and one kernel for Adam. On a GPU it also uses TensorFloat-32
    (unless steps are small differences), the fastest convolution algorithm by trial, and keeps images on the device if
    they fit. `reference` turns all of it off. `compile` is `fast`, and compiles losses with all of their derivatives,
    the field of ODE-GAN, and networks of other methods, if no second derivative goes through them.

    Args:
        mode: "fast", "reference" or "compile".
    """

    def __init__(self, mode: Mode = "fast") -> None:
        self.mode: Mode = mode

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Lay out memory before optimizers are made, and set torch's settings of the process."""
        if stage != "fit":
            return
        module, fast = as_method(pl_module), self.mode != "reference"
        self._backends = cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
        cuda.matmul.allow_tf32 = cudnn.allow_tf32 = fast and not module.float32_only
        cudnn.benchmark = fast and not torch.are_deterministic_algorithms_enabled()
        data: Any = getattr(trainer, "datamodule", None)
        if not fast and hasattr(data, "resident_share"):
            data.resident_share = 0.0
        if fast and module.channels_last:
            averages = [average.network for player in module.players.values() for average in player.averages]
            for network in (*module.networks.values(), *averages):
                network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the kernels of the optimizers, and compile networks in the mode `compile`."""
        if self.mode != "reference":
            for optimizer in trainer.optimizers:
                fuse(optimizer)
        if self.mode == "compile":
            compile_parts(as_method(pl_module))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lay out the restored state of the optimizers like the parameters: the checkpoint may be of another mode."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    state = optimizer.state.get(parameter, {})
                    for name, value in state.items():
                        if name == "step" and isinstance(value, Tensor):
                            state[name] = value.to(parameter.device if group.get("fused") else "cpu")
                        elif isinstance(value, Tensor):
                            state[name] = laid_out_like(parameter, value)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore torch's settings."""
        if stage == "fit":
            forget_compiled(as_method(pl_module))
            cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = self._backends

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restore torch's settings after an error, after which Lightning does not call `teardown`."""
        if hasattr(self, "_backends"):
            self.teardown(trainer, pl_module, "fit")


def fuse(optimizer: Optimizer) -> None:
    """Let Adam update all parameters in one kernel, unless another implementation is chosen."""
    if not isinstance(optimizer, Adam):
        return
    chosen = ("fused", "foreach", "capturable", "differentiable")
    for group in optimizer.param_groups:
        if not any(group.get(key) for key in chosen) and all(p.device.type in ("cpu", "cuda") for p in group["params"]):
            group["fused"] = True
    optimizer.register_step_pre_hook(_lay_out_gradients)


def _lay_out_gradients(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad = laid_out_like(parameter, parameter.grad)


def laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Return the value in the memory order of a parameter of the same shape.

    Fused kernels read both as flat arrays. On a CPU, torch's fused Adam does not check that their orders agree.
    """
    if value.stride() == parameter.stride() or value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def compile_parts(module: Method) -> None:
    """Compile what evaluations do not change: losses of players with their gradients, pure functions, and networks.

    Losses and functions may be differentiated in any order inside. They are compiled at their first call, if no network
    has buffers, such as the running statistics of batch norm; a critic's loss, if its own network has none. Other
    networks are compiled alone, if they are differentiated once.
    """
    networks, players = module.networks, module.players
    steady = not has_buffers(networks.values())
    whole = [
        name for name in module.fitted_whole if steady or (name == "critic" and not has_buffers(players[name].moved))
    ]
    for name in whole:
        players[name].compiling = partial(CompiledLoss, report=module.print, costs=module.cost)
    compiled = [f"loss of the {name}" for name in whole]
    if steady and world()[1] == 1:
        for name, function in module.pure_functions().items():
            vars(module)[name] = Compiled(function, name, module.print, module.cost)
            compiled.append(name)
    for name in module.differentiated_once:
        if name not in whole:
            network: Any = networks[name]
            network.forward = torch.compile(network.forward)
            if isinstance(network, EnergyNet) and network.conditioned:
                network.at, network.every = torch.compile(network.at), torch.compile(network.every)
            compiled.append(name)
    module.print(f"to be compiled: {', '.join(compiled) or 'nothing, as second derivatives go through all networks'}")


def has_buffers(networks: Iterable[nn.Module]) -> bool:
    """Whether one of the networks has a buffer."""
    return any(True for network in networks for _ in network.buffers())


def forget_compiled(module: Method) -> None:
    """Undo `compile_parts`."""
    for network in module.networks.values():
        for function in ("forward", "at", "every"):
            network.__dict__.pop(function, None)
    for name in module.pure:
        vars(module).pop(name, None)
    for player in module.players.values():
        player.plain()
