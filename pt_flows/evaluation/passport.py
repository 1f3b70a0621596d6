"""What a number needs to be believed: how it was measured, of what, against what, and what it had cost to get there."""

import json
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pt_flows.contracts import UserError
from pt_flows.files import replacing

FORMAT = 1


@dataclass(frozen=True)
class Passport:
    """The record beside the numbers of one evaluation. All of it is in the file; `protocol` must agree to compare.

    Attributes:
        method: Class of the trained module, or "images" for a folder.
        data: Class of the data that were measured against, with its arguments.
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

    @property
    def protocol(self) -> dict[str, Any]:
        """What two numbers must share to stand in one column, beside their name."""
        return {"reference": self.reference, "features": self.features, "split": self.split,
                "num_samples": self.num_samples, "weights": self.weights, "precision": self.precision}  # fmt: skip


def write_record(path: Path, passport: Passport, numbers: dict[str, float]) -> None:
    """Write numbers with their passport as JSON, whole or not at all."""
    stamped = asdict(passport) | {"measured": datetime.now(UTC).isoformat(timespec="seconds")}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps({"passport": stamped, "numbers": numbers}, indent=2) + "\n")


def read_record(path: Path) -> tuple[Passport, dict[str, float]]:
    """Numbers and their passport.

    Raises:
        UserError: The file is no such record, is damaged, or was written by a newer version.
    """
    try:
        record = json.loads(path.read_text())
        passport, numbers = record["passport"], {str(k): float(v) for k, v in record["numbers"].items()}
        version = int(passport["format"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no evaluation of pt_flows or is damaged ({error}); measure again") from error
    if version > FORMAT:
        raise UserError(
            f"{path} has a passport of format {version}, this version reads up to {FORMAT}; update pt_flows"
        )
    try:
        return Passport(**{field.name: passport[field.name] for field in fields(Passport)}), numbers
    except KeyError as error:
        raise UserError(f"{path} has a passport without {error}; measure again") from error
