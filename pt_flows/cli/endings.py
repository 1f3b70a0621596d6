"""What the command line says when a run ends: how far it came, why it went no further, and how to continue."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, Timer


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
