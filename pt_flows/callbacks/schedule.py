"""When a callback acts, counted in iterations."""

import lightning as L

from pt_flows.contracts import UserError
from pt_flows.methods.base import GenerativeModule


class EveryIterations(L.Callback):
    """Base of callbacks that act every N iterations and after the last one.

    A block of iterations that passes a multiple of N acts once, at its end.

    Args:
        every_n_iterations: N; 0 acts after the last iteration only.
    """

    def __init__(self, every_n_iterations: int) -> None:
        if every_n_iterations < 0:
            raise UserError(f"every_n_iterations must be 0 or more, got {every_n_iterations}")
        self.every_n_iterations = every_n_iterations
        self._seen = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do not act again on what happened before a resume."""
        self._seen = as_flow(pl_module).iteration

    def due(self, trainer: L.Trainer, pl_module: GenerativeModule) -> bool:
        """Whether a multiple of N was passed since the last call, or the run ends here."""
        before, self._seen = self._seen, pl_module.iteration
        n = self.every_n_iterations
        passed = n > 0 and self._seen // n > before // n
        return passed or self._seen == trainer.max_steps


def as_flow(pl_module: L.LightningModule) -> GenerativeModule:
    """The module as this package's base class.

    Raises:
        UserError: It is not one.
    """
    if not isinstance(pl_module, GenerativeModule):
        raise UserError(f"{type(pl_module).__name__} is not a pt_flows method: derive it from GenerativeModule")
    return pl_module
