"""One sentence and one exit code for each kind of failure."""

import errno
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pt_flows.cli.errors import missing_package
from pt_flows.errors import DivergenceError, UserError
from pt_flows.files import cache_folder
from pt_flows.runs.signals import signal_of

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
MISPLACED = (errno.ENOTDIR, errno.ENAMETOOLONG)


class CommandLineError(SystemExit):
    """A message of the parser. It is no ordinary exception, so that outer parsers do not catch it."""


def told(error: BaseException, words: Sequence[str]) -> tuple[str, int] | None:
    """Return the sentence for the user and the exit code; None if the error is a bug of this program.

    Args:
        error: The exception that ended the command.
        words: The command line.
    """
    if isinstance(error, CommandLineError):
        return str(error.code), 2
    if isinstance(error, KeyboardInterrupt):
        return interrupted(error)
    if isinstance(error, SystemExit):  # Lightning exits without a message after Ctrl-C
        return interrupted(error.__context__) if isinstance(error.__context__, KeyboardInterrupt) else None
    if isinstance(error, DivergenceError):
        return with_notes(str(error), error), 1
    if isinstance(error, OSError):
        text = cannot_write(error, next(iter(words), ""))
        return None if text is None else (text, 2 if error.errno in MISPLACED else 1)
    if type(error).__name__ == "MisconfigurationException":  # Lightning's; importing it here would be slow
        return trainer_says(str(error)), 2
    text = users_mistake(error, words)
    return None if text is None else (text, 2)


def interrupted(error: KeyboardInterrupt) -> tuple[str, int]:
    """Return the sentence about a command that was stopped at once, and its exit code."""
    number = signal_of(error)
    return with_notes(f"stopped by {number.name}", error), 128 + number


def users_mistake(error: BaseException, words: Sequence[str]) -> str | None:
    """Return the sentence for the user's mistake behind an exception; None if there is none."""
    for cause in causes(error):
        if isinstance(cause, UserError):
            return str(cause)
        if "Error(s) in loading state_dict" in str(cause):
            first = str(cause).splitlines()[1].strip()
            wanted = "checkpoint: expected the networks of this configuration"
            return f"{wanted}, got others ({first}). Use the config.yaml of its run folder"
        if text := missing_package(str(cause), words):
            return text
        if getattr(cause, "title", "") == "Settings":  # pydantic's, about a variable of the environment
            return wandb_setting(cause)
        if type(cause).__module__.startswith("wandb."):
            first = (str(cause).splitlines() or [type(cause).__name__])[0].rstrip(". ")
            trains = next(iter(words), "") in ("fit", "fork")
            return f"W&B: {first}. {'Or run with --run.wandb offline' if trains else 'Check the login and the server'}"
    return None


def wandb_setting(error: Any) -> str:
    """Return the sentence for a wrong setting of W&B, which often comes from the environment."""
    wrong = error.errors()[0]
    name, said = "WANDB_" + "_".join(map(str, wrong["loc"])).upper(), wrong["msg"].removeprefix("Value error, ")
    if name not in os.environ:
        return f"W&B: {said}"
    said = said.removeprefix("Input should be ").partition(",")[0].replace("a valid boolean", "true or false")
    return f"{name}: expected {said}, got {wrong['input']!r}. Change or unset this variable"


def mistake_in(error: BaseException) -> UserError | None:
    """Return the user's mistake behind an exception, if there is one."""
    return next((cause for cause in causes(error) if isinstance(cause, UserError)), None)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def cannot_write(error: OSError, command: str) -> str | None:
    """Return the sentence for a file that cannot be written; None if the error is of another kind.

    Args:
        error: The error of the operating system.
        command: The command of `pt-flows` that ran.
    """
    if error.errno not in FULL + FORBIDDEN + MISPLACED:
        return None
    file = error.filename or "a file"
    if error.errno in FULL:
        text = f"cannot write {file} ({error.strerror}). To continue, make room and run the same command again"
    else:
        option = "--run.root" if command in ("fit", "fork") else "--out"
        if Path(str(file)).absolute().is_relative_to(cache_folder().absolute()):
            option = "PT_FLOWS_CACHE"
        advice = f"Grant the permission, or choose another place with {option}"
        if error.errno in MISPLACED:
            advice = f"Check the path, or choose another with {option}"
        text = f"cannot access {file} ({error.strerror}). {advice}"
    return with_notes(text, error)


def trainer_says(message: str) -> str:
    """Return Lightning's message about a setting of the Trainer, with the key in front."""
    text = " ".join(message.split())
    match = re.search(r"`(Trainer|Timer)\((\w+)=(.+?)\)`", text)
    if match is None:
        return text if "progress bar" not in text else f"trainer.callbacks: {text}"
    if match[1] == "Timer":
        return f"trainer.max_time: expected days:hours:minutes:seconds such as 00:02:00:00, got {match[3]}"
    return f"trainer.{match[2]}: expected a value that Lightning supports, got {match[3]}. {text}"


def with_notes(text: str, error: BaseException) -> str:
    """Return the sentence with the notes that training added to an exception."""
    return ". ".join([text, *(note[:1].upper() + note[1:] for note in getattr(error, "__notes__", []))])


def fail(text: str, code: int) -> int:
    """Print an error and return its exit code."""
    print(f"error: {text}", file=sys.stderr, flush=True)
    return code
