"""Small modules, data and runs that the tests share."""

import bz2
import shutil
import struct
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pt_flows.data import ImageAugmentation, Shapes32, Simulated, Toy2D
from pt_flows.data.base import FlowData
from pt_flows.data.simulators import FunctionSimulator
from pt_flows.functional.integrators import RK4, Field, Tableau, rk_step
from pt_flows.methods import (
    CFM,
    DAEBM,
    IWAE,
    ODEGAN,
    PCD,
    R3GAN,
    SNGAN,
    W1FE,
    W2FE,
    WGANGP,
    GradientLayers,
    ImprovedCD,
    JSFlow,
    MinibatchW2FE,
    SimVAE,
)
from pt_flows.methods.energies.base import EnergyMethod
from pt_flows.nets import (
    ConvDecoder,
    ConvEncoder,
    ConvFlow,
    DCGANCritic,
    DCGANGenerator,
    MLPCritic,
    MLPDecoder,
    MLPEncoder,
    MLPEnergy,
    MLPFlow,
    MLPGenerator,
    MultiScaleEnergy,
    TimeMLPEnergy,
    TimeResNetEnergy,
)
from pt_flows.training.compiled import recorded
from pt_flows.training.players import Critic, Encoder, Energy, Generator
from pt_flows.training.schedules import Schedule

ROOT = Path(__file__).resolve().parent.parent

Adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.9))
LINEAR = Schedule(decay="linear")
FLOW: dict[str, Any] = {"optimizer": Adam, "steps": 2, "ema_decay": 0.9}
CHAINS: dict[str, Any] = {"num_langevin_steps": 3, "buffer_size": 40, "max_energy_gap": 1e30, "optimizer": Adam,
                          "ema_decay": 0.9}  # fmt: skip

METHODS: dict[str, dict[str, Any]] = {
    "WGANGP": {"cls": WGANGP, **FLOW, "generator_batch_multiple": 2, "lr_schedule": LINEAR},
    "SNGAN": {"cls": SNGAN, **FLOW, "lr_schedule": LINEAR},
    "R3GAN": {"cls": R3GAN, **FLOW, "penalty_weight": 0.1, "lr_schedule": LINEAR},
    "GradientLayers": {"cls": GradientLayers, **FLOW, "step_size": Schedule(0.1, "linear"), "base_iterations": 1,
                       "iterations_per_layer": 1, "pool_size": 20, "lr_schedule": LINEAR},
    "GradientLayers-latent": {"cls": GradientLayers, **FLOW, "space": "latent", "iterations_per_layer": 1,
                              "pool_size": 20, "distill_every": 2, "distillation_steps": 2},
    "W1FE": {"cls": W1FE, **FLOW, "persistence": 3, "reduction": "mean", "lr_schedule": LINEAR},
    "W2FE": {"cls": W2FE, **FLOW, "persistence": 2, "interpolated_weight": 10.0, "excess_weight": 1.0,
             "inequality_weight": 10.0, "equality_weight": 1.0, "lr_schedule": LINEAR},
    "W2FE-mean": {"cls": W2FE, **FLOW, "persistence": Schedule(3, "linear"), "rematch": True,
                  "potential_side": "mean", "inequality_weight": 1.0, "equality_weight": 0.0,
                  "generator_noise": 0.3},
    "MinibatchW2FE": {"cls": MinibatchW2FE, **FLOW, "persistence": 2, "lr_schedule": LINEAR},
    "MinibatchW2FE-entropic": {"cls": MinibatchW2FE, **FLOW, "entropy": 0.1},
    "CFM": {"cls": CFM, **FLOW, "lr_schedule": LINEAR},
    "CFM-independent": {"cls": CFM, **FLOW, "pairing": "independent"},
    "JSFlow": {"cls": JSFlow, **FLOW, "persistence": 2, "step_size": Schedule(1.0, "linear")},
    "ODEGAN": {"cls": ODEGAN, "step_size": Schedule(0.05, boundaries=(2,), factors=(0.5, 1.0)), "penalty_weight": 0.1,
               "ema_decay": 0.9},
    "ODEGAN-released": {"cls": ODEGAN, "step_size": 0.05, "penalty_weight": 0.1, "integrator": "heun",
                        "stage_batches": "fresh", "penalty_placement": "first_stage", "ema_decay": 0.9,
                        "generator_noise": 0.3},
    "DAEBM": {"cls": DAEBM, **CHAINS, "num_levels": 3, "data_scale": 0.5, "adapt_every": 2,
              "num_visits": 1, "lr_schedule": Schedule(warmup=2)},
    "DAEBM-released": {"cls": DAEBM, **CHAINS, "num_levels": 3, "acceptance_ratio": "released", "metropolis_from": 2,
                       "num_visits": 1, "on_divergence": "roll_back"},
    "PCD": {"cls": PCD, **CHAINS, "metropolis": True, "reinit_probability": 0.3, "energy_l2": 0.1, "data_noise": 0.1},
    "PCD-data": {"cls": PCD, **CHAINS, "start": "data", "temperature": 0.5, "lr_schedule": LINEAR, "energy_l2": 0.1},
    "ImprovedCD": {"cls": ImprovedCD, **CHAINS, "step_size": 0.1, "noise_std": 0.05, "num_references": 4,
                   "min_history": 4, "kept_every": 2, "reinit_probability": 0.2, "clip_norm": 0.5},
    "IWAE": {"cls": IWAE, "optimizer": Adam, "ema_decay": 0.9, "num_importance_samples": 3, "lr_schedule": LINEAR},
    "IWAE-draws": {"cls": IWAE, "optimizer": Adam, "ema_decay": 0.9, "denoise": False, "clip_norm": 1.0},
    "SimVAE": {"cls": SimVAE, "optimizer": Adam, "ema_decay": 0.9, "decoder_iterations": 1},
}  # fmt: skip
"""Every method, with arguments of the method and of its players; the contract tests run over all."""

PLAYERS = ("optimizer", "lr_schedule", "steps", "ema_decay", "clip_norm")
"""Arguments of players; each player of a method gets those that it has."""


PAIRS: dict[bool, tuple[Any, Any]] = {
    False: (partial(MLPGenerator, width=16, depth=2), partial(MLPCritic, width=16, depth=2)),
    True: (partial(DCGANGenerator, width=4, latent_dim=8, batch_norm=False), partial(DCGANCritic, width=4)),
}
"""Make a generator and a critic of toys and of images; no batch norm, so every parameter has a gradient of its own."""

FLOW_NETS: dict[bool, Any] = {
    False: partial(MLPFlow, width=16, depth=2, num_steps=3),
    True: partial(ConvFlow, width=4, num_steps=3, integrator="euler"),
}
"""Make a flow of toys and of images."""


def slow_but_for(cases: Iterable[Any], is_fast: Callable[[Any], bool]) -> list[Any]:
    """Parameters of a test that takes seconds for each case: all are slow tests, but for a few."""
    return [case if is_fast(case) else pytest.param(case, marks=pytest.mark.slow) for case in cases]


ONE_OF_EACH_KIND = ("W1FE", "DAEBM")
"""A flow and an energy, for fast tests of properties that all methods share."""


def build(name: str, images: bool = False, seed: int = 0, pair: tuple[Any, Any] | None = None, **overrides: Any) -> Any:
    """A small method on toys or images, with a given pair of networks or that of `PAIRS`."""
    L.seed_everything(seed, verbose=False)
    arguments = {**METHODS[name], **overrides}
    cls = arguments.pop("cls")
    own = {key: arguments.pop(key) for key in PLAYERS if key in arguments}
    noise = {"noise_std": arguments.pop("generator_noise")} if "generator_noise" in arguments else {}
    if issubclass(cls, EnergyMethod):
        return build_energy(cls, arguments, own, images)
    if cls in (IWAE, SimVAE):
        return build_autoencoder(cls, arguments, own, images)
    make_G, make_D = pair or (FLOW_NETS[images] if cls is CFM else PAIRS[images][0], PAIRS[images][1])
    G, D = partial(make_G, **noise)(), make_D(spectral_norm=True) if cls is SNGAN else make_D()
    if cls is ODEGAN:
        return cls(G, D, **arguments, **own)
    if cls is W2FE:
        arguments["excess"] = make_D()
    generator = Generator(G, **{key: value for key, value in own.items() if key != "steps"})
    critic = Critic(D, **{key: value for key, value in own.items() if key != "ema_decay"})
    return cls(*([generator] if cls in (MinibatchW2FE, CFM) else [generator, critic]), **arguments)


def build_autoencoder(cls: Any, arguments: dict[str, Any], own: dict[str, Any], images: bool) -> Any:
    """A small autoencoder; the decoder of IWAE learns its standard deviations."""
    kind = None if cls is SimVAE else "global" if images else "per_output"
    if images:
        num = NUM_PARAMETERS if cls is SimVAE else 3
        decoder, encoder = ConvDecoder(width=4, latent_dim=num, learned_std=kind), ConvEncoder(width=4, latent_dim=num)
    else:
        decoder, encoder = MLPDecoder(width=16, learned_std=kind), MLPEncoder(width=16)
    return cls(Generator(decoder, **own), Encoder(encoder, **own), **arguments)


def build_energy(cls: type[EnergyMethod], arguments: dict[str, Any], own: dict[str, Any], images: bool) -> EnergyMethod:
    """A small energy-based model."""
    if cls is DAEBM:
        energy = TimeResNetEnergy(32, 3, width=4) if images else TimeMLPEnergy(width=16)
    else:
        energy = MultiScaleEnergy(32, 3, width=4, attention=False) if images else MLPEnergy(width=16, depth=2)
    if cls is ImprovedCD and images:
        arguments["augmentation"] = ImageAugmentation(min_area=0.5)
    return cls(Energy(energy, **own), **arguments)


def data(images: bool = False, **arguments: Any) -> FlowData:
    """Data for `build`."""
    return Shapes32(**{"batch_size": 8, **arguments}) if images else Toy2D(**{"batch_size": 16, **arguments})


NUM_PARAMETERS = 2


def bend(parameters: Tensor) -> Tensor:
    """Points in the plane from two parameters in [-1, 1]."""
    a, b = parameters.T
    return torch.stack([a, b + 0.5 * a.square()], 1)


def shade(parameters: Tensor) -> Tensor:
    """Images with a slope of two parameters in [-1, 1]."""
    a, b = parameters.T[..., None, None]
    ticks = torch.linspace(-0.5, 0.5, 32, dtype=parameters.dtype)
    return (a * ticks + b * ticks[:, None])[:, None].expand(-1, 3, -1, -1)


def simulated(images: bool = False, **arguments: Any) -> Simulated:
    """Data of a simulator for `build`, in the shapes of `data`."""
    simulator = FunctionSimulator(shade if images else bend, {"a": (-1.0, 1.0), "b": (-1.0, 1.0)})
    return Simulated(simulator, **{"batch_size": 8 if images else 16, "num_reference": 50, **arguments})


def data_of(name: str, images: bool = False, **arguments: Any) -> FlowData:
    """Data for a method of `METHODS`."""
    return (simulated if METHODS[name]["cls"].takes_latents else data)(images, **arguments)


def fit(
    module: L.LightningModule, datamodule: FlowData, max_steps: int, ckpt_path: Path | None = None, **trainer: Any
) -> L.Trainer:
    """Train on the CPU without loggers or bars, methods that take latents on simulated data of the same shape."""
    if getattr(module, "takes_latents", False) and not isinstance(datamodule, Simulated):
        block = {"batch_size": datamodule.batch_size, "iterations_per_block": datamodule.iterations_per_block}
        datamodule = simulated(len(datamodule.event_shape) == 3, **block)
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


def solve(field: Field, y: Tensor, t0: float, t1: float, num_steps: int, tableau: Tableau = RK4) -> Tensor:
    """State y(t1) after equal Runge-Kutta steps from y(t0)."""
    h = (t1 - t0) / num_steps
    for i in range(num_steps):
        y = rk_step(field, t0 + i * h, y, h, tableau)
    return y


def traced(function: Any, inputs: Any) -> Any:
    """The record of a function, run operation by operation: in place of `compiled.generate`, without a compiler."""
    return torch.no_grad()(recorded(function, inputs).forward)


def write_class_folders(root: Path, num_classes: int = 2, size: int = 64, num_images: int = 4) -> None:
    """Random JPEG images in ImageNet's layout."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(num_classes):
            folder = root / split / f"n{label:08d}"
            folder.mkdir(parents=True)
            for i in range(num_images):
                pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.JPEG")


def write_digits(root: Path) -> None:
    """Random digits in the files of USPS (30 and 12), MNIST and Fashion-MNIST (40 and 20)."""
    rng, folder = np.random.default_rng(0), root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, num in (("usps.bz2", 30), ("usps.t.bz2", 12)):
        pixels = rng.uniform(-1, 1, (num, 256))
        rows = [
            " ".join([str(i % 10 + 1), *(f"{j}:{v:.4f}" for j, v in enumerate(row, 1))]) for i, row in enumerate(pixels)
        ]
        (root / name).write_bytes(bz2.compress("\n".join(rows).encode()))
    for prefix, num in (("train", 40), ("t10k", 20)):
        images, labels = rng.integers(0, 256, (num, 28, 28), dtype=np.uint8), np.arange(num, dtype=np.uint8) % 10
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, num, 28, 28) + images.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, num) + labels.tobytes())
    shutil.copytree(root / "MNIST", root / "FashionMNIST")
