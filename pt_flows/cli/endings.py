"""What the command line says when a run ends: how far it came, why it went no further, and how to continue."""

import errno
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, Timer

from pt_flows.callbacks.signals import signal_of

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def ending(trainer: L.Trainer, iteration: int, folder: Path) -> str:
    """One sentence on a run that was not stopped by a signal, and for one that ended early how to continue.

    Args:
        trainer: After the fit.
        iteration: How far it came.
        folder: The run folder.
    """
    if iteration >= trainer.max_steps:
        return f"done: {iteration} iterations; metrics.csv, pictures/ and checkpoints/ are in {folder}"
    why, instead = reason(trainer)
    last = folder / "checkpoints" / "last.ckpt"
    stopped = f"stopped after {iteration} of {trainer.max_steps} iterations: {why}"
    if not last.is_file():
        return f"{stopped}; nothing was trained and nothing is saved"
    return f"{stopped}; its state is in {last}. Continue with the same command, --ckpt_path {folder} and {instead}"


def reason(trainer: L.Trainer) -> tuple[str, str]:
    """Why a run ended before its last iteration, and what lets it go on."""
    callbacks: list[Any] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    for callback in callbacks:
        if isinstance(callback, Timer) and (callback.time_remaining() or 1) <= 0:
            spent = timedelta(seconds=round(callback.time_elapsed()))
            return f"max_time is over ({spent} in all parts of the run)", "a longer --trainer.max_time"
    for callback in callbacks:
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            text = callback.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
            return f"EarlyStopping: {text.rstrip('.')}", "without EarlyStopping"
    if isinstance(trainer.max_epochs, int) and trainer.current_epoch >= trainer.max_epochs >= 0:
        return f"max_epochs {trainer.max_epochs} are over", "a larger --trainer.max_epochs"
    return "a callback asked for it", "without that callback"


def interrupted(error: KeyboardInterrupt) -> tuple[str, int]:
    """What to say of a run that was stopped at once, and its exit code."""
    number = signal_of(error)
    return with_notes(f"stopped by {number.name}", error), 128 + number


def can_not_write(error: OSError, command: str) -> str | None:
    """The sentence on a place that took no file; None where the error is of another kind.

    Args:
        error: What the system said.
        command: The command of `pt-flows` that ran.
    """
    if error.errno not in FULL + FORBIDDEN:
        return None
    file = error.filename or "a file"
    if error.errno in FULL:
        text = f"can not write {file} ({error.strerror}); make room and run the same command again"
    else:
        option = "--run.root" if command in ("fit", "fork") else "--out"
        text = f"no access to {file} ({error.strerror}); give the permission, or another place with {option}"
    return with_notes(text, error)


def with_notes(text: str, error: BaseException) -> str:
    """The sentence, with what training had to add to an exception."""
    return ". ".join([text, *(note[:1].upper() + note[1:] for note in getattr(error, "__notes__", []))])
