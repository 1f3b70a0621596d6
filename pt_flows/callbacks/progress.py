"""A progress bar in iterations, with the remaining time."""

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from pt_flows.callbacks.schedule import as_method
from pt_flows.progress import is_quiet

SECONDS_BETWEEN_LINES = 30.0
SECONDS_TO_JUDGE, LONG = 20.0, 3600.0


class Progress(ProgressBar):
    """Shows a bar in a terminal, and otherwise prints a line every half minute.

    Losses and evaluations are those that were last logged, so that showing them never waits for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm[Any] | None = None
        self._start = (0, 0.0)
        self._last_line = 0.0
        self._judged = False
        self._enabled = not is_quiet()

    def disable(self) -> None:
        """Hide the bar. The Trainer calls this on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar."""
        self._enabled = not is_quiet()

    @property
    def is_enabled(self) -> bool:
        """Whether the bar is shown. Lightning asks before a module prints."""
        return self._enabled

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin at the first iteration of this run."""
        iteration = as_method(pl_module).iteration
        self._start, self._last_line = (iteration, time.monotonic()), time.monotonic()
        if self._enabled and sys.stderr.isatty():
            total = trainer.max_steps if trainer.max_steps > 0 else None
            self._bar = tqdm(total=total, initial=iteration, unit="it", dynamic_ncols=True, smoothing=0.05)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar, or print a line when it is due."""
        if not self._enabled:
            return
        iteration = as_method(pl_module).iteration
        self.judge(trainer, iteration)
        if self._bar is not None:
            self._bar.set_postfix_str(self.numbers(trainer), refresh=False)
            self._bar.update(iteration - self._bar.n)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.line(trainer, iteration)

    def judge(self, trainer: L.Trainer, iteration: int) -> None:
        """Print a note, once and early, if a CPU will need hours for the run."""
        if self._judged or time.monotonic() - self._start[1] < SECONDS_TO_JUDGE:
            return
        self._judged = True
        left = (trainer.max_steps - iteration) / self.rate(iteration)
        if trainer.strategy.root_device.type == "cpu" and left > LONG:
            tqdm.write(
                f"note: {trainer.max_steps} iterations will take about {left / LONG:.0f} hours on this CPU. Use a "
                "recipe whose name ends in _small, or lower trainer.max_steps",
                file=sys.stderr,
            )

    def rate(self, iteration: int) -> float:
        """Iterations per second since the start."""
        start, since = self._start
        return max(iteration - start, 1) / (time.monotonic() - since)

    def line(self, trainer: L.Trainer, iteration: int) -> None:
        """Print a line for a log file."""
        rate, total, left = self.rate(iteration), "", ""
        if trainer.max_steps > 0:
            total = f" of {trainer.max_steps}"
            left = f", {tqdm.format_interval((trainer.max_steps - iteration) / rate)} left"
        text = f"iteration {iteration}{total}  {self.numbers(trainer)}  {rate:.3g} it/s{left}"
        print(text, file=sys.stderr, flush=True)

    def numbers(self, trainer: L.Trainer) -> str:
        """Return the losses and evaluations that were last logged, as text."""
        shown = {
            key.split("/", 1)[1]: float(value)
            for key, value in trainer.callback_metrics.items()
            if key.startswith(("train/loss", "eval/")) and not key.endswith(("_floor", "_of", "_low", "_high"))
        }
        return " ".join(f"{name} {value:.4g}" for name, value in shown.items())

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete the bar."""
        if self._bar is not None:
            self._bar.update(as_method(pl_module).iteration - self._bar.n)
            self._bar.close()
            self._bar = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that it does not overwrite the message."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        if self._enabled:
            tqdm.write(" ".join(str(a) for a in args))
