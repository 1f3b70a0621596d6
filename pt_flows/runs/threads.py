"""The number of threads of a run on a CPU, which shares the cores with other runs."""

import json
import os
import re
from pathlib import Path

import torch

from pt_flows.errors import UserError
from pt_flows.runs.folder import say


def share_cores(folder: Path) -> None:
    """Take a fair share of the cores where other runs train, unless $OMP_NUM_THREADS says how many.

    Threads of two runs that compete for cores wait for each other, so that both runs take several times as long. A
    continued run keeps its number of threads, because sums may be rounded in another order with another number.

    Args:
        folder: The run folder. It exists if the run continues.
    """
    if threads_are_given():
        return
    cores = torch.get_num_threads()
    try:
        kept = int(json.loads((folder / "environment.json").read_text())["threads"])
    except (OSError, ValueError, KeyError, TypeError):
        kept = 0
    if 0 < kept <= cores:
        torch.set_num_threads(kept)
    elif (others := len(other_runs())) and cores > 1:
        own = max(1, cores // (others + 1))
        torch.set_num_threads(own)
        runs = "1 other run trains" if others == 1 else f"{others} other runs train"
        advice = f"For equal shares set OMP_NUM_THREADS={own} for all runs"
        say(f"{runs} on this machine, so this one takes {own} of {cores} threads. {advice}")


def threads_are_given() -> bool:
    """Whether $OMP_NUM_THREADS says how many threads a process takes; not if it is empty.

    Raises:
        UserError: It is set to something else than whole numbers of at least 1.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").strip()
    if given and not re.fullmatch(r"\+?0*[1-9]\d*(\s*,\s*\+?0*[1-9]\d*)*", given):
        wanted = "expected a whole number of at least 1"
        raise UserError(f"OMP_NUM_THREADS: {wanted}, got {given!r}. Change or unset it")
    return bool(given)


def other_runs() -> set[int]:
    """Return the process numbers of other runs of `pt-flows fit` or `fork` on this machine; none without /proc.

    A parent, which makes trials of speed, waits and does not count.
    """
    found = set[int]()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # the process has ended, or is another user's
            continue
        if trains(command):
            found.add(int(file.parent.name))
    return found - {os.getpid(), os.getppid()}


def trains(command: list[str]) -> bool:
    """Whether a command line is that of a training.

    Example:
        >>> trains([".venv/bin/python", ".venv/bin/pt-flows", "fit", "--config", "toy2d/w1_fe"])
        True
        >>> trains(["python", "-m", "pt_flows", "fit", "--seeds", "0..4"]), trains(["vim", "pt-flows", "notes"])
        (False, False)
    """
    for program, word in zip(command, command[1:], strict=False):
        if program.endswith(("pt-flows", "pt_flows")) and word in ("fit", "fork"):
            return not any(flag.startswith("--seeds") for flag in command)
    return False
