"""Passports: the provenance of a number, that is its protocol, its subject, its reference and its cost."""

import contextlib
import json
import re
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pt_flows.errors import UserError
from pt_flows.files import replacing

FORMAT = 2
Direction = Literal["higher", "lower", ""]
"""The better values of a number; empty if no direction makes sense."""
OWN_SAMPLERS = ("Direct", "Chains")
"""Default samplers of methods: latents through the generator, or Langevin chains of the energy."""
CHAIN_METHODS = ("DAEBM", "ImprovedCD", "PCD")
"""This package's methods that draw by chains."""
OWN_DIRECTIONS: dict[Direction, str] = {
    "": r".+_(floor|truth)|kid_.+_error|(fd|kid)_.+_(low|high)|modes_of|transfer_accuracy_1nn_source|displacement_.+"
        r"|mode_width(_.+std)?"
        r"|acceptance|never_moved|calibrator_slope|distance|latent_norm|slope_.+",
    "higher": r"(modes|high_quality)(_.+std)?|is_.+_\d+k?|(precision|recall|density|coverage)_.+_(train|test)"
              r"|transfer_accuracy_1nn|auroc_.+|log_likelihood_grid\d+|r2_\d+k?_(train|test)"
              r"|((robust_)?accuracy|log_likelihood_iw\d+)_.+_(train|test)(_second)?",
    "lower": r"mode_imbalance(_.+std)?|(fd|kid)_.+_(train|test)(\d+k?)?|(w1|w2|w2_map|sliced_w2|mmd2)_\d+k?|kl_grid\d+"
             r"|(resimulated|emulated)_error_.+|(robust_)?risk_.+_(train|test)(_second)?",
}  # fmt: skip
"""Patterns of the numbers of this package, for logs and old passports without directions."""


class SubjectKey(NamedTuple):
    """The part of a run that is measured.

    Attributes:
        weights: "ema", "raw", or an average by its decay or width, "ema@0.9999" or "power@0.08"; empty for images.
        sampler: The sampler with its arguments.
    """

    weights: str
    sampler: str


@dataclass(frozen=True)
class Passport:
    """The provenance record of the numbers of one evaluation. Numbers compare if their `protocol` agrees.

    Attributes:
        method: Class of the method, or "images" for a folder.
        data: Class of the reference data; empty for samples that were not measured.
        reference: Hash of the real samples.
        split: Split of the real samples.
        num_samples: Number of generated samples; 0 for a method that draws none.
        features: Feature network, with the hash of its weights; empty for toys.
        weights: "ema", "raw", or an average by its decay or width, "ema@0.9999" or "power@0.08"; empty for images.
        sampler: The sampler, such as "Direct", "Chains" or "REPGAN(num_steps=100, ...)"; empty for images, and for a
            method that draws none.
        sampling_seed: Seed of the samples.
        training_seed: Seed of the run; None for images.
        iteration: Iteration at which the checkpoint was written.
        checkpoint: SHA-256 of its file, or of the images.
        precision: Precision of the measurement.
        device: Device of the measurement.
        packages: Versions of packages.
        cost: Cost of training so far: seconds, data seen, samples evaluated by each network; of drawing one sample,
            `sampling_<network>`; and of preparing the sampler once, `preparing_<network>`.
        directions: For each number whether higher or lower is better; empty if neither is.
        details: By number, the rest on which it depends, such as the source of a map.
        tuned: The tuning of the recipe, such as "20 trials of 600 iterations"; empty if nobody has recorded it.
        measured: Time of the measurement, in UTC.
        format: Version of this record.
    """

    method: str
    data: str
    reference: str
    split: str
    num_samples: int
    features: dict[str, str]
    weights: str
    sampler: str
    sampling_seed: int
    training_seed: int | None
    iteration: int
    checkpoint: str
    device: str
    packages: dict[str, str | None]
    cost: dict[str, float]
    directions: dict[str, Direction]
    details: dict[str, str] = field(default_factory=dict)
    tuned: str = ""
    precision: str = "float32 features without TF32, float64 statistics"
    measured: str = ""
    format: int = FORMAT

    @property
    def subject(self) -> SubjectKey:
        """The weights and the sampler that were measured."""
        return SubjectKey(self.weights, self.sampler)

    def protocol(self, key: str) -> dict[str, Any]:
        """The fields that two numbers of this name must share to be comparable."""
        features = {name: digest for name, digest in self.features.items() if name in key}
        return {"reference": self.reference, "features": features, "split": self.split, "num_samples": self.num_samples,
                "precision": self.precision, "details": self.details.get(key, "")}  # fmt: skip


def own_direction(key: str) -> Direction | None:
    """The direction of a number of this package by its name; None for any other name.

    Example:
        >>> own_direction("kid_lite0_64_10k_train"), own_direction("modes_4std"), own_direction("accuracy")
        ('lower', 'higher', None)
    """
    return next((direction for direction, names in OWN_DIRECTIONS.items() if re.fullmatch(names, key)), None)


def own_sampler(method: str) -> str:
    """The default sampler of a method of this package, by the name of its class.

    Example:
        >>> own_sampler("PCD"), own_sampler("W1FE")
        ('Chains', 'Direct')
    """
    return "Chains" if method in CHAIN_METHODS else "Direct"


def stamped(passport: Passport) -> dict[str, Any]:
    """The passport as plain data, with the current time."""
    return asdict(passport) | {"measured": datetime.now(UTC).isoformat(timespec="seconds")}


def record_path(folder: Path, passport: Passport, checkpoint: Path) -> Path:
    """The file of the numbers of one evaluation in a run folder; measuring the same again writes the same file.

    The name includes the sampler if it is no default one.
    """
    p = passport
    sampler = "" if p.sampler in (*OWN_SAMPLERS, "") else "-" + re.sub(r"[^\w.=]+", "_", p.sampler).strip("_")
    drawn = f"{checkpoint.stem}-{p.weights}{sampler}"
    return folder / "evaluations" / f"{p.iteration:08d}-{drawn}-{p.split}-{p.num_samples}-seed{p.sampling_seed}.json"


def write_record(path: Path, passport: Passport, numbers: dict[str, float]) -> dict[str, Any]:
    """Write numbers with their passport as JSON, whole or not at all, and return the record.

    Numbers in the file for the same samples and reference are kept.
    """
    if path.is_file():
        with contextlib.suppress(UserError):  # a damaged or foreign record is replaced
            before, known = read_record(path)
            if same_samples(before, passport):
                numbers = known | numbers
                passport = replace(
                    passport,
                    features=before.features | passport.features,
                    directions=before.directions | passport.directions,
                    details=before.details | passport.details,
                )
    record = {"passport": stamped(passport), "numbers": numbers}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n")
    return record


def same_samples(a: Passport, b: Passport) -> bool:
    """Whether two records of one file are about the same samples and reference."""
    return (a.checkpoint, a.reference, a.subject) == (b.checkpoint, b.reference, b.subject)


def read_record(path: Path) -> tuple[Passport, dict[str, float]]:
    """Read numbers and their passport.

    Raises:
        UserError: The file is no such record, is damaged, or is from a newer version.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected an evaluation, got a damaged file ({error}). Measure again") from error
    return checked_record(record, str(path))


def checked_record(record: Any, path: str) -> tuple[Passport, dict[str, float]]:
    """Numbers and their passport from parsed JSON.

    Args:
        record: The record that `write_record` wrote.
        path: Its file, for errors.

    Raises:
        UserError: As for `read_record`.
    """
    try:
        passport, numbers = record["passport"], {str(k): float(v) for k, v in record["numbers"].items()}
        version = int(passport["format"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected an evaluation, got a damaged file ({error}). Measure again") from error
    if version > FORMAT:
        raise UserError(f"{path}: expected a passport of format {FORMAT} or older, got {version}. Update pt_flows")
    try:
        if version == 1:
            passport = from_format_1(passport, numbers)
        passport = {"tuned": "", "details": {}} | passport  # not in earlier records
        return Passport(**{one.name: passport[one.name] for one in fields(Passport)}), numbers
    except KeyError as error:
        raise UserError(f"{path}: expected a complete passport, got one without {error}. Measure again") from error


def from_format_1(passport: dict[str, Any], numbers: dict[str, float]) -> dict[str, Any]:
    """A passport of format 1 with the fields of format 2, as far as names tell them."""
    method = passport["method"]
    directions = {key: direction for key in numbers if (direction := own_direction(key)) is not None}
    sampler = "" if method == "images" else own_sampler(method)
    return passport | {"sampler": sampler, "directions": directions}
