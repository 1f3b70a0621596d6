"""Commands of pt-flows in child processes, as many side by side as the machine has places."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pt_flows.errors import UserError
from pt_flows.runs.signals import TIED
from pt_flows.studies.board import Board
from pt_flows.studies.recipes import Recipe

LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT", "JSM_NAMESPACE_RANK",
             "WANDB_RUN_ID")  # fmt: skip
"""Environment variables with which launchers tell one process its place or its run."""
STOPPED, KILLED = (129, 130, 138, 143), (137, -9)
"""Exit codes of jobs that were asked to stop, and of those that were killed."""
SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_TRIES = 0.2, 2.0


@dataclass
class Job:
    """A command, and what happens while it runs.

    Attributes:
        name: Its name in messages.
        words: Arguments of pt-flows.
        log: File that its output is appended to.
        kind: Jobs of one kind need equally long for a unit of work.
        work: Amount of work, such as iterations.
        done: Returns the work done so far.
        text: Returns a few words about its state.
        watch: Called about every second while it runs, with a function that stops it as SIGTERM does.
        ended: Called with its exit code.
    """

    name: str
    words: Sequence[str]
    log: Path
    kind: str = ""
    work: float = 1.0
    done: Callable[[], float] = lambda: 0.0
    text: Callable[[], str] = lambda: ""
    watch: Callable[[Callable[[], None]], None] = lambda stop: None
    ended: Callable[[int], None] = lambda code: None


Slot = dict[str, str]
"""Environment variables of one place to run: a core with one thread, or some GPUs."""


@dataclass
class Child:
    """A job that runs.

    Attributes:
        job: The job.
        process: Its process.
        slot: Its place.
        since: Start, by the monotonic clock.
    """

    job: Job
    process: "subprocess.Popen[bytes]"
    slot: Slot
    since: float = field(default_factory=time.monotonic)

    def stop(self) -> None:
        """Ask the process to save and to stop."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)


def slots_of(recipes: Sequence[Recipe], jobs: int | None = None) -> list[Slot]:
    """Return the places of this machine for runs of some recipes.

    A run on a CPU has one thread for each of its processes. A run on GPUs has them alone.

    Args:
        recipes: The recipes, which need one kind of device.
        jobs: The number of runs side by side; by default as many as there are cores or GPUs.

    Raises:
        UserError: A run needs more GPUs than there are, or the recipes need several kinds of devices.
    """
    kinds = {recipe.accelerator for recipe in recipes}
    if len(kinds) > 1:
        got = " and ".join(sorted(kinds))
        raise UserError(f"trainer.accelerator: expected one kind of device for all runs, got {got}. Set it to cpu")
    needed = max(recipe.num_devices for recipe in recipes)
    if kinds == {"cuda"}:
        gpus = visible_gpus(recipes[0].gpus)
        if needed > len(gpus):
            raise UserError(f"trainer.devices: expected at most {len(gpus)} GPUs, as in this machine, got {needed}")
        parts = [gpus[i : i + needed] for i in range(0, len(gpus) - needed + 1, needed)]
        places = [{"CUDA_VISIBLE_DEVICES": ",".join(part)} for part in parts]
        return [places[i % len(places)] for i in range(jobs or len(places))]
    num = jobs or (1 if kinds == {"mps"} else max(1, cores() // needed))
    return [{"OMP_NUM_THREADS": "1"} for _ in range(num)]


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus(num: int) -> list[str]:
    """Return the names of the GPUs of this process."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return given.split(",") if given else [str(i) for i in range(num)]


def run_jobs(jobs: Iterator[Job | None], slots: Sequence[Slot], board: Board) -> None:
    """Run jobs until there are no more. Each starts when a place is free.

    At Ctrl-C, SIGTERM or SIGHUP all jobs save and stop; the third signal ends them at once. If this process dies, they
    save and stop, too.

    Args:
        jobs: The jobs, each taken when a place is free. None means that no job can start now.
        slots: The places.
        board: Shows the state of the work.

    Raises:
        KeyboardInterrupt: The work was interrupted.
    """
    free, running = list(slots), list[Child]()
    exhausted, next_try = False, 0.0
    try:
        while running or not exhausted:
            while free and not exhausted and time.monotonic() >= next_try:
                try:
                    job = next(jobs)
                except StopIteration:
                    exhausted = True
                    break
                if job is None:
                    next_try = time.monotonic() + SECONDS_BETWEEN_TRIES
                else:
                    running.append(start(job, free.pop(0)))
            for child in [child for child in running if child.process.poll() is not None]:
                running.remove(child)
                free.append(child.slot)
                end(child, board)
            for child in running:
                child.job.watch(child.stop)
            board.show([(child.job, child.since) for child in running])
            time.sleep(SECONDS_BETWEEN_LOOKS)
    except KeyboardInterrupt as stop:
        stop.add_note("to continue, run the same command again")
        board.say(f"stopping: {len(running)} {'run is' if len(running) == 1 else 'runs are'} saving")
        stop_all(running)
        for child in running:
            end(child, board)
        raise
    except BaseException:
        stop_all(running)
        raise
    finally:
        board.close()


def start(job: Job, slot: Slot) -> Child:
    """Start a job in a place. Its process is tied to this one by its standard input."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pt_flows", *job.words]
    environment = environment_in(slot)
    with job.log.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    return Child(job, process, slot)


def environment_in(slot: Slot) -> dict[str, str]:
    """Return the environment of a job: it is a run of one task, also if a launcher started this process as one of many.

    Args:
        slot: Its place.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") and name not in LAUNCHERS}
    return {**own, **slot, TIED: "1"}


def end(child: Child, board: Board) -> None:
    """Tell the board and the job that its process has ended."""
    code = child.process.returncode
    if child.process.stdin:
        child.process.stdin.close()
    board.ended(child.job, time.monotonic() - child.since)
    child.job.ended(code)


def stop_all(running: Sequence[Child]) -> None:
    """Stop all jobs and wait until they have saved. Two more interruptions end them at once."""
    interruptions = 0
    for child in running:
        child.stop()
    while any(child.process.poll() is None for child in running):
        try:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        except KeyboardInterrupt:
            interruptions += 1
            if interruptions == 2:
                for child in running:
                    child.process.kill()


def last_lines(log: Path, num: int = 3) -> str:
    """Return the last lines of a log, for a message about a failure."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    errors = [line for line in lines if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else " / ".join(lines[-num:])
