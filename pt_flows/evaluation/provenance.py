"""The passport of samples and numbers, from a method, its data and its metrics."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from pt_flows.contracts import Split
from pt_flows.data.base import FlowData
from pt_flows.errors import UserError
from pt_flows.evaluation.passport import Direction, Passport
from pt_flows.evaluation.subject import Subject
from pt_flows.metrics.base import SampleMetric
from pt_flows.metrics.features import file_hash
from pt_flows.metrics.reference import content_hash
from pt_flows.runs.environment import environment
from pt_flows.runs.folder import read_config, run_folder_of, tuned_in


def passport_of(
    subject: Subject,
    checkpoint: Path | None,
    num_samples: int,
    sampling_seed: int = 0,
    data: FlowData | None = None,
    split: Split | Literal[""] = "",
    metrics: Sequence[SampleMetric] = (),
    numbers: Collection[str] = (),
) -> Passport:
    """Issue the passport of samples of a subject, or of numbers if there are data and metrics.

    Args:
        subject: The method, its weights and the sampler.
        checkpoint: The file of the method, if it was saved.
        num_samples: Number of samples.
        sampling_seed: Seed of the samples.
        data: The reference data.
        split: Their split.
        metrics: The metrics of the numbers.
        numbers: Names of the numbers.
    """
    method = subject.method
    cost = {"iterations": float(method.iteration), "seconds": method.cost.seconds}
    cost |= {f"evaluations_{name}": float(num) for name, num in method.cost.evaluations.items()}
    if method.cost.images_seen:  # unknown if the checkpoint was converted
        cost["images_seen"] = float(method.cost.images_seen)
    cost |= subject.sampling_cost
    return Passport(
        method=type(method).__name__,
        data=type(data).__name__ if data is not None else "",
        reference=reference_hash(data, split or "train") if data is not None else "",
        split=split,
        num_samples=num_samples if subject.draws else 0,
        features=feature_hashes(metrics),
        weights=subject.weights,
        sampler=subject.sampler_name,
        sampling_seed=sampling_seed,
        training_seed=method.trained_seed,
        iteration=method.iteration,
        checkpoint=file_hash(checkpoint) if checkpoint is not None else "",
        cost=cost,
        directions=directions_of(metrics, numbers, subject),
        details=details_of(metrics),
        tuned=tuning_of(checkpoint) if checkpoint is not None else "",
        **machine(method.device),
    )


def reference_hash(data: FlowData, split: Split) -> str:
    """A hash of the real samples, or of the distribution from which every seed draws others."""
    return data.fingerprint(split) or content_hash(data.reference(split))


def feature_hashes(metrics: Sequence[SampleMetric]) -> dict[str, str]:
    """Feature networks by name, with the hash of their weights."""
    networks = [metric.features for metric in metrics if hasattr(metric, "features")]
    return {str(net.name): str(net.weights_hash)[:16] for net in networks}  # pyright: ignore[reportAttributeAccessIssue]


def details_of(metrics: Sequence[SampleMetric]) -> dict[str, str]:
    """Details on which numbers of metrics depend beyond their names."""
    return {key: text for metric in metrics for key, text in metric.details().items()}


def directions_of(
    metrics: Sequence[SampleMetric], numbers: Iterable[str], subject: Subject | None = None
) -> dict[str, Direction]:
    """The direction of every number that metrics and a sampler have just measured; empty without numbers."""
    if not (names := list(numbers)):
        return {}
    told: dict[str, Direction] = {
        key: direction for metric in metrics for key, direction in metric.directions().items()
    }
    told |= dict.fromkeys(subject.diagnostics if subject is not None else (), "")
    return {key: told[key] for key in names if key in told}


def tuning_of(checkpoint: Path) -> str:
    """The tuning of the recipe of a checkpoint's run; empty if it is not recorded."""
    folder = run_folder_of(checkpoint)
    try:
        return tuned_in(read_config(folder)) if folder is not None else ""
    except UserError:  # a lost configuration does not make a number wrong
        return ""


def machine(device: torch.device) -> dict[str, Any]:
    """The device and the versions of packages."""
    here = environment(None)
    return {"device": here["device"] if device.type == "cuda" else str(device), "packages": here["packages"]}
