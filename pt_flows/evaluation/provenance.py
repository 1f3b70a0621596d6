"""The passport of samples and numbers: what a module, its data and its metrics tell about them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from pt_flows.contracts import Split, Weights
from pt_flows.data.base import FlowData
from pt_flows.evaluation.passport import Direction, Passport
from pt_flows.loop.base import GenerativeModule
from pt_flows.methods.energies.base import EnergyModule
from pt_flows.metrics.base import SampleMetric
from pt_flows.metrics.features import file_hash
from pt_flows.metrics.reference import content_hash
from pt_flows.runs.folder import environment


def passport_of(
    module: GenerativeModule,
    checkpoint: Path,
    weights: Weights,
    sampler: str,
    num_samples: int,
    sampling_seed: int = 0,
    data: FlowData | None = None,
    split: Split | Literal[""] = "",
    metrics: Sequence[SampleMetric] = (),
    directions: dict[str, Direction] | None = None,
) -> Passport:
    """The passport of samples of a checkpoint; with data and metrics that of numbers.

    Args:
        module: What the checkpoint holds.
        checkpoint: Its file.
        weights: Which weights draw.
        sampler: How they draw, such as "Direct".
        num_samples: How many samples.
        sampling_seed: Their seed.
        data: What is measured against.
        split: Which part of it.
        metrics: Whose feature networks are used.
        directions: For each number whether higher or lower is better.
    """
    cost = {"seconds": module.seconds, "iterations": float(module.iteration)}
    cost |= {f"evaluations_{name}": float(num) for name, num in module.evaluations.items()}
    if data is not None:
        cost["images_seen"] = float(module.iteration * module.minibatches_per_iteration * data.batch_size)
    return Passport(
        method=type(module).__name__,
        data=type(data).__name__ if data is not None else "",
        reference=content_hash(data.reference(split or "train")) if data is not None else "",
        split=split,
        num_samples=num_samples,
        features=feature_hashes(metrics),
        weights=weights,
        sampler=sampler,
        sampling_seed=sampling_seed,
        training_seed=module.trained_seed,
        iteration=module.iteration,
        checkpoint=file_hash(checkpoint),
        cost=cost,
        directions=directions or {},
        **machine(module.device),
    )


def feature_hashes(metrics: Sequence[SampleMetric]) -> dict[str, str]:
    """Feature networks by name, with the hash of their weights."""
    networks = [metric.features for metric in metrics if hasattr(metric, "features")]
    return {str(net.name): str(net.weights_hash)[:16] for net in networks}  # pyright: ignore[reportAttributeAccessIssue]


def directions_of(metrics: Sequence[SampleMetric], numbers: Iterable[str]) -> dict[str, Direction]:
    """The direction of every number that metrics have just measured."""
    told: dict[str, Direction] = {
        key: direction for metric in metrics for key, direction in metric.directions().items()
    }
    return {key: told[key] for key in numbers if key in told}


def sampler_name(module: GenerativeModule) -> str:
    """How a method draws its samples."""
    return "Chains" if isinstance(module, EnergyModule) else "Direct"


def machine(device: torch.device) -> dict[str, Any]:
    """What measures: the device and the versions of packages."""
    here = environment(None)
    return {"device": here["device"] if device.type == "cuda" else str(device), "packages": here["packages"]}
