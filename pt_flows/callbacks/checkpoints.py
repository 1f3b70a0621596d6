"""Checkpoints that survive: written whole or not at all, the last two and the best, and a clean stop on Ctrl-C."""

import contextlib
import io
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from pt_flows.callbacks.evaluate import Evaluate
from pt_flows.callbacks.schedule import EveryIterations, as_flow
from pt_flows.contracts import DivergenceError
from pt_flows.files import replacing
from pt_flows.methods.base import GenerativeModule


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside the target and rename, so that a kill or a full disk leaves the file that was there before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint whole or not at all.

        Raises:
            OSError: The disk is full or the folder can not be written; the previous file is untouched.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with replacing(Path(path)) as partial, partial.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())


class Checkpoints(EveryIterations):
    """`checkpoints/last.ckpt` every N iterations and at the end, `best.ckpt` whenever the first metric improves.

    `previous.ckpt` is the one before the last, which a run goes on from if a disk has damaged the last.

    Ctrl-C, SIGTERM and SIGUSR1 finish the block at hand, save, and stop; a second Ctrl-C stops at once.

    Args:
        every_n_iterations: How often `last.ckpt` is written.
    """

    def __init__(self, every_n_iterations: int = 1_000) -> None:
        super().__init__(every_n_iterations)
        self.best: float | None = None
        self.received: int | None = None
        self._saved = -1

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, so that a resumed run goes on comparing."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best value."""
        self.best = state_dict["best"]

    def folder(self, trainer: L.Trainer) -> Path:
        """Where the files are."""
        return Path(trainer.default_root_dir) / "checkpoints"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen for signals, after Lightning has set its own handlers; only the main thread may."""
        super().on_train_start(trainer, pl_module)
        if threading.current_thread() is not threading.main_thread():
            return
        self._handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
        for number in self._handlers:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: Any) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in getattr(self, "_handlers", {}).items():
            signal.signal(number, handler)
        self._handlers = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due; stop where a signal asked for it."""
        module = as_flow(pl_module)
        improved = self._improved(trainer, module.iteration)
        stop = self._stop_asked(trainer, module)
        if self.due(trainer, module) or improved or stop:
            self.save(trainer, module.iteration)
        if improved and trainer.is_global_zero:
            copy_atomically(self.folder(trainer) / "last.ckpt", self.folder(trainer) / "best.ckpt")
        if stop:
            trainer.should_stop = True

    def _stop_asked(self, trainer: L.Trainer, module: GenerativeModule) -> bool:
        if trainer.world_size == 1:
            return self.received is not None
        if module.iteration % module.log_interval:  # ranks must agree, and agreeing costs a message
            return False
        return trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)

    def save(self, trainer: L.Trainer, iteration: int) -> None:
        """Write `last.ckpt`, once per iteration at most."""
        if iteration != self._saved:
            last = self.folder(trainer) / "last.ckpt"
            if trainer.is_global_zero and last.is_file():
                copy_atomically(last, last.with_name("previous.ckpt"))
            trainer.save_checkpoint(last)
            self._saved = iteration

    def _improved(self, trainer: L.Trainer, iteration: int) -> bool:
        evaluate = next((c for c in cast(Any, trainer).callbacks if isinstance(c, Evaluate)), None)
        if evaluate is None or evaluate.watched is None or evaluate.latest_iteration != iteration:
            return False
        key, higher_is_better = evaluate.watched
        value = evaluate.latest.get(key)
        if value is None:  # a milestone between two points of the curve
            return False
        if value != value:
            raise DivergenceError(f"{key} is not a number at iteration {iteration}; the last checkpoint is from before")
        better = self.best is None or (value > self.best if higher_is_better else value < self.best)
        if better:
            self.best = value
        return better


def copy_atomically(source: Path, target: Path) -> None:
    """A second name for the file where the file system allows it, else a copy; never a half-written target."""
    with replacing(target) as partial:
        with contextlib.suppress(OSError):  # a file system without hard links
            os.link(source, partial)
        if not partial.exists():
            shutil.copyfile(source, partial)
