"""Small modules, data and runs that the tests share."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

from pt_flows.data import Shapes32, Toy2D
from pt_flows.data.base import FlowData
from pt_flows.methods import W1FE, WGANGP
from pt_flows.methods.base import AdversarialModule
from pt_flows.nets import DCGANCritic, DCGANGenerator, MLPCritic, MLPGenerator

ROOT = Path(__file__).resolve().parent.parent

METHODS: dict[str, dict[str, Any]] = {
    "WGANGP": {"cls": WGANGP, "generator_batch_multiple": 2},
    "W1FE": {"cls": W1FE, "persistence": 3, "reduction": "mean"},
}
"""Every method, with arguments that exercise it; the contract tests run over all of them."""

Adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.9))


def build(name: str, images: bool = False, seed: int = 0, **overrides: Any) -> AdversarialModule:
    """A small method on toys or images; without batch norm, so that every parameter has a gradient of its own."""
    L.seed_everything(seed, verbose=False)
    if images:
        G, D = DCGANGenerator(width=4, latent_dim=8, batch_norm=False), DCGANCritic(width=4)
    else:
        G, D = MLPGenerator(width=16, depth=2), MLPCritic(width=16, depth=2)
    arguments = {**METHODS[name], "num_critic_steps": 2, "ema_decay": 0.9, **overrides}
    return arguments.pop("cls")(G, D, Adam, Adam, **arguments)


def data(images: bool = False, **arguments: Any) -> FlowData:
    """Data for `build`."""
    return Shapes32(**{"batch_size": 8, **arguments}) if images else Toy2D(**{"batch_size": 16, **arguments})


def fit(
    module: L.LightningModule, datamodule: FlowData, max_steps: int, ckpt_path: Path | None = None, **trainer: Any
) -> L.Trainer:
    """Train on the CPU without loggers or bars."""
    settings: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "max_epochs": -1,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0, "limit_val_batches": 0,
    }  # fmt: skip
    if "strategy" in trainer:
        torch.set_num_threads(1)  # a forked process must not wait for the threads of its parent
    runner = L.Trainer(max_steps=max_steps, **settings | trainer)
    runner.fit(module, datamodule=datamodule, ckpt_path=ckpt_path)
    return runner


def weights(module: torch.nn.Module) -> torch.Tensor:
    """All parameters and buffers of the networks as one vector."""
    return torch.cat(
        [v.detach().flatten().double() for v in module.state_dict().values() if isinstance(v, torch.Tensor)]
    )
