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
    """Return numbers by name. Names tell the weights and the sampler apart if they are no default ones.

    Of several protocols at one iteration the one with most samples counts, and among these the newest.
    """
    values: dict[str, dict[tuple[int, int, str, str], dict[int, float]]] = {}
    for passport, numbers in sorted(records, key=lambda record: record[0].measured):
        for key, value in numbers.items():
            how = passport.iteration, passport.num_samples, passport.measured, json.dumps(passport.protocol(key))
            by_protocol = values.setdefault(flat_name(key, passport), {})
            same = next((known for known in by_protocol if (known[0], known[3]) == (how[0], how[3])), how)
            by_protocol.setdefault(same, {})[passport.sampling_seed] = value
    return {name: fmean(found[max(found)].values()) for name, found in values.items()}


def flat_name(key: str, passport: Passport) -> str:
    """Return the name of a number in the summary, such as evaluate/w2_512 or evaluate/w2_512/raw-REPGAN_num_steps=9."""
    own = passport.sampler in (*OWN_SAMPLERS, "")
    sampler = "" if own else re.sub(r"[^\w.=]+", "_", passport.sampler).strip("_")
    others = [passport.weights if passport.weights != "ema" else "", sampler]
    return "/".join(["evaluate", key, *filter(None, ["-".join(filter(None, others))])])
