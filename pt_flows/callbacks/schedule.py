"""The base of callbacks that act every N iterations."""

import lightning as L

from pt_flows.bounds import CountOrZero
from pt_flows.construction import Constructed
from pt_flows.errors import UserError
from pt_flows.loop.method import Method


class EveryIterations(Constructed, L.Callback):
    """Base of callbacks that act every N iterations and after the last one.

    If a block of iterations passes a multiple of N, the callback acts once, at the end of the block. A subclass
    overrides `on_train_batch_end` and asks `due`. After a signal it does not act, because the process may have only
    seconds to save the run.

    Args:
        every_n_iterations: N; 0 acts after the last iteration only.
    """

    def __init__(self, every_n_iterations: CountOrZero) -> None:
        self.every_n_iterations = every_n_iterations
        self._seen = self._acted = 0
        self.ends = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Skip the iterations before a resume."""
        self._seen = self._acted = as_method(pl_module).iteration
        self.ends = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Act after the last iteration of a run that ended early."""
        if not trainer.interrupted:
            self.ends = True
            self.on_train_batch_end(trainer, pl_module, None, None, -1)

    def due(self, trainer: L.Trainer, pl_module: Method) -> bool:
        """Whether the run passed a multiple of N since the last call, or ends here."""
        before, self._seen = self._seen, pl_module.iteration
        n = self.every_n_iterations
        passed = n > 0 and self._seen // n > before // n
        due = (passed or self.ends or self._seen == trainer.max_steps) and self._seen != self._acted
        if due:
            self._acted = self._seen
        return due


def as_method(pl_module: L.LightningModule) -> Method:
    """Return the module as a method of this package.

    Raises:
        UserError: It is another LightningModule.
    """
    if not isinstance(pl_module, Method):
        name = type(pl_module).__name__
        raise UserError(f"{name}: expected a pt_flows.Method, got another LightningModule. Derive it from Method")
    return pl_module
