"""Control of learning rates during a run, for methods of this package and for any other LightningModule."""

from typing import Any, cast

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch.optim import Optimizer

from pt_flows.callbacks.rounds import PersistentRounds
from pt_flows.errors import UserError, warn
from pt_flows.loop.method import Method
from pt_flows.training.rates import RateControl, check_controllable


class Rates(L.Callback):
    """Lets a control watch every optimizer step and scale the learning rates. Checkpoints hold its state.

    Numbers are logged under the names of the players. The optimizers of another LightningModule are `optimizer_1` and
    so on, and its iterations are batches. A rate that its own scheduler has set is scaled, too.

    Args:
        control: The control.
    """

    def __init__(self, control: RateControl) -> None:
        self.control = control
        self._applied: dict[str, float] = {}
        self._num_batches = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that the rates of this run can be controlled.

        Raises:
            UserError: They cannot.
        """
        if stage != "fit":
            return
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            got = type(trainer.strategy).__name__
            raise UserError(f"trainer.strategy: expected ddp with rates, which need whole parameters, got {got}")
        if any(isinstance(callback, PersistentRounds) for callback in cast(Any, trainer).callbacks):
            raise UserError("rates: expected none with PersistentRounds, whose rounds begin anew, got one. Omit either")
        if isinstance(pl_module, Method) and pl_module.one_rate and self.control.per_player:
            name = type(pl_module).__name__
            wanted = f"expected false, because {name} moves all players by one step"
            raise UserError(f"rates.per_player: {wanted}, got true. Set it to false")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the optimizers."""
        check_controllable(optimizers_of(trainer, pl_module))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to watch. By now a checkpoint has been loaded."""
        self.control.watch(optimizers_of(trainer, pl_module))
        self._applied = {name: self.control.factor(name) for name in self.control.optimizers}
        if isinstance(pl_module, Method):
            pl_module.rates = self.control

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End an iteration of another LightningModule. A method ends its iterations itself."""
        if isinstance(pl_module, Method):
            return
        self.control.advance()
        for name, optimizer in self.control.optimizers.items():
            if (factor := self.control.factor(name)) != self._applied[name]:
                scale(trainer, optimizer, factor / self._applied[name])
                self._applied[name] = factor
        self._num_batches += 1
        if self._num_batches % max(1, int(cast(Any, trainer).log_every_n_steps)) == 0:
            pl_module.log_dict(self.control.report())

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Log the present interval first, so that the saved state is that after it."""
        if isinstance(pl_module, Method):
            pl_module.flush()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Watch no longer."""
        self.control.release()
        if isinstance(pl_module, Method):
            pl_module.rates = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Watch no longer after an error, after which Lightning does not call `teardown`."""
        self.teardown(trainer, pl_module, "fit")

    def state_dict(self) -> dict[str, Any]:
        """The state of the control, and the batches so far."""
        kind, state = type(self.control).__name__, self.control.state_dict()
        return {"kind": kind, "control": state, "num_batches": self._num_batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both. Another control than that of the checkpoint begins afresh, with a note."""
        self._num_batches = int(state_dict["num_batches"])
        if (kind := type(self.control).__name__) == state_dict["kind"]:
            self.control.load_state_dict(state_dict["control"])
        else:
            warn(f"the checkpoint has the state of {state_dict['kind']}, so {kind} begins afresh")


def optimizers_of(trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Optimizer]:
    """Return the optimizers of all players by name, or those of another module by number."""
    if isinstance(pl_module, Method):
        return {name: player.optimizer for name, player in pl_module.players.items() if player.optimizer is not None}
    return {f"optimizer_{i}": optimizer for i, optimizer in enumerate(trainer.optimizers, 1)}


def scale(trainer: L.Trainer, optimizer: Optimizer, factor: float) -> None:
    """Scale the learning rates of an optimizer, and those that its schedulers begin from."""
    for group in optimizer.param_groups:
        group |= {key: group[key] * factor for key in ("lr", "initial_lr") if key in group}
    for config in trainer.lr_scheduler_configs:
        scheduler: Any = config.scheduler
        if scheduler.optimizer is optimizer and hasattr(scheduler, "base_lrs"):
            scheduler.base_lrs = [lr * factor for lr in scheduler.base_lrs]
