"""Checkpoints that survive: written whole or not at all, the last two and the best, and a clean stop on Ctrl-C."""

import contextlib
import io
import os
import shutil
import signal
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerStatus

from pt_flows.bounds import CountOrZero
from pt_flows.callbacks.evaluate import Evaluate
from pt_flows.callbacks.schedule import EveryIterations, as_method
from pt_flows.errors import DivergenceError
from pt_flows.files import replacing
from pt_flows.loop.method import Method
from pt_flows.runs.signals import StopInOrder, listen


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside the target and rename, so that a kill or a full disk leaves the file that was there before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint whole or not at all.

        Raises:
            OSError: The disk is full or the folder cannot be written; the previous file is untouched.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with replacing(Path(path)) as partial, partial.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())


class Checkpoints(EveryIterations):
    """`checkpoints/last.ckpt` every N iterations and at every end, `best.ckpt` whenever the first metric improves.

    `previous.ckpt` is the one before the last, which a run goes on from if a disk has damaged the last.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 finish the block at hand, save, and stop; a third signal stops at once. A
    `fast_dev_run` saves nothing. An exception that ends training gets a note of what is kept.

    Args:
        every_n_iterations: How often `last.ckpt` is written.
    """

    def __init__(self, every_n_iterations: CountOrZero = 1_000) -> None:
        super().__init__(every_n_iterations)
        self.best: float | None = None
        self.stopped_by: int | None = None
        self._signals: StopInOrder | None = None
        self._saved: tuple[int, float | None] = (-1, None)
        self._start, self._kept = 0, cast(int | None, None)

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
        """Listen for signals in place of Lightning, which gives all of them back when it is done."""
        super().on_train_start(trainer, pl_module)
        module = as_method(pl_module)
        self._start = module.iteration
        self._kept = module.iteration if (self.folder(trainer) / "last.ckpt").is_file() else None
        self._signals = StopInOrder(lambda: self.at_risk(trainer, module.iteration))
        listen(self._signals)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due; stop where a signal asked for it."""
        module = as_method(pl_module)
        improved = self._improved(trainer, module.iteration)
        stop = self._stop_asked(trainer, module)
        if self.due(trainer, module) or improved or stop:
            self.save(trainer, module.iteration)
        if improved and trainer.is_global_zero and not cast(Any, trainer).fast_dev_run:
            copy_atomically(self.folder(trainer) / "last.ckpt", self.folder(trainer) / "best.ckpt")
        if stop:
            self._stop(trainer)

    def _stop_asked(self, trainer: L.Trainer, module: Method) -> bool:
        received = self._signals is not None and self._signals.received is not None
        if trainer.world_size == 1:
            return received
        if module.iteration % module.log_interval:  # ranks must agree, and agreeing costs a message
            return False
        return trainer.strategy.reduce_boolean_decision(received, all=False)

    def _stop(self, trainer: L.Trainer) -> None:
        """End the loop whatever it was to do at the least."""
        loop = trainer.fit_loop
        loop.min_epochs = loop.epoch_loop.min_steps = 0
        trainer.should_stop = True
        if self.stopped_by is None and as_method(trainer.lightning_module).iteration != trainer.max_steps:
            received = self._signals.received if self._signals else None
            self.stopped_by = received or signal.SIGTERM  # another rank's
            trainer.state.status = TrainerStatus.INTERRUPTED

    def save(self, trainer: L.Trainer, iteration: int) -> None:
        """Write `last.ckpt`, once per state at most."""
        if (iteration, self.best) == self._saved or cast(Any, trainer).fast_dev_run:
            return
        last = self.folder(trainer) / "last.ckpt"
        if trainer.is_global_zero and last.is_file():
            copy_atomically(last, last.with_name("previous.ckpt"))
        trainer.save_checkpoint(last)
        self._saved, self._kept = (iteration, self.best), iteration

    def at_risk(self, trainer: L.Trainer, iteration: int) -> str:
        """What is lost when the run ends now, and how to continue from what is not."""
        since = self._start if self._kept is None else self._kept
        lost = (
            f"iterations {since + 1} to {iteration} are lost" if iteration > since else "no finished iteration is lost"
        )
        if self._kept is None:
            return f"{lost}; no checkpoint was written"
        return f"{lost}; --ckpt_path {trainer.default_root_dir} continues from iteration {self._kept}"

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Note on the exception what is kept."""
        if self._signals is not None:
            exception.add_note(self.at_risk(trainer, as_method(pl_module).iteration))
        elif isinstance(exception, KeyboardInterrupt):
            exception.add_note("nothing was trained")

    def _improved(self, trainer: L.Trainer, iteration: int) -> bool:
        evaluate = next((c for c in cast(Any, trainer).callbacks if isinstance(c, Evaluate)), None)
        if evaluate is None or evaluate.watched is None or evaluate.latest_iteration != iteration:
            return False
        key, higher_is_better = evaluate.watched
        value = evaluate.latest.get(key)
        if value is None:  # a milestone between two points of the curve
            return False
        if value != value:
            raise DivergenceError(f"{key} is not a number at iteration {iteration}")
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
