"""All measured numbers of a run, as flat values for the summary of its W&B run."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pt_flows.errors import UserError
from pt_flows.evaluation.passport import OWN_SAMPLERS, Passport, checked_record
from pt_flows.runs.folder import say
from pt_flows.runs.part import add_to_summary


def publish(folder: Path) -> None:
    """Add all numbers of a run folder to the summary of its W&B run, if it has one.

    `evaluations` has the records with their passports, which `pt-flows compare` reads. `evaluate/<key>` is a number at
    the last iteration at which it was measured, mean over sampling seeds.

    Args:
        folder: The run folder.
    """
    records = readable_records(folder)
    values = {"evaluations": json.dumps(records)} | flat_numbers([checked_record(record, "") for record in records])
    if sentence := add_to_summary(folder, values):
        say(sentence)


def readable_records(folder: Path) -> list[dict[str, Any]]:
    """Return the records in `evaluations/` as plain data, without damaged ones."""
    found = []
    for path in sorted((folder / "evaluations").glob("*.json")):
        try:
            record = json.loads(path.read_text())
            checked_record(record, str(path))
        except (UserError, OSError, ValueError):
            continue
        found.append(record)
    return found


def flat_numbers(records: Sequence[tuple[Passport, dict[str, float]]]) -> dict[str, float]:
    """Return numbers by name. Names tell the weights and the sampler apart if they are no default ones."""
    values: dict[str, tuple[int, list[float]]] = {}
    for passport, numbers in records:
        for key, value in numbers.items():
            name = flat_name(key, passport)
            iteration, known = values.get(name, (-1, []))
            if passport.iteration > iteration:
                values[name] = passport.iteration, [value]
            elif passport.iteration == iteration:
                known.append(value)
    return {name: fmean(known) for name, (_, known) in values.items()}


def flat_name(key: str, passport: Passport) -> str:
    """Return the name of a number in the summary, such as evaluate/w2_512 or evaluate/w2_512/raw-REPGAN_num_steps=9."""
    own = passport.sampler in (*OWN_SAMPLERS, "")
    sampler = "" if own else re.sub(r"[^\w.=]+", "_", passport.sampler).strip("_")
    others = [passport.weights if passport.weights != "ema" else "", sampler]
    return "/".join(["evaluate", key, *filter(None, ["-".join(filter(None, others))])])
