"""Measurement of finished runs by `pt-flows evaluate`, each once."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from pt_flows.errors import UserError
from pt_flows.files import replacing
from pt_flows.runs.settings import digest
from pt_flows.studies.board import Board
from pt_flows.studies.pool import Job, Slot, last_lines, run_jobs
from pt_flows.studies.sharing import shared_jobs
from pt_flows.studies.study_file import Measurement
from pt_flows.studies.train import file_name


@dataclass(frozen=True)
class Wanted:
    """A measurement of a finished run.

    Attributes:
        name: Its name in messages and file names.
        run: The run folder.
        words: Arguments of pt-flows.
    """

    name: str
    run: Path
    words: tuple[str, ...]

    def note(self, folder: Path) -> Path:
        """The file with the paths of its records, which exists if it is done."""
        return folder / "measured" / f"{self.run.name}-{digest(self.words)}.json"


def wanted(name: str, run: Path, how: Measurement, sampler: Any, device: str) -> Wanted:
    """Return the measurement of a run.

    Args:
        name: Its name.
        run: The run folder.
        how: Numbers of samples and the split.
        sampler: The sampler, as in the study file; None for the method's own one.
        device: Device of the arm.
    """
    words = ["evaluate", str(run / "checkpoints" / "last.ckpt"), "--n", str(how.n), "--seeds", str(how.seeds)]
    words += [*(["--split", how.split] if how.split else []), *(["--device", "cpu"] if device == "cpu" else [])]
    if sampler is not None:
        words += ["--sampler", sampler if isinstance(sampler, str) else json.dumps(sampler)]
    return Wanted(name, run, tuple(words))


def measure_all(all_wanted: Sequence[Wanted], folder: Path, slots: Sequence[Slot]) -> dict[str, Path]:
    """Do the measurements that are missing. Several processes may do the same with the same folder.

    Args:
        all_wanted: The measurements.
        folder: Folder of the notes, the claims and the logs.
        slots: Places to run.

    Returns:
        The first record of every measurement, by its name.

    Raises:
        UserError: A measurement failed.
    """
    todo = [one for one in all_wanted if not one.note(folder).is_file()]
    if todo:
        board = Board(f"{len(todo)} measurements", [("", 1.0)] * len(todo), len(slots))
        board.say(board.title)
        problems: list[str] = []
        lock = lambda one: folder / "locks" / f"{file_name(one.name)}-measured.lock"
        job = partial(job_of, folder=folder, board=board, problems=problems)
        state = lambda one: "done" if one.note(folder).is_file() else "open"
        run_jobs(shared_jobs(todo, lock, state, job), slots, board)
        if problems:
            more = f" ({len(problems) - 1} more like this)" if len(problems) > 1 else ""
            raise UserError(f"{problems[0]}{more}. Correct it, and repeat the command")
    return {one.name: Path(json.loads(one.note(folder).read_text())["records"][0]) for one in all_wanted}


def job_of(one: Wanted, claim: FileLock, folder: Path, board: Board, problems: list[str]) -> Job:
    """Return the job of a measurement, which releases the claim at its end."""
    log = folder / "logs" / f"{file_name(one.name)}-measured.log"
    begin = log.stat().st_size if log.is_file() else 0
    ended = partial(conclude, one, one.note(folder), claim, log, begin, board, problems)
    return Job(f"{one.name}, measuring", one.words, log, ended=ended)


def conclude(
    one: Wanted, note: Path, claim: FileLock, log: Path, begin: int, board: Board, problems: list[str], code: int
) -> None:
    """Note the records of a measurement that has ended."""
    with log.open("rb") as file:
        file.seek(begin)
        records = re.findall(r"^wrote (.+\.json)$", file.read().decode(errors="replace"), re.M)
    if code == 0 and records:
        with replacing(note) as partial_file:
            partial_file.write_text(json.dumps({"records": records}) + "\n")
        board.say(f"{one.name}: measured")
    else:
        problems.append(f"{one.name}: {last_lines(log) or f'pt-flows evaluate ended with exit code {code}'}")
    claim.release()
