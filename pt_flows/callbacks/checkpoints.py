"""Checkpoints that survive interruptions: atomic writes, the last two and the best, and a clean stop on Ctrl-C."""

import contextlib
import io
import math
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
    """Writes to a temporary file and renames it, so that a kill or a full disk leaves the previous checkpoint."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint atomically.

        Raises:
            OSError: The disk is full or the folder is not writable. The previous file is unchanged.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with replacing(Path(path)) as partial, partial.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())


class Checkpoints(EveryIterations):
    """Writes `checkpoints/last.ckpt` every N iterations and at the end, and `best.ckpt` when the first metric improves.

    `previous.ckpt` is the checkpoint before the last. A run continues from it if the last one is damaged.

    On Ctrl-C, SIGTERM, SIGHUP or SIGUSR1, training finishes the current block, saves and stops. A third signal stops it
    at once. A `fast_dev_run` saves nothing. An exception that ends training gets a note about the lost iterations.

    Args:
        every_n_iterations: Iterations between two writes of `last.ckpt`.
    """

    def __init__(self, every_n_iterations: CountOrZero = 1_000) -> None:
        super().__init__(every_n_iterations)
        self.best: float | None = None
        self.stopped_by: int | None = None
        self._signals: StopInOrder | None = None
        self._saved: tuple[int, float | None] = (-1, None)
        self._start, self._kept = 0, cast(int | None, None)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far, with which a resumed run compares."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value."""
        self.best = state_dict["best"]

    def folder(self, trainer: L.Trainer) -> Path:
        """Return the folder of the checkpoints."""
        return Path(trainer.default_root_dir) / "checkpoints"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Handle signals instead of Lightning, which restores all handlers at its end."""
        super().on_train_start(trainer, pl_module)
        module = as_method(pl_module)
        self._start = module.iteration
        self._kept = module.iteration if (self.folder(trainer) / "last.ckpt").is_file() else None
        self._signals = StopInOrder(lambda: self.at_risk(trainer, module.iteration))
        listen(self._signals)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is due; stop if a signal was received."""
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
        if module.iteration % module.log_interval:  # processes must agree, which costs a message
            return False
        return trainer.strategy.reduce_boolean_decision(received, all=False)

    def _stop(self, trainer: L.Trainer) -> None:
        """End the loop, whatever minimum was set."""
        loop = trainer.fit_loop
        loop.min_epochs = loop.epoch_loop.min_steps = 0
        trainer.should_stop = True
        if self.stopped_by is None and as_method(trainer.lightning_module).iteration != trainer.max_steps:
            received = self._signals.received if self._signals else None
            self.stopped_by = received or signal.SIGTERM  # another process received it
            trainer.state.status = TrainerStatus.INTERRUPTED

    def save(self, trainer: L.Trainer, iteration: int) -> None:
        """Write `last.ckpt`, at most once per state."""
        if (iteration, self.best) == self._saved or cast(Any, trainer).fast_dev_run:
            return
        last = self.folder(trainer) / "last.ckpt"
        if trainer.is_global_zero and last.is_file():
            copy_atomically(last, last.with_name("previous.ckpt"))
        trainer.save_checkpoint(last)
        self._saved, self._kept = (iteration, self.best), iteration

    def at_risk(self, trainer: L.Trainer, iteration: int) -> str:
        """Return the iterations that are lost if the run ends now, and the option that continues it."""
        since = self._start if self._kept is None else self._kept
        lost = f"iterations {since + 1} to {iteration} are lost"
        lost = lost if iteration > since else "no finished iteration is lost"
        if self._kept is None:
            return f"{lost}; no checkpoint was written"
        return f"{lost}; --ckpt_path {trainer.default_root_dir} continues from iteration {self._kept}"

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Add a note about the lost iterations to the exception."""
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
        if math.isnan(value):
            raise DivergenceError(f"{key}: expected a number, got nan at iteration {iteration}")
        better = self.best is None or (value > self.best if higher_is_better else value < self.best)
        if better:
            self.best = value
        return better


def copy_atomically(source: Path, target: Path) -> None:
    """Give a file a second name by a hard link or, on file systems without links, by an atomic copy."""
    with replacing(target) as partial:
        with contextlib.suppress(OSError):  # a file system without hard links
            os.link(source, partial)
        if not partial.exists():
            shutil.copyfile(source, partial)
