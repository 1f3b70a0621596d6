"""A method to check: built anew for every run, trained for some iterations on the CPU, compared with another."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from pt_flows.contracts import Batch, Terms
from pt_flows.data.base import FlowData
from pt_flows.samplers import Sampler
from pt_flows.training.requirements import check_terms

SHORT = 3
"""Iterations of a run."""


@dataclass
class Case:
    """A method to check, and what it needs.

    Attributes:
        build: Makes the method anew.
        data: Makes the data.
        sampler: Makes the sampler; default the method's own way.
    """

    build: Callable[[], Any]
    data: Callable[[], FlowData]
    sampler: Callable[[], Sampler] | None = None
    before: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def fresh(self, seed: int = 0) -> Any:
        """The method before a run with this seed."""
        L.seed_everything(seed, verbose=False)
        method = self.build()
        L.seed_everything(seed, verbose=False)
        return method

    def fit(
        self, method: Any, iterations: int, ckpt: Path | None = None, callback: L.Callback | None = None, **own: Any
    ) -> L.Trainer:
        """Train on the CPU."""
        settings: dict[str, Any] = {
            "accelerator": "cpu", "devices": 1, "max_epochs": -1, "num_sanity_val_steps": 0, "limit_val_batches": 0,
            "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
            "enable_model_summary": False, "log_every_n_steps": 1, "callbacks": [callback] if callback else [],
        }  # fmt: skip
        trainer = L.Trainer(max_steps=iterations, **settings | own)
        trainer.fit(method, datamodule=self.data(), ckpt_path=ckpt)
        return trainer

    def on_two_processes(self, callback: L.Callback) -> Any:
        """The method after a short run on two processes, in float64."""
        torch.set_num_threads(1)  # a forked process must not wait for the threads of its parent
        method, limit = self.fresh(), timedelta(minutes=5)
        strategy = DDPStrategy(start_method="fork", process_group_backend="gloo", timeout=limit)
        self.fit(method, SHORT, None, callback, precision="64-true", devices=2, strategy=strategy)
        return method

    @cached_property
    def trained(self) -> Any:
        """The method after a short run, whose terms were looked at."""
        method = self.fresh()
        iterate = method.iterate

        def watched(minibatches: list[Batch]) -> Terms:
            terms = iterate(minibatches)
            check_terms(f"{type(method).__name__}.iterate", terms)
            return terms

        def hook(name: str) -> Callable[..., None]:
            return lambda _, inputs: self.inputs.update({name: tuple(part.detach() for part in inputs)})

        method.iterate = watched
        hooks = [net.register_forward_pre_hook(hook(name)) for name, net in method.networks.items()]
        self.before.update({name: p.detach().clone() for name, p in method.named_parameters()})
        trainer = self.fit(method, SHORT)
        del method.iterate
        for handle in hooks:
            handle.remove()
        counts = method.iteration, trainer.global_step
        assert counts == (SHORT, SHORT), (
            f"expected {SHORT} iterations and as many steps of the trainer, got {counts[0]} and {counts[1]}. Do not "
            "override training_step, and leave counting to the base"
        )
        return method


def tensors(method: nn.Module) -> dict[str, Tensor]:
    """Copies of all tensors of the state dict."""
    return {name: v.detach().clone() for name, v in method.state_dict().items() if isinstance(v, Tensor)}


def difference(a: dict[str, Tensor], b: dict[str, Tensor], rtol: float = 0.0, atol: float = 0.0) -> str:
    """The first tensor that differs, and by how much; empty if none does."""
    if lacking := sorted(a.keys() ^ b.keys()):
        return f"{lacking[0]} is in one of them only"
    for name, x in a.items():
        if not torch.allclose(x, b[name], rtol, atol, equal_nan=True):
            return f"{name} differs by {float((x.double() - b[name].double()).abs().max()):.1g}"
    return ""
