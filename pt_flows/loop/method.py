"""The base of all methods: everything around an iteration, so that a method file contains the iteration alone.

A method is composed of players (`pt_flows.training`) and overrides `iterate`, one turn of its paper's outer loop. The
base counts iterations, moves the learning rates, averages weights, collects the terms for the log, and stops at the
first term that is not finite. It knows nothing about samples or supervision.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, Self

import lightning as L
import torch
from torch import Tensor, nn

from pt_flows.bounds import hints_of
from pt_flows.construction import Constructed, named
from pt_flows.contracts import Batch, Terms
from pt_flows.errors import DivergenceError, UserError
from pt_flows.formats import CHECKPOINT_FORMAT, check_format
from pt_flows.loop.bookkeeping import Bookkeeper
from pt_flows.loop.clock import Clock, tick
from pt_flows.loop.describing import built, description, is_plain, read
from pt_flows.loop.journal import Cost, Journal, check_finite
from pt_flows.loop.precision import EndsInFloat32
from pt_flows.loop.preflight import Preflight
from pt_flows.training.distributed import world
from pt_flows.training.noise import NoiseStream, fold, run_seed, seed_global
from pt_flows.training.player import Player, check_players
from pt_flows.training.players import Generator
from pt_flows.training.rates import RateControl
from pt_flows.training.rounds import Rounds
from pt_flows.training.schedules import Progress


class Method(Constructed, L.LightningModule, ABC):
    """Base of every method. A subclass assigns its players and overrides `iterate`.

    Attributes:
        iteration: Iterations done. Lightning's `global_step` is the same number.
        rates: Control of the players' learning rates; None without one.
        rounds: Rounds of training from one start; None without any.
        noise: Random numbers of the current iteration, which depend on the seed and the iteration alone.
        cost: The cost of training so far.
        trained_seed: Seed of the run.
        not_described: Arguments that a loaded checkpoint does not describe.
    """

    float32_only: ClassVar[bool] = False
    """Whether iterations run outside autocast, because steps are small differences of large numbers."""
    channels_last: ClassVar[bool] = True
    """Whether convolutions may keep channels innermost in memory."""
    one_rate: ClassVar[bool] = False
    """Whether all players have to move with one learning rate, as pieces of one step."""
    differentiated_once: ClassVar[tuple[str, ...]] = ()
    """Names of the networks that are never differentiated twice, so that they can be compiled."""

    fitted_whole: ClassVar[tuple[str, ...]] = ()
    """Names of the players that follow their loss by `Player.fit`, so that it can be compiled with its gradients."""
    pure: ClassVar[tuple[str, ...]] = ()
    """Names of functions of tensors and of networks without buffers, which are compiled with their derivatives."""

    takes_latents: ClassVar[bool] = False
    """Whether minibatches are `(x, y, z)` with the latents z of simulated data, which `encode` infers."""
    settles: ClassVar[bool] = False
    """Whether averaged weights equal the raw ones from some iteration on, because what draws is not trained further."""

    rollback: Any = None
    """Returns to an earlier state after a divergence; None if the run stops."""

    training_state: ClassVar[tuple[str, ...]] = ()
    """Names of the parts of the state that training alone needs, such as chains; exported models are without them."""

    minibatches_per_iteration: int = 1
    """Number of fresh minibatches that one iteration consumes; the data yield exactly that many."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Check that arguments with the annotation of a player are players."""
        check_players(hints_of(cls), named(cls, args, kwargs))
        return super().__new__(cls, *args, **kwargs)

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.save_hyperparameters(description(self))
        self.iteration = 0
        self.trained_seed: int | None = None
        self.not_described: list[str] = []
        self.cost = Cost()
        self.noise = NoiseStream("training")
        self.journal = Journal()
        self.rates: RateControl | None = None
        self.rounds: Rounds | None = None
        self.loaded_optimizers: list[dict[str, Any]] = []

    # -------------------------------------------------------------------------------------- for a method to override

    @abstractmethod
    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Run one iteration of the method: its algorithm box.

        Args:
            minibatches: `minibatches_per_iteration` fresh batches `(x, y)`, on the device.

        Returns:
            Scalars to log, detached, never converted to numbers here.
        """

    def check(self, iteration: int, terms: dict[str, float]) -> None:
        """Raise if the terms of an iteration show that the run is lost. Called once per row of the log.

        Raises:
            DivergenceError: A term is not finite.
        """
        check_finite(iteration, terms)

    def diagnose(self, row: dict[str, float]) -> dict[str, float]:
        """Return more numbers for a row of the log, by their log keys."""
        return {}

    # -------------------------------------------------------------------------------------------------- small tools

    @property
    def players(self) -> dict[str, Player[Any]]:
        """The players by name."""
        return {name: child for name, child in self.named_children() if isinstance(child, Player)}

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks that are trained, by name."""
        children = {name: net.network if isinstance(net, Player) else net for name, net in self.named_children()}
        return {name: net for name, net in children.items() if any(True for _ in net.parameters())}

    @property
    def progress(self) -> Progress:
        """The progress of the run, or of its present round."""
        return self.progress_at(self.iteration)

    def progress_at(self, iteration: int) -> Progress:
        """The progress at an iteration of the run."""
        return Progress(iteration, self.trainer.max_steps) if self.rounds is None else self.rounds.progress(iteration)

    @property
    def age(self) -> int:
        """Iterations done since the start of the run, or of its present round."""
        return self.iteration if self.rounds is None else self.rounds.progress(self.iteration).iteration

    @property
    def log_interval(self) -> int:
        """Iterations between two rows of the log: `trainer.log_every_n_steps`."""
        return max(1, int(getattr(self.trainer, "log_every_n_steps", 50)))

    def pure_functions(self) -> dict[str, Callable[..., Any]]:
        """Return the functions that are declared as `pure`, by name."""
        return {name: getattr(self, name) for name in self.pure}

    def flush(self) -> None:
        """Write the terms since the last row of the log.

        Raises:
            DivergenceError: The run is lost.
        """
        self.journal.flush(self)

    # ----------------------------------------------------------------------------------------- the loop, for Lightning

    def configure_callbacks(self) -> list[L.Callback]:
        """Return the callbacks of every run: the clock, checks before anything is computed, precision, bookkeeping."""
        return [Clock(), Preflight(), EndsInFloat32(), Bookkeeper()]

    def setup(self, stage: str) -> None:
        """Let generators start from the data's source, if the data have one."""
        source = getattr(getattr(self.trainer, "datamodule", None), "source", None)
        for player in self.players.values():
            if isinstance(player, Generator):
                player.start_from(source)

    def configure_optimizers(self) -> Any:
        """Return the optimizers of all players."""
        optimizers = [player.bind(name) for name, player in self.players.items()]
        return [optimizer for optimizer in optimizers if optimizer is not None]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Run a block of iterations: x (iterations, minibatches, B, *event), y (iterations, minibatches, B), others."""
        players, interval = list(self.players.values()), self.log_interval
        seed_global(fold(run_seed(), "global", world()[0], self.iteration), self.device)  # dropout and users' own draws
        precision = torch.autocast(self.device.type, enabled=False) if self.float32_only else nullcontext()
        with self.cost.running(), precision:
            for xs, ys, *others in zip(*batch, strict=True):
                self.noise.seek(self.iteration, self.device)
                if self.rounds is not None:
                    self.rounds.enter(self)
                age = self.age + 1
                self.set_rates(self.progress)
                terms = self.iterate(list(zip(xs, ys, *(others if self.takes_latents else ()), strict=True)))
                self.iteration += 1
                self.cost.images_seen += ys.shape[0] * ys.shape[1] * world()[1]
                for player in players:
                    player.average(age)
                if self.rates is not None:
                    self.rates.advance()
                if self.rounds is not None:
                    self.rounds.leave(self, terms)
                self.journal.add(self, terms)
                if self.iteration % interval == 0:
                    self.flush()
                tick(self.trainer, self.iteration)

    def set_rates(self, progress: Progress) -> None:
        """Set the learning rate of every player for an iteration."""
        for name, player in self.players.items():
            player.rate_factor = 1.0 if self.rates is None else self.rates.factor(name)
            player.begin(progress)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing. The Evaluate callback measures generated samples once the loop ends."""

    test_step = validation_step

    # -------------------------------------------------------------------------------------------------- checkpoints

    def get_extra_state(self) -> dict[str, Any]:
        """The iteration and the cost of training so far, saved with the weights."""
        return {"iteration": self.iteration, "cost": self.cost.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue counting where the checkpoint was written."""
        self.iteration = int(state["iteration"])
        self.cost.load_state_dict(state["cost"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only content that loads with `weights_only=True`, and no weights that are not finite.

        Raises:
            DivergenceError: A parameter is not finite.
        """
        self.flush()
        for name, tensor in self.named_parameters():
            if not bool(tensor.isfinite().all()):
                where = f"{name} has values that are not finite after iteration {self.iteration}"
                raise DivergenceError(f"{where}, so no checkpoint is written. Lower the learning rate or the step size")
        left_out = [name for name in self.left_out if name not in self.hparams]
        record = {"format": CHECKPOINT_FORMAT, "seed": run_seed(), "iteration": self.iteration, "left_out": left_out}
        checkpoint["pt_flows"] = record
        hyper = checkpoint.get("hyper_parameters", {})
        checkpoint["hyper_parameters"] = {k: v for k, v in hyper.items() if is_plain(v)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the seed, and print a note if the run continues with another one. Optimizers do not exist yet."""
        check_format(checkpoint, "the checkpoint")
        record = checkpoint["pt_flows"]
        self.trained_seed = seed = record["seed"]
        if self._trainer is None:  # built from the checkpoint's description: keep what the arguments cannot tell
            saved = checkpoint.get("hyper_parameters", {})
            self.not_described = record["left_out"]
            self.hparams.update({k: saved[k] for k in self.left_out if k in saved and is_plain(saved[k])})
            return
        if self._trainer.training:
            self.loaded_optimizers = checkpoint.get("optimizer_states", [])
        if "PL_GLOBAL_SEED" in os.environ and seed is not None and seed != run_seed():
            self.print(
                f"note: the checkpoint was trained with seed {seed}, and this run has seed {run_seed()}, so noise and "
                f"data order change. Pass --seed_everything {seed} to continue the same run"
            )

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> Self:
        """Build the method that a checkpoint describes, networks and weights included.

        A network is rebuilt from its recorded arguments if they are plain values and its class can be imported. Pass
        any other network as an argument: `W1FE.load_from_checkpoint(path, generator=..., critic=...)`.

        Args:
            checkpoint_path: The file.
            map_location: Device of the weights; by default the one that they were saved from.
            hparams_file: Not supported, as the checkpoint describes its method.
            strict: As in `load_state_dict`.
            weights_only: Whether to reject files that hold more than tensors and plain values.
            **kwargs: Arguments of the method that replace the checkpoint's.

        Raises:
            UserError: The checkpoint does not describe all arguments, or is of another class or version.
        """
        if hparams_file is not None:
            raise UserError(f"hparams_file: expected None, got {hparams_file}. Pass arguments by name instead")
        content = read(checkpoint_path, map_location, weights_only)
        method = built(content, checkpoint_path, cls, kwargs, strict is not False)
        tensors = (value for value in content["state_dict"].values() if isinstance(value, Tensor))
        return method.to(next(tensors).device)
