"""Training of wanted runs, side by side and in several processes or machines that share a folder."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from filelock import FileLock

from pt_flows.errors import UserError
from pt_flows.evaluation.passport import own_direction
from pt_flows.studies.board import Board
from pt_flows.studies.pool import KILLED, STOPPED, Job, Slot, last_lines, run_jobs
from pt_flows.studies.sharing import State, shared_jobs
from pt_flows.studies.wanted import Found, Wanted, counted, found, last_row

ENDED = ("finished", "failed")


def train_all(
    wanted: Sequence[Wanted], folder: Path, slots: Sequence[Slot], title: str, kinds: Sequence[str] = (),
    check: Callable[[Path], None] = lambda folder: None,
) -> list[Found]:  # fmt: skip
    """Train the runs that are missing, and continue those that were interrupted.

    Finished runs and failed ones, which diverged, are not repeated. Other processes may do the same with the same
    folder: each run is claimed by one of them, and the call ends when all runs have ended.

    Args:
        wanted: The runs.
        folder: Folder of the claims and the logs.
        slots: Places to run.
        title: Name of the whole in messages.
        kinds: For each run a name that runs of equal speed share; by default all are equal.
        check: Called with the run folder of every run that finishes here. If it raises an error, all others stop.

    Returns:
        The states of the runs.

    Raises:
        UserError: A run could not start, or stopped for a reason other than divergence.
    """
    before = found(wanted)
    todo = [run for run, state in zip(wanted, before, strict=True) if state.state not in ENDED]
    if not todo:
        return before
    speeds = dict(zip((run.name for run in wanted), kinds or [""] * len(wanted), strict=True))
    left = {run.name: run.iterations - state.iteration for run, state in zip(wanted, before, strict=True)}
    board = Board(title, [(speeds[run.name], left[run.name]) for run in todo], len(slots))
    board.say(f"{title}: {counted(state.state for state in before)}; {min(len(slots), len(todo))} side by side")
    work = Work(folder, board, speeds, check)
    run_jobs(work.jobs(todo), slots, board)
    if work.problems:
        more = f" ({len(work.problems) - 1} more runs like this)" if len(work.problems) > 1 else ""
        raise UserError(f"{work.problems[0]}{more}. Correct it, and repeat the command")
    return found(wanted)


@dataclass
class Work:
    """The work of one process on a list of runs.

    Attributes:
        folder: Folder of the claims and the logs.
        board: Shows the state.
        speeds: A name for each run that runs of equal speed share.
        check: Called with the run folder of every finished run.
        problems: A sentence for every run that ended neither finished nor failed.
    """

    folder: Path
    board: Board
    speeds: dict[str, str]
    check: Callable[[Path], None] = lambda folder: None
    problems: list[str] = field(default_factory=list)

    def jobs(self, todo: Sequence[Wanted]) -> Iterator[Job | None]:
        """Yield a job for every run that no other process has claimed; None while all others are claimed."""
        lock = lambda run: self.folder / "locks" / f"{file_name(run.name)}.lock"
        return shared_jobs(todo, lock, self.state, self.job)

    @staticmethod
    def state(run: Wanted) -> State:
        """Return whether a run is still to be trained."""
        (known,) = found([run])
        return "done" if known.state in ENDED else "elsewhere" if known.state == "running" else "open"

    def job(self, run: Wanted, claim: FileLock) -> Job:
        """A job that releases the claim of the run at its end, and reports about it."""
        (state,) = found([run])
        log = self.folder / "logs" / f"{file_name(run.name)}.log"
        job = job_of(run, state, log, self.speeds[run.name])
        job.ended = partial(self.ended, run, log, claim)
        return job

    def ended(self, run: Wanted, log: Path, claim: FileLock, code: int) -> None:
        """Say how a run ended."""
        claim.release()
        (state,) = found([run])
        if state.state == "finished" and state.folder:
            self.board.say(f"{run.name}: done, {progress_text(state.folder, run.iterations)}")
            self.check(state.folder)
        elif state.state == "failed":
            self.board.say(f"{run.name}: failed. {state.reason}")
        elif code in (*STOPPED, *KILLED):
            self.board.say(f"{run.name}: stopped at iteration {state.iteration}")
            self.problems.append(f"{run.name}: stopped before its end, at iteration {state.iteration}")
        else:
            self.board.say(f"{run.name}: ended with exit code {code}; see {log}")
            self.problems.append(f"{run.name}: {last_lines(log)}")


def job_of(run: Wanted, state: Found, log: Path, kind: str = "") -> Job:
    """The command that trains or continues a run.

    Args:
        run: The run.
        state: Its state.
        log: File for its output.
        kind: Name that runs of equal speed share.
    """
    words = ["fit", *run.words]
    if state.state == "begun" and state.folder is not None:
        words += ["--ckpt_path", str(state.folder)]
    where = folder_finder(log, state.folder)
    start = state.iteration if state.state == "begun" else 0
    return Job(
        run.name, words, log, kind, run.iterations - start,
        done=lambda: iteration_in(where()) - start,
        text=lambda: progress_text(where(), run.iterations),
    )  # fmt: skip


def folder_finder(log: Path, folder: Path | None) -> Callable[[], Path | None]:
    """Return a function that returns the run folder, which a new run prints to its log when it begins.

    Args:
        log: The log, to which earlier runs may have written.
        folder: The run folder, if it exists already.
    """
    begin = log.stat().st_size if log.is_file() else 0

    def where() -> Path | None:
        nonlocal folder
        if folder is None and log.is_file():
            with log.open("rb") as file:
                file.seek(begin)
                match = re.search(r"^run folder: (.+)$", file.read().decode(errors="replace"), re.M)
            folder = Path(match[1].strip()) if match else None
        return folder

    return where


def iteration_in(folder: Path | None) -> int:
    """The last iteration in the log of a run; 0 without one."""
    return int(last_row(folder).get("iteration", 0)) if folder else 0


def progress_text(folder: Path | None, iterations: int) -> str:
    """The iteration of a run and its last measured number, as text."""
    row = last_row(folder) if folder else {}
    if "iteration" not in row:
        return "starting"
    text = f"iteration {row['iteration']:.0f} of {iterations}"
    keys = [key.removeprefix("eval/") for key in row if key.startswith("eval/")]
    keys = [key for key in keys if own_direction(key) != ""]
    keys.sort(key=lambda key: not key.startswith(("fd_", "w2_")))
    return f"{text}, {keys[0]} {row[f'eval/{keys[0]}']:.4g}" if keys else text


def file_name(name: str) -> str:
    """A name as part of a file name.

    Example:
        >>> file_name("W1-FE, K = 5, seed 0")
        'W1-FE_K_5_seed_0'
    """
    return re.sub(r"[^\w.-]+", "_", name).strip("_")
