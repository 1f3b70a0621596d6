"""What a number needs to be believed: how it was measured, of what, against what, and what it had cost to get there."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from pt_flows.contracts import Split
from pt_flows.data.base import FlowData
from pt_flows.errors import UserError
from pt_flows.evaluation.subject import Subject
from pt_flows.files import replacing
from pt_flows.metrics.base import SampleMetric
from pt_flows.metrics.features import file_hash
from pt_flows.metrics.reference import content_hash
from pt_flows.runs.folder import environment

FORMAT = 1


@dataclass(frozen=True)
class Passport:
    """The record beside the numbers of one evaluation. All of it is in the file; `protocol` must agree to compare.

    Attributes:
        method: Class of the trained module, or "images" for a folder.
        data: Class of the data that were measured against; empty for samples that were not measured.
        reference: Hash of the real samples.
        split: Which part of the data they are.
        num_samples: How many generated samples.
        features: Feature network, with the hash of its weights; empty for toys.
        weights: "ema" or "raw"; empty for images.
        sampling_seed: Seed of the samples.
        training_seed: Seed of the run; None for images.
        iteration: When the checkpoint was written.
        checkpoint: SHA-256 of its file, or of the images.
        precision: Of the measurement.
        device: What it ran on.
        packages: Versions.
        cost: Of training so far: seconds, images seen, samples evaluated by each network.
        measured: When, in UTC.
        format: Version of this record.
    """

    method: str
    data: str
    reference: str
    split: str
    num_samples: int
    features: dict[str, str]
    weights: str
    sampling_seed: int
    training_seed: int | None
    iteration: int
    checkpoint: str
    device: str
    packages: dict[str, str | None]
    cost: dict[str, float]
    precision: str = "float32 features without TF32, float64 statistics"
    measured: str = ""
    format: int = FORMAT

    def protocol(self, key: str) -> dict[str, Any]:
        """What two numbers of this name must share to stand in one column."""
        features = {name: digest for name, digest in self.features.items() if name in key}
        return {"reference": self.reference, "features": features, "split": self.split,
                "num_samples": self.num_samples, "weights": self.weights, "precision": self.precision}  # fmt: skip


def passport_of(
    subject: Subject,
    checkpoint: Path | None,
    num_samples: int,
    sampling_seed: int = 0,
    data: FlowData | None = None,
    split: Split | Literal[""] = "",
    metrics: Sequence[SampleMetric] = (),
) -> Passport:
    """The passport of samples of a checkpoint; with data and metrics that of numbers.

    Args:
        subject: The method, its weights and the sampler.
        checkpoint: Its file, if it was saved.
        num_samples: How many samples.
        sampling_seed: Their seed.
        data: What is measured against.
        split: Which part of it.
        metrics: Whose feature networks are used.
    """
    module = subject.method
    cost = {"iterations": float(module.iteration), "seconds": module.cost.seconds}
    cost |= {f"evaluations_{name}": float(num) for name, num in module.cost.evaluations.items()}
    if module.cost.images_seen:  # unknown where a checkpoint was converted
        cost["images_seen"] = float(module.cost.images_seen)
    return Passport(
        method=type(module).__name__,
        data=type(data).__name__ if data is not None else "",
        reference=content_hash(data.reference(split or "train")) if data is not None else "",
        split=split,
        num_samples=num_samples,
        features=feature_hashes(metrics),
        weights=subject.weights,
        sampling_seed=sampling_seed,
        training_seed=module.trained_seed,
        iteration=module.iteration,
        checkpoint=file_hash(checkpoint) if checkpoint is not None else "",
        cost=cost,
        **machine(module.device),
    )


def feature_hashes(metrics: Sequence[SampleMetric]) -> dict[str, str]:
    """Feature networks by name, with the hash of their weights."""
    networks = [metric.features for metric in metrics if hasattr(metric, "features")]
    return {str(net.name): str(net.weights_hash)[:16] for net in networks}  # pyright: ignore[reportAttributeAccessIssue]


def machine(device: torch.device) -> dict[str, Any]:
    """What measures: the device and the versions of packages."""
    here = environment(None)
    return {"device": here["device"] if device.type == "cuda" else str(device), "packages": here["packages"]}


def stamped(passport: Passport) -> dict[str, Any]:
    """The passport as plain data, with the time of now."""
    return asdict(passport) | {"measured": datetime.now(UTC).isoformat(timespec="seconds")}


def record_path(folder: Path, passport: Passport, checkpoint: Path) -> Path:
    """Where a run folder keeps the numbers of one evaluation; measuring the same again writes the same file."""
    p = passport
    name = f"{p.iteration:08d}-{checkpoint.stem}-{p.weights}-{p.split}-{p.num_samples}-seed{p.sampling_seed}.json"
    return folder / "evaluations" / name


def write_record(path: Path, passport: Passport, numbers: dict[str, float]) -> dict[str, Any]:
    """Write numbers with their passport as JSON, whole or not at all; returns what was written.

    Numbers that the file has of the very same samples and reference stay beside the new ones.
    """
    if path.is_file():
        with contextlib.suppress(UserError):  # a damaged or foreign record is written anew
            before, known = read_record(path)
            if (before.checkpoint, before.reference) == (passport.checkpoint, passport.reference):
                numbers = known | numbers
                passport = replace(passport, features=before.features | passport.features)
    record = {"passport": stamped(passport), "numbers": numbers}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n")
    return record


def read_record(path: Path) -> tuple[Passport, dict[str, float]]:
    """Numbers and their passport.

    Raises:
        UserError: The file is no such record, is damaged, or was written by a newer version.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no evaluation of pt_flows or is damaged ({error}); measure again") from error
    return checked_record(record, str(path))


def checked_record(record: Any, path: str) -> tuple[Passport, dict[str, float]]:
    """Numbers and their passport from parsed JSON.

    Args:
        record: What `write_record` has written.
        path: Where it comes from, for errors.

    Raises:
        UserError: As for `read_record`.
    """
    try:
        passport, numbers = record["passport"], {str(k): float(v) for k, v in record["numbers"].items()}
        version = int(passport["format"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no evaluation of pt_flows or is damaged ({error}); measure again") from error
    if version > FORMAT:
        raise UserError(
            f"{path} has a passport of format {version}, this version reads up to {FORMAT}; update pt_flows"
        )
    try:
        return Passport(**{field.name: passport[field.name] for field in fields(Passport)}), numbers
    except KeyError as error:
        raise UserError(f"{path} has a passport without {error}; measure again") from error
