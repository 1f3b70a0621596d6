"""The last sentence about a run: its iterations, the reason of an early end, and the command that continues."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, Timer


def ending(trainer: L.Trainer, iteration: int, folder: Path) -> str:
    """Return a sentence about a run that no signal stopped, and how to continue it if it ended early.

    Args:
        trainer: The trainer after the fit.
        iteration: The last iteration.
        folder: The run folder.
    """
    if iteration >= trainer.max_steps:
        return f"done: {iteration} iterations; metrics.csv, pictures/ and checkpoints/ are in {folder}"
    why, change = reason(trainer)
    stopped = f"stopped after {iteration} of {trainer.max_steps} iterations: {why}"
    if not (folder / "checkpoints" / "last.ckpt").is_file():
        return f"{stopped}. Nothing was trained or saved"
    return f"{stopped}. To continue, run the same command with --ckpt_path {folder} and {change}"


def reason(trainer: L.Trainer) -> tuple[str, str]:
    """Return the reason of an early end, and the change of the command that lets the run continue."""
    callbacks: list[Any] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    for callback in callbacks:
        if isinstance(callback, Timer) and (callback.time_remaining() or 1) <= 0:
            spent = timedelta(seconds=round(callback.time_elapsed()))
            return f"max_time is over ({spent} over all parts of the run)", "a longer --trainer.max_time"
    for callback in callbacks:
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            text = callback.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
            return f"EarlyStopping: {text.rstrip('.')}", "without EarlyStopping"
    if isinstance(trainer.max_epochs, int) and trainer.current_epoch >= trainer.max_epochs >= 0:
        return f"max_epochs {trainer.max_epochs} are over", "a larger --trainer.max_epochs"
    return "a callback asked for it", "without that callback"
