"""One sentence and an exit code for each way in which a command can fail."""

import errno
import re
import sys
from collections.abc import Iterator, Sequence

from pt_flows.cli.errors import missing_package
from pt_flows.errors import DivergenceError, UserError
from pt_flows.runs.signals import signal_of

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class CommandLineError(SystemExit):
    """What the parser has to say, on its way out; not an exception that the parser would take for one of its own."""


def told(error: BaseException, words: Sequence[str]) -> tuple[str, int] | None:
    """The sentence for the user and the exit code; None if the fault is this program's.

    Args:
        error: What ended the command.
        words: The command line.
    """
    if isinstance(error, CommandLineError):
        return str(error.code), 2
    if isinstance(error, KeyboardInterrupt):
        return interrupted(error)
    if isinstance(error, SystemExit):  # Lightning leaves without a word after Ctrl-C
        return interrupted(error.__context__) if isinstance(error.__context__, KeyboardInterrupt) else None
    if isinstance(error, DivergenceError):
        return with_notes(str(error), error), 1
    if isinstance(error, OSError):
        text = cannot_write(error, next(iter(words), ""))
        return None if text is None else (text, 1)
    if type(error).__name__ == "MisconfigurationException":  # Lightning's, which may not be imported
        return trainer_says(str(error)), 2
    text = users_mistake(error, words)
    return None if text is None else (text, 2)


def interrupted(error: KeyboardInterrupt) -> tuple[str, int]:
    """The sentence on a command that was stopped at once, and its exit code."""
    number = signal_of(error)
    return with_notes(f"stopped by {number.name}", error), 128 + number


def users_mistake(error: BaseException, words: Sequence[str]) -> str | None:
    """The sentence for a mistake that is the cause of an exception; None if there is none."""
    for cause in causes(error):
        if isinstance(cause, UserError):
            return str(cause)
        if "Error(s) in loading state_dict" in str(cause):
            first = str(cause).splitlines()[1].strip()
            return (
                f"the checkpoint does not fit the networks of this configuration ({first}); use the config.yaml of its "
                "run folder, or networks of the same size"
            )
        if text := missing_package(str(cause), words):
            return text
        if type(cause).__module__.startswith("wandb."):
            return f"W&B: {cause} Or run with --run.wandb offline"
    return None


def mistake_in(error: BaseException) -> UserError | None:
    """The mistake of the user that is the cause of an exception, if one is."""
    return next((cause for cause in causes(error) if isinstance(cause, UserError)), None)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def cannot_write(error: OSError, command: str) -> str | None:
    """The sentence on a place that took no file; None where the error is of another kind.

    Args:
        error: What the system said.
        command: The command of `pt-flows` that ran.
    """
    if error.errno not in FULL + FORBIDDEN:
        return None
    file = error.filename or "a file"
    if error.errno in FULL:
        text = f"cannot write {file} ({error.strerror}); make room and run the same command again"
    else:
        option = "--run.root" if command in ("fit", "fork") else "--out"
        text = f"no access to {file} ({error.strerror}); give the permission, or another place with {option}"
    return with_notes(text, error)


def trainer_says(message: str) -> str:
    """Lightning's complaint about a setting of the Trainer, led by the key that it is about."""
    text = " ".join(message.split())
    match = re.search(r"`(Trainer|Timer)\((\w+)=(.+?)\)`", text)
    if match is None:
        return text if "progress bar" not in text else f"trainer.callbacks: {text}"
    if match[1] == "Timer":
        return f"trainer.max_time: expected days:hours:minutes:seconds such as 00:02:00:00, got {match[3]}"
    return f"trainer.{match[2]}: {match[3]} cannot be used. Lightning says: {text}"


def with_notes(text: str, error: BaseException) -> str:
    """The sentence, with what training had to add to an exception."""
    return ". ".join([text, *(note[:1].upper() + note[1:] for note in getattr(error, "__notes__", []))])


def fail(text: str, code: int) -> int:
    """Print an error and give its exit code."""
    print(f"error: {text}", file=sys.stderr, flush=True)
    return code
