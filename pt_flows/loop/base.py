"""The abstract bases of all methods: everything around the step, so that a method file is the step.

A method overrides `iterate`, one turn of its paper's outer loop. The base counts iterations, averages weights, moves
the learning-rate schedules, records losses without reading them back from the device, and stops at the first loss that
is not finite.

Lightning's `global_step` normally counts optimizer steps (n_critic + K per iteration here, and 0 for integrators that
write parameters themselves). In pt_flows it counts iterations: `max_steps`, schedules, checkpoints, loggers and plots
all mean the paper's outer loop.
"""

import math
import os
import re
import time
import warnings
from abc import ABC, abstractmethod
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from inspect import isabstract
from statistics import fmean
from typing import Any, ClassVar, Self, TypeVar, cast

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import _restricted_classmethod
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR

from pt_flows.construction import Constructed, path_of
from pt_flows.contracts import Batch, CriticNet, EnergyNet, GeneratorNet, Shape, Source, Weights
from pt_flows.errors import DivergenceError, UserError
from pt_flows.functional.potentials import Reduction, euler_target, regression_loss, velocity
from pt_flows.functional.transport import assignment
from pt_flows.loop.endless import check_callbacks, check_endings, check_schedulers
from pt_flows.loop.requirements import check_factory, check_loss, check_network, check_samples, check_terms
from pt_flows.training.distributed import all_ranks, mean_over_ranks, of_every_rank, world
from pt_flows.training.ema import EMA
from pt_flows.training.noise import NoiseStream, fold, run_seed
from pt_flows.training.optimizers import keep_what_fits
from pt_flows.training.schedules import Decay, decay_factor

Terms = dict[str, Tensor]
"""What one iteration reports: scalars on the device, detached. A term may be missing in some iterations; one whose name
begins with an underscore is checked for being finite but not logged."""


def adam(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """The optimizer where none is chosen: Adam with rate 5e-4 and betas 0.5 and 0.9, as in the small recipes.

    WGAN-GP's paper has 1e-4 with betas 0 and 0.9; the full recipes for images 2e-4.
    """
    return torch.optim.Adam(parameters, lr=5e-4, betas=(0.5, 0.9))


class GenerativeModule(Constructed, L.LightningModule, ABC):
    """Base of every method.

    A subclass gives `iterate`, `sample`, `event_shape`, the network to average (`averaged_network`) and
    `configure_optimizers`; it may raise `minibatches_per_iteration`.

    Args:
        ema_decay: Decay of the weight average that evaluation and sampling use.
    """

    ema: EMA[Any]
    float32_only: ClassVar[bool] = False
    """Whether iterations run outside autocast, because a step is made of small differences."""
    channels_last: ClassVar[bool] = True
    """Whether convolutions may keep channels innermost in memory."""
    differentiated_once: ClassVar[tuple[str, ...]] = ()
    """Networks that no second derivative goes through, which can be compiled."""

    def __init__(self, ema_decay: float = 0.999) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.save_hyperparameters(_given_hyperparameters.get() or self.own_hyperparameters())
        self.ema_decay = ema_decay
        self.iteration = 0
        self.seconds = 0.0
        self.trained_seed: int | None = None
        self.evaluations: dict[str, int] = {}
        self.noise = NoiseStream("training")
        self.not_described: list[str] = []
        self._terms: list[Terms] = []
        self._checked_terms: set[str] = set()
        self._flushed = (0, 0.0)
        self._configured: list[list[dict[str, Any]]] = []
        self._loaded_optimizers: list[dict[str, Any]] = []
        self._counters: list[Any] = []
        self._since: float | None = None

    def own_hyperparameters(self) -> dict[str, Any]:
        """What a module built in Python is described by, in the form in which the command line describes its own."""
        try:
            class_path = path_of(type(self))
        except TypeError:
            return dict(self.init_args)
        how = {"_class_path": class_path, "_instantiator": "lightning.pytorch.cli.instantiate_module"}
        return how | self.init_args

    # ------------------------------------------------------------------------------------- what a method provides

    @abstractmethod
    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """One iteration of the method: its algorithm box.

        Args:
            minibatches: As many fresh batches `(x, y)` as `minibatches_per_iteration` says, on the device.

        Returns:
            Scalars to log, detached, never converted to numbers here.
        """

    @abstractmethod
    def sample(
        self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None, weights: Weights = "ema"
    ) -> Tensor:
        """Draw `num` samples (num, *event_shape) on this module's device.

        Args:
            num: How many.
            y: Labels (num,) for a class-conditional method.
            rng: Source of randomness, on any device; None for the global one.
            weights: The averaged weights, or the raw ones of the last iteration.
        """

    @property
    @abstractmethod
    def event_shape(self) -> Shape:
        """Shape of one sample."""

    @property
    @abstractmethod
    def averaged_network(self) -> nn.Module:
        """The network whose moving average is kept in `ema`."""

    @property
    def minibatches_per_iteration(self) -> int:
        """How many fresh minibatches one iteration consumes; the data serve exactly that many."""
        return 1

    # ---------------------------------------------------------------------------------------------- the outer loop

    def setup(self, stage: str) -> None:
        """Refuse data and precisions that this module can not work with, before anything is computed."""
        at_least(f"{type(self).__name__}.minibatches_per_iteration", self.minibatches_per_iteration, 1)
        if not isinstance(getattr(self, "ema", None), EMA):
            raise UserError(
                f"{type(self).__name__} has no ema, the average of its averaged_network; write self.ema = "
                "EMA(network, self.ema_decay) in __init__"
            )
        data = getattr(self.trainer, "datamodule", None)
        shape = getattr(data, "event_shape", None)
        if shape is not None and tuple(shape) != tuple(self.event_shape):
            raise UserError(
                f"model and data do not fit: the networks work on samples of shape {tuple(self.event_shape)}, "
                f"{type(data).__name__} serves {tuple(shape)}; change the networks of model (image_size, "
                "num_channels, event_shape) or data"
            )
        self._check_trainer()

    def _check_trainer(self) -> None:
        check_endings(self.trainer)
        check_callbacks(self.trainer)
        if not isinstance(self.trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise UserError(
                f"trainer.strategy: {type(self.trainer.strategy).__name__} is not supported: gradients of penalties "
                "are differentiated again, which sharded parameters can not do; use ddp, all networks fit one device"
            )
        if getattr(self.trainer.strategy, "_layer_sync", None) is not None:
            self._check_synchronised_norms()
        if str(self.trainer.precision).startswith("16"):
            raise UserError(
                f"trainer.precision: {self.trainer.precision} is not supported, because the gradients of penalties "
                "overflow half precision; use bf16-mixed or 32-true"
            )
        if self.trainer.precision == "bf16-true":
            raise UserError(
                "trainer.precision: bf16-true is not supported: it keeps weights with 8 bits, which rounds small steps "
                "away, and penalties and velocities are computed in float32; use bf16-mixed or 32-true"
            )

    def _check_synchronised_norms(self) -> None:
        if self.trainer.strategy.root_device.type == "cpu":
            raise UserError(
                "trainer.sync_batchnorm works on GPUs only; without it every process normalises its own share of a "
                "minibatch"
            )
        for name, network in self.networks.items():
            if name not in self.differentiated_once and any(isinstance(m, _BatchNorm) for m in network.modules()):
                raise UserError(
                    f"trainer.sync_batchnorm: {type(self).__name__} differentiates {name} twice, which synchronised "
                    "batch norm can not; leave it out, or take a network without batch norm"
                )

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Run a block of iterations: x (iterations, minibatches, B, *event), y (iterations, minibatches, B)."""
        self._since = time.perf_counter()
        self._check_block(batch)
        self._count_iterations_only()
        torch.manual_seed(fold(run_seed(), "global", world()[0], self.iteration))  # dropout and users' own draws
        with torch.autocast(self.device.type, enabled=False) if self.float32_only else nullcontext():
            for xs, ys in zip(*batch, strict=True):
                self.noise.seek(self.iteration, self.device)
                terms = self.iterate(list(zip(xs, ys, strict=True)))
                if not isinstance(terms, dict) or not terms.keys() <= self._checked_terms:
                    check_terms(f"{type(self).__name__}.iterate", terms)
                    self._checked_terms |= terms.keys()
                self._finish_iteration(terms)
        self._tick()
        self._since = None

    def _tick(self) -> None:
        """Count the seconds spent in training steps; evaluation, pictures and checkpoints are not among them."""
        if self._since is not None:
            now = time.perf_counter()
            self.seconds, self._since = self.seconds + now - self._since, now

    def count(self, network: str, num: int) -> None:
        """Count samples that a network evaluates in training, over all ranks: a cost that no machine changes."""
        if self._since is not None:
            self.evaluations[network] = self.evaluations.get(network, 0) + num * world()[1]

    def _check_block(self, batch: Batch) -> None:
        if batch[0].dim() != len(self.event_shape) + 3:
            raise UserError(
                f"the data serve x of shape {tuple(batch[0].shape)}, a method takes blocks of shape (iterations, "
                f"minibatches, B, {', '.join(map(str, self.event_shape))}); derive the data from FlowData"
            )

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing: the Evaluate callback measures generated samples once the loop ends."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing, as for validation."""

    def _finish_iteration(self, terms: Terms) -> None:
        self.iteration += 1
        self.ema.update(self.averaged_network, self.iteration)
        for scheduler in self.schedulers:
            scheduler.step()
        self._terms.append(terms)
        if self.iteration % self.log_interval == 0:
            self.flush_terms()
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()

    def _count_iterations_only(self) -> None:
        """Keep optimizers from advancing `global_step`; `_finish_iteration` does, once per iteration."""
        for optimizer in self.trainer.strategy._lightning_optimizers:
            optimizer._on_before_step = optimizer._on_after_step = _nothing

    # -------------------------------------------------------------------------------------------------- small tools

    @property
    def schedulers(self) -> list[LambdaLR]:
        """The learning-rate schedules, stepped once per iteration."""
        return [cast(LambdaLR, config.scheduler) for config in self.trainer.lr_scheduler_configs]

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks that are trained, by name."""
        children = ((name, net) for name, net in self.named_children() if name != "ema")
        return {name: net for name, net in children if any(True for _ in net.parameters())}

    @property
    def progress(self) -> float:
        """Fraction of the planned iterations that is done."""
        return self.iteration / max(self.trainer.max_steps, 1)

    def needs_an_end(self, key: str, decay: Decay) -> None:
        """Refuse a decay where the run has no planned end.

        Raises:
            UserError: `decay` is not constant and the run has no `max_steps`.
        """
        if decay != "constant" and self.trainer.max_steps < 1:
            raise UserError(f"model.{key}: {decay} needs an end of the run; set trainer.max_steps (iterations)")

    def decayed(self, optimizer: torch.optim.Optimizer, decay: Decay, warmup: int = 0) -> LambdaLR:
        """A schedule of learning rates over the planned run, stepped once per iteration.

        Args:
            optimizer: Whose rates.
            decay: How they fall.
            warmup: Iterations over which they first rise in equal steps.
        """
        num_iterations = max(self.trainer.max_steps, 1)
        rise: Callable[[int], float] = lambda t: min(1.0, (t + 1) / warmup) if warmup else 1.0
        return LambdaLR(optimizer, lambda t: rise(t) * decay_factor(decay, t / num_iterations))

    def step_down(self, loss: Tensor, optimizer: LightningOptimizer) -> None:
        """One optimizer step on a loss, for that optimizer's parameters only, averaged over ranks.

        Other parameters receive no gradient, so nothing has to be frozen or set to zero around it.
        """
        self.set_gradients(loss, optimizer)
        optimizer.step()

    def set_gradients(self, loss: Tensor, optimizer: LightningOptimizer) -> list[nn.Parameter]:
        """The optimizer's parameters, with the loss's gradients averaged over ranks in `grad`."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        check_loss(f"{type(self).__name__}.step_down", loss)
        with torch.autocast(loss.device.type, enabled=False):  # backward in the precision that forward chose
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        if any(gradient is None for gradient in gradients):
            unused = {id(p) for p, gradient in zip(parameters, gradients, strict=True) if gradient is None}
            names = [name for name, parameter in self.named_parameters() if id(parameter) in unused]
            raise UserError(
                f"{type(self).__name__}.step_down: the loss does not depend on {', '.join(names[:3])}, which its "
                "optimizer moves; leave it out of the network, or set requires_grad to False and out of the optimizer"
            )
        for parameter, gradient in zip(parameters, mean_over_ranks(gradients), strict=True):
            parameter.grad = gradient
        return parameters

    # ------------------------------------------------------------------------------------------ losses and logging

    def flush_terms(self) -> None:
        """Log the means since the last flush; the only place where training waits for the device.

        Raises:
            DivergenceError: A term was not finite; names the first one and its iteration.
        """
        if not self._terms:
            return
        first = self.iteration - len(self._terms) + 1
        names = [list(terms) for terms in self._terms]
        values = iter(torch.stack([value.float() for terms in self._terms for value in terms.values()]).tolist())
        self._terms.clear()
        by_name: dict[str, list[float]] = {}
        for iteration, terms in enumerate(names, first):
            numbers = {name: next(values) for name in terms}
            self.check_terms(iteration, numbers)
            for name, value in numbers.items():
                by_name.setdefault(name, []).append(value)
        self._tick()
        before, since = self._flushed
        self._flushed = (self.iteration, self.seconds)
        rate = (self.iteration - before) / max(self.seconds - since, 1e-9)
        self.write(
            {f"train/{name}": fmean(v) for name, v in by_name.items() if not name.startswith("_")}
            | {f"train/lr_{i}": float(s.get_last_lr()[0]) for i, s in enumerate(self.schedulers)}
            | {"cost/images_seen": float(self.images_seen), "cost/seconds": self.seconds}
            | {"cost/iterations_per_second": rate}
            | {f"cost/evaluations_{name}": float(num) for name, num in self.evaluations.items()}
        )

    def check_terms(self, iteration: int, terms: dict[str, float]) -> None:
        """Refuse to go on after an iteration whose terms show that the run is lost.

        Raises:
            DivergenceError: A term is not finite.
        """
        for name, value in terms.items():
            if not math.isfinite(value):
                raise DivergenceError(
                    f"{name.lstrip('_')} is {value} at iteration {iteration}. "
                    "Lower the learning rate or the step size, or raise the penalty weight"
                )

    @property
    def log_interval(self) -> int:
        """Iterations between two rows of the log: `trainer.log_every_n_steps`."""
        return max(1, int(getattr(self.trainer, "log_every_n_steps", 50)))

    @property
    def images_seen(self) -> int:
        """Real samples consumed so far, over all ranks."""
        batch_size = getattr(getattr(self.trainer, "datamodule", None), "batch_size", 0)
        return self.iteration * self.minibatches_per_iteration * batch_size

    def write(self, values: dict[str, float]) -> None:
        """Send numbers to every logger at this iteration, and to callbacks that watch a metric."""
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=self.iteration)
        self.trainer.callback_metrics.update({k: torch.as_tensor(v) for k, v in values.items()})

    def on_fit_start(self) -> None:
        """Begin the first interval of the log where the run begins."""
        self._flushed, self.trained_seed = (self.iteration, self.seconds), run_seed()
        averaged = sum(1 for _ in self.ema.modules())  # they are never in training mode, and Lightning warns of them
        warnings.filterwarnings("ignore", re.escape(f"Found {averaged} module(s) in eval mode"))
        kinds = (GeneratorNet, CriticNet, EnergyNet)
        counted = [(name, net) for name, net in self.networks.items() if isinstance(net, kinds)]
        self._counters = [net.register_forward_pre_hook(partial(self._counted, name)) for name, net in counted]
        self._configured = [
            [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
            for optimizer in self.trainer.optimizers
        ]
        check_schedulers(self.trainer)
        for note in keep_what_fits(self._loaded_optimizers, self.trainer.optimizers):
            self.print(f"note: {note}")
        self._loaded_optimizers = []
        self._check_same_everywhere()
        self.check_samples()

    def check_samples(self) -> None:
        """Refuse samples of another shape than `event_shape` before training, at the cost of two of them."""
        x = self.sample(2, rng=torch.Generator().manual_seed(0))
        check_samples(f"{type(self).__name__}.sample", x, 2, self.event_shape)

    def _check_same_everywhere(self) -> None:
        """Refuse processes that were started with different configurations, which would wait for each other for ever.

        Raises:
            UserError: Names the first process that differs, and how.
        """
        data = getattr(self.trainer, "datamodule", None)
        facts = {name: value for name, value in self.hparams.items() if _is_plain(value)}
        facts |= {"class": type(self).__name__, "data": type(data).__name__, "seed": run_seed()}
        facts |= {"max_steps": self.trainer.max_steps, "batch_size": getattr(data, "batch_size", None)}
        facts |= {"iteration": self.iteration, "optimizers": self._configured}
        facts |= {"parameters": [tuple(p.shape) for p in self.parameters()]}
        first, *others = of_every_rank(facts)
        for rank, other in enumerate(others, 1):
            if differing := [name for name in first if first[name] != other.get(name)]:
                name = differing[0]
                raise UserError(
                    f"process {rank} was started with another configuration than process 0: {name} is "
                    f"{str(other.get(name))[:80]} there and {str(first[name])[:80]} here; start all with one command"
                )

    def on_train_start(self) -> None:
        """Count on from the module's iteration; let the configuration's learning rates win over a checkpoint's."""
        total = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
        total.ready = total.completed = self.iteration
        schedulers = {id(scheduler.optimizer): scheduler for scheduler in self.schedulers}
        for optimizer, groups in zip(self.trainer.optimizers, self._configured, strict=False):
            scheduler = schedulers.get(id(optimizer))
            if scheduler is not None and not isinstance(scheduler, LambdaLR):
                continue  # how far it has come is known to its saved state alone
            for group, configured in zip(optimizer.param_groups, groups, strict=True):
                group.update(configured)
            if scheduler is not None:
                base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
                rates = [lr * factor(self.iteration) for lr, factor in zip(base_lrs, scheduler.lr_lambdas, strict=True)]
                scheduler.last_epoch, scheduler.base_lrs, scheduler._last_lr = self.iteration, base_lrs, rates
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate

    def on_train_end(self) -> None:
        """Log what came after the last full interval."""
        self.flush_terms()
        for counter in self._counters:
            counter.remove()

    def _counted(self, name: str, net: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.count(name, len(inputs[0]))

    # -------------------------------------------------------------------------------------------------- checkpoints

    def get_extra_state(self) -> dict[str, Any]:
        """The iteration and what training has cost so far, kept beside the weights."""
        return {"iteration": self.iteration, "seconds": self.seconds, "evaluations": dict(self.evaluations)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue counting where the checkpoint was written."""
        self.iteration, self.seconds = int(state["iteration"]), float(state["seconds"])
        self.evaluations = dict(state.get("evaluations", {}))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to write weights that are not finite; keep only what loads with `weights_only=True`.

        Raises:
            DivergenceError: A parameter is not finite.
        """
        self.flush_terms()
        for name, tensor in self.named_parameters():
            if not bool(tensor.isfinite().all()):
                raise DivergenceError(
                    f"{name} has values that are not finite after iteration {self.iteration}; no checkpoint is "
                    "written over the last good one. Lower the learning rate or the step size"
                )
        left_out = [name for name in self.left_out if name not in self.hparams]
        checkpoint["pt_flows"] = {"seed": run_seed(), "iteration": self.iteration, "left_out": left_out}
        hyper = checkpoint.get("hyper_parameters", {})
        checkpoint["hyper_parameters"] = {k: v for k, v in hyper.items() if _is_plain(v)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the seed; say so when a run is continued with another one. Optimizers are not there yet."""
        if self._trainer is None:  # built from the checkpoint's description: keep what the arguments can not tell
            saved = checkpoint.get("hyper_parameters", {})
            self.not_described = checkpoint.get("pt_flows", {}).get("left_out", [])
            self.hparams.update({k: saved[k] for k in self.left_out if k in saved and _is_plain(saved[k])})
        self.trained_seed = seed = checkpoint.get("pt_flows", {}).get("seed")
        if self._trainer is not None and self._trainer.training:
            self._loaded_optimizers = checkpoint.get("optimizer_states", [])
        if "PL_GLOBAL_SEED" in os.environ and seed is not None and seed != run_seed() and self._trainer is not None:
            self.print(
                f"note: the checkpoint was trained with seed {seed}, this run has {run_seed()}: it goes on with other "
                f"noise and data order; pass --seed_everything {seed} to continue the same run"
            )

    @_restricted_classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> Self:
        """The module that a checkpoint describes, networks and weights included.

        Networks of classes that can be imported are built again from the plain arguments that they were built from; any
        other has to be given: `W1FE.load_from_checkpoint(path, generator=..., critic=...)`.

        Args:
            checkpoint_path: The file.
            map_location: Where to put the weights; default where they were.
            hparams_file: As in Lightning.
            strict: As in Lightning.
            weights_only: Whether to refuse files that hold more than tensors and plain values.
            **kwargs: Arguments of the module that take the place of the checkpoint's.

        Raises:
            UserError: The checkpoint does not tell, or is of another class.
        """
        loader: Any = L.LightningModule if isabstract(cls) else super()  # a base takes what the checkpoint says it is
        try:
            module = loader.load_from_checkpoint(
                checkpoint_path, map_location, hparams_file, strict, weights_only, **kwargs
            )
        except (TypeError, ValueError, ArgumentError) as error:
            text = str(error)
            if "does not resolve to an already imported" in text:
                raise UserError(
                    f"{checkpoint_path} holds {text.split(chr(39))[1]}, which is not a {cls.__name__} or not imported; "
                    "import that class, and call its load_from_checkpoint"
                ) from error
            reason = next((line for line in text.splitlines() if "argument" in line), text.splitlines()[0])
            raise UserError(
                f"{checkpoint_path} does not describe all that {cls.__name__} is built from ({reason.strip(' -')}); "
                f"give it: {cls.__name__}.load_from_checkpoint(path, generator=...)"
            ) from error
        if lost := [name for name in module.not_described if name not in kwargs]:
            rank_zero_warn(
                f"{checkpoint_path} does not describe its {', '.join(lost)}: the defaults are used; to train on, give "
                "load_from_checkpoint what it was trained with"
            )
        return module


class GeneratorModule(GenerativeModule):
    """Base of methods that train a generator G from latents, or from data of another domain, to samples.

    Args:
        generator: G.
        ema_decay: Decay of the average of G's weights.
    """

    def __init__(self, generator: GeneratorNet, ema_decay: float = 0.999) -> None:
        check_network("model.generator", generator, GeneratorNet)
        super().__init__(ema_decay)
        self.generator = generator
        self.ema = EMA(generator, self.ema_decay)
        self.source: Source | None = None
        self.moves_data = False

    def setup(self, stage: str) -> None:
        """Take the source of data that have one; refuse one that the generator can not start from."""
        super().setup(stage)
        self.source = getattr(getattr(self.trainer, "datamodule", None), "source", None)
        self.moves_data = self.source is not None
        if self.source is not None and tuple(self.source.event_shape) != tuple(self.generator.latent_shape):
            raise UserError(
                f"model.generator starts from shape {tuple(self.generator.latent_shape)}, data.source has samples of "
                f"shape {tuple(self.source.event_shape)}; give the generator the source's shape"
            )

    @property
    def averaged_network(self) -> GeneratorNet:
        """G: what the moving average follows."""
        return self.generator

    @property
    def event_shape(self) -> Shape:
        """Shape of one sample."""
        return self.generator.event_shape

    @property
    def num_classes(self) -> int:
        """Classes that the networks are conditioned on; 0 for none."""
        return self.generator.num_classes

    def latents(self, num: int) -> Tensor:
        """Fresh latents z (num, *latent_shape) of this iteration: noise, or samples of the data's source."""
        if self.source is not None:
            return self.noise.draw(self.source.sample, num)
        return self.generator.latent_std * self.noise.normal(num, *self.generator.latent_shape)

    @torch.no_grad()
    def sample(
        self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None, weights: Weights = "ema"
    ) -> Tensor:
        """Push `num` latents through the generator; the same latents for any batching.

        A class-conditional generator draws its labels uniformly where none are given.

        Raises:
            UserError: Labels that do not fit: for an unconditional model, of another number, or out of range.
        """
        at_least("num", num, 1)
        rng = rng or torch.Generator(self.device).manual_seed(int(torch.randint(2**62, ())))
        z = self.starting_points(num, rng)
        if y is None and self.num_classes:
            y = torch.randint(self.num_classes, (num,), generator=rng, device=rng.device)
        if y is not None:
            y = self._checked_labels(y, num)
        return self.push(z.to(next(self.generator.parameters())), weights, y)

    def starting_points(self, num: int, rng: torch.Generator) -> Tensor:
        """Latents (num, *latent_shape) to sample from: noise, or samples of the data's source.

        Raises:
            UserError: The generator was trained to move data, and there are none here.
        """
        if self.source is not None:
            return self.source.sample(num, rng)
        if self.moves_data:
            raise UserError(
                "this generator was trained to move samples of another data set: set its `source`, or give the samples "
                "to push(x)"
            )
        return self.generator.latent_std * torch.randn(
            num, *self.generator.latent_shape, generator=rng, device=rng.device
        )

    def get_extra_state(self) -> dict[str, Any]:
        """Also whether the generator starts from data."""
        return super().get_extra_state() | {"moves_data": self.moves_data}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Also whether the generator starts from data."""
        super().set_extra_state(state)
        self.moves_data = bool(state.get("moves_data", False))

    def _checked_labels(self, y: Tensor, num: int) -> Tensor:
        if not self.num_classes:
            raise UserError(f"this {type(self).__name__} is not class-conditional: call sample without labels")
        if y.shape != (num,) or bool(((y < 0) | (y >= self.num_classes)).any()):
            raise UserError(
                f"labels of shape {tuple(y.shape)} from {int(y.min())} to {int(y.max())} are given for {num} samples; "
                f"wanted is shape ({num},) with values in 0 ... {self.num_classes - 1}"
            )
        return y.to(self.device)

    @torch.no_grad()
    def push(self, z: Tensor, weights: Weights = "ema", y: Tensor | None = None) -> Tensor:
        """Samples from given latents (and labels) with the network in evaluation mode, 500 at a time."""
        inputs = zip(*(part.split(500) for part in (z, y) if part is not None), strict=True)
        if weights == "ema":
            return torch.cat([self.ema(*part) for part in inputs])
        with evaluation_mode(self.generator):
            return torch.cat([self.generator(*part) for part in inputs])

    def persistent_fit(
        self,
        optimizer: LightningOptimizer,
        z: Tensor,
        y: Tensor,
        zeta: Tensor,
        num_steps: int,
        reduction: Reduction = "sum",
        rematch: bool = False,
    ) -> Terms:
        """K optimizer steps of G, from y = G(z), on the squared distance to the targets: the same z and ζ each time.

        Args:
            optimizer: G's.
            z: Latents (B, *latent_shape).
            y: G(z), with its graph: the first step needs no second forward pass.
            zeta: Targets ζ (B, *event), constants.
            num_steps: K.
            reduction: As in `regression_loss`.
            rematch: Before every step after the first, pair targets and outputs anew by optimal assignment over all
                ranks.

        Returns:
            `loss_G` of the last step and `loss_G_first` of the first.
        """
        first = loss = regression_loss(y, zeta, reduction)
        self.step_down(loss, optimizer)
        for _ in range(num_steps - 1):
            y = self.generator(z)
            loss = regression_loss(y, matched(y, zeta) if rematch else zeta, reduction)
            self.step_down(loss, optimizer)
        return {"loss_G": loss.detach(), "loss_G_first": first.detach()}


class AdversarialModule(GeneratorModule):
    """Base of methods with a generator G and a critic (or discriminator) D: the two players, and drawing from G.

    Both networks are class-conditional (`num_classes` above zero: they take labels after their input) or neither is.

    Args:
        generator: G, latents to samples.
        critic: D, samples to one value each.
        ema_decay: Decay of the average of G's weights.
    """

    def __init__(self, generator: GeneratorNet, critic: CriticNet, ema_decay: float = 0.999) -> None:
        check_network("model.critic", critic, CriticNet)
        super().__init__(generator, ema_decay)
        if generator.event_shape != critic.event_shape:
            raise UserError(
                f"model.generator makes samples of shape {generator.event_shape}, model.critic takes "
                f"{critic.event_shape}; give both the same image_size, num_channels or event_shape"
            )
        if generator.num_classes != critic.num_classes:
            raise UserError(
                f"model.generator has num_classes {generator.num_classes}, model.critic {critic.num_classes}; give "
                "both the number of classes of the data, or 0 for an unconditional model"
            )
        self.critic = one_valued(critic)

    def setup(self, stage: str) -> None:
        """Refuse data whose labels the networks can not take."""
        super().setup(stage)
        classes = getattr(getattr(self.trainer, "datamodule", None), "num_classes", self.num_classes)
        if self.num_classes and classes != self.num_classes:
            raise UserError(
                f"the networks have num_classes {self.num_classes}, the data have {classes or 'no'} classes; set "
                "num_classes of model.generator and model.critic to that of the data"
            )


class AlternatingModule(AdversarialModule):
    """Base of adversarial methods that fit the critic for some steps, then move the generator, each by its optimizer.

    Args:
        generator: G, latents to samples.
        critic: D, samples to one value each; without batch norm, which would break penalties on its gradients.
        generator_optimizer: Makes G's optimizer from its parameters; its state is kept between iterations. Default Adam
            with rate 5e-4 and betas 0.5 and 0.9.
        critic_optimizer: Makes D's optimizer from its parameters; the same default.
        num_critic_steps: Critic steps per iteration, each on a fresh minibatch.
        lr_decay: How both learning rates fall over the run.
        ema_decay: Decay of the average of G's weights.
    """

    differentiated_once = ("generator",)

    def __init__(
        self,
        generator: GeneratorNet,
        critic: CriticNet,
        generator_optimizer: OptimizerCallable = adam,
        critic_optimizer: OptimizerCallable = adam,
        num_critic_steps: int = 5,
        lr_decay: Decay = "constant",
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__(generator, critic, ema_decay)
        at_least("num_critic_steps", num_critic_steps, 1)
        check_factory("model.generator_optimizer", generator_optimizer)
        check_factory("model.critic_optimizer", critic_optimizer)
        if self.num_classes:
            raise UserError(
                f"{type(self).__name__} is not class-conditional; set num_classes of model.generator and model.critic "
                "to 0"
            )
        self.generator_optimizer, self.critic_optimizer = generator_optimizer, critic_optimizer
        self.num_critic_steps = num_critic_steps
        self.lr_decay: Decay = lr_decay

    @property
    def minibatches_per_iteration(self) -> int:
        """One per critic step; the generator needs latents only."""
        return self.num_critic_steps

    def optimizer_pair(self) -> tuple[LightningOptimizer, LightningOptimizer]:
        """(generator's, critic's) optimizer."""
        pair = self.optimizers()
        if not isinstance(pair, list) or len(pair) != 2:
            raise UserError(
                f"{type(self).__name__}.configure_optimizers must return two optimizers, the generator's and the "
                f"critic's, got {len(pair) if isinstance(pair, list) else 1}"
            )
        G, D = cast(list[LightningOptimizer], pair)
        return G, D

    @property
    def critic_parameters(self) -> Iterable[nn.Parameter]:
        """What the critic's optimizer moves."""
        return self.critic.parameters()

    @abstractmethod
    def critic_loss(self, x: Tensor, y: Tensor) -> Terms:
        """What D minimises under the name `loss_D`, and what else is worth logging, all scalars.

        Args:
            x: Data (B, *event).
            y: Generated samples (B, *event), constants.

        Returns:
            `loss_D` with its graph, which one optimizer step of D follows; the others for the log.
        """

    def fit_critic(self, minibatches: Sequence[Batch]) -> Terms:
        """One critic step per minibatch, each with fresh latents; the terms of the last one, detached."""
        _, optimizer = self.optimizer_pair()
        terms: Terms = {}
        for x, _ in minibatches:
            y = self.generator(self.latents(len(x))).detach()
            terms = self.critic_loss(x, y)
            if not isinstance(terms, dict) or "loss_D" not in terms:
                got = list(terms) if isinstance(terms, dict) else type(terms).__name__
                raise UserError(
                    f"{type(self).__name__}.critic_loss must return a dict with what D minimises under 'loss_D', got "
                    f"{got}"
                )
            self.step_down(terms["loss_D"], optimizer)
        check_terms(f"{type(self).__name__}.critic_loss", terms, detached=False)
        return {name: value.detach() for name, value in terms.items()}

    def configure_optimizers(self) -> Any:
        """Both optimizers, and one schedule for each that is stepped once per iteration."""
        self.needs_an_end("lr_decay", self.lr_decay)
        optimizers = [
            self.generator_optimizer(self.generator.parameters()),
            self.critic_optimizer(self.critic_parameters),
        ]
        return optimizers, [self.decayed(optimizer, self.lr_decay) for optimizer in optimizers]


class FlowModule(AlternatingModule):
    """Base of Wasserstein gradient flows: particles follow a potential, the generator follows the particles.

    An iteration fits the critic to the law of the moment (`critic_loss`), moves fresh particles by one forward Euler
    step along the gradient of `potential`, and regresses the generator onto them for K steps. A flow says what the
    critic minimises and, where it is not the critic itself, which function of it moves particles.

    Args:
        *args: As for AlternatingModule.
        step_size: ε; of a Wasserstein-1 flow in data units, of a Wasserstein-2 flow the share of the way to the data.
            No effect at K = 1 with Adam, which cancels constant factors.
        persistence: K, optimizer steps of G towards the same targets.
        reduction: Squared distance summed over coordinates (formula) or averaged (released code).
        rematch: Pair targets and outputs anew before every inner step after the first, by optimal assignment.
        step_size_decay: How ε falls over the run.
        persistence_decay: How K falls over the run, to one at the least.
        **kwargs: As for AlternatingModule.
    """

    def __init__(
        self,
        *args: Any,
        step_size: float = 1.0,
        persistence: int = 5,
        reduction: Reduction = "sum",
        rematch: bool = False,
        step_size_decay: Decay = "constant",
        persistence_decay: Decay = "constant",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        at_least("model.persistence", persistence, 1)
        positive("model.step_size", step_size)
        self.step_size, self.persistence, self.rematch = step_size, persistence, rematch
        self.step_size_decay: Decay = step_size_decay
        self.persistence_decay: Decay = persistence_decay
        self.reduction: Reduction = reduction

    def potential(self, y: Tensor) -> Tensor:
        """The function (B, *event) to (B,) whose gradient moves particles, high on data; here the critic itself."""
        return self.critic(y)

    def values(self, y: Tensor) -> Tensor:
        """`potential`, which must give one value per sample: a mean would scale the field by the batch size."""
        values = self.potential(y)
        if values.shape != y.shape[:1]:
            raise UserError(
                f"{type(self).__name__}.potential must give one value per sample, got shape {tuple(values.shape)} for "
                f"{len(y)} samples"
            )
        return values

    @property
    def euler_step(self) -> float:
        """ε of this iteration."""
        return self.step_size * decay_factor(self.step_size_decay, self.progress)

    @property
    def inner_steps(self) -> int:
        """K of this iteration."""
        return max(1, round(self.persistence * decay_factor(self.persistence_decay, self.progress)))

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Critic phase, one Euler step of the particles, K regression steps of the generator."""
        optimizer_G, _ = self.optimizer_pair()

        terms = self.fit_critic(minibatches)  # the potential of the law of the moment

        z = self.latents(len(minibatches[0][0]))
        y = self.generator(z)
        zeta = euler_target(y, velocity(self.values, y), self.euler_step)  # ζ = y + ε ∇f(y)
        fit = self.persistent_fit(optimizer_G, z, y, zeta, self.inner_steps, self.reduction, self.rematch)
        return terms | fit

    def configure_optimizers(self) -> Any:
        """Both optimizers with their schedules."""
        self.needs_an_end("step_size_decay", self.step_size_decay)
        self.needs_an_end("persistence_decay", self.persistence_decay)
        return super().configure_optimizers()


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """The network as one fixed function, for a while."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


N = TypeVar("N", bound=nn.Module)


def one_valued(net: N) -> N:
    """The network, which from now on refuses to give other than one value per sample."""
    net.register_forward_hook(_check_values)
    return net


def _check_values(net: nn.Module, inputs: tuple[Tensor, ...], values: Tensor) -> None:
    if values.shape != inputs[0].shape[:1]:
        raise UserError(
            f"{type(net).__name__} gives shape {tuple(values.shape)} for {len(inputs[0])} samples; a critic or an "
            "energy must give one value per sample: squeeze an axis of length one; of two softmax logits take "
            "logit_real - logit_fake"
        )


def matched(y: Tensor, zeta: Tensor) -> Tensor:
    """The targets in the order that pairs them with y at the least cost, over all ranks."""
    rank, everything = world()[0], all_ranks(zeta)
    i = assignment(all_ranks(y.detach()), everything)
    return everything[i[rank * len(y) : (rank + 1) * len(y)]]


def at_least(key: str, value: float, least: float) -> None:
    """Check a number from the user.

    Raises:
        UserError: `value` is below `least`.
    """
    if not value >= least:
        raise UserError(f"{key} must be at least {least}, got {value}")


def positive(key: str, value: float) -> None:
    """Check a number from the user.

    Raises:
        UserError: `value` is not above zero.
    """
    if not value > 0:
        raise UserError(f"{key} must be positive, got {value}")


def within_the_way(key: str, step_size: float) -> None:
    """Warn of a step of the Wasserstein-2 flow that is longer than the way to the data."""
    if step_size > 1:
        rank_zero_warn(
            f"{key} is {step_size}: above 1 a step passes the data, and from 2 on particles run away from them"
        )


def one_of(key: str, value: str, choices: Iterable[str]) -> None:
    """Check a word from the user.

    Raises:
        UserError: `value` is not among the choices.
    """
    choices = list(choices)
    if value not in choices:
        raise UserError(f"{key} must be one of {', '.join(choices)}, got {value!r}")


def _nothing() -> None: ...


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(v) for v in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in cast(Iterable[Any], value))
    return value is None or isinstance(value, bool | int | float | str)
