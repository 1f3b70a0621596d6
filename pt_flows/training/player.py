"""Players: a network with everything that trains it. Methods are composed of them.

A player holds its optimizer, the schedule of its learning rate, the average of its weights and the bound of its
gradients. `step` takes one optimizer step down a loss; a method that integrates by itself calls `apply_gradients`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pt_flows.bounds import DecayRates, Positive
from pt_flows.construction import Constructed
from pt_flows.contracts import POWER, OptimizerFactory, Terms, Weights
from pt_flows.errors import UserError
from pt_flows.training.compiled import CompiledLoss
from pt_flows.training.distributed import mean_over_ranks
from pt_flows.training.ema import EMA, Average, decays_of
from pt_flows.training.requirements import check_factory, check_loss, check_terms
from pt_flows.training.schedules import Progress, Schedule

N = TypeVar("N", bound=nn.Module)


def adam(parameters: Iterable[Any]) -> Optimizer:
    """Return the default optimizer: Adam with rate 5e-4 and betas 0.5 and 0.9."""
    return torch.optim.Adam(parameters, lr=5e-4, betas=(0.5, 0.9))


class Player(Constructed, nn.Module, Generic[N]):
    """A network with its optimizer, schedule and average.

    A new kind of player is a `@final` subclass that lists the same arguments, so that its settings form one section of
    a configuration.

    Args:
        network: The network.
        optimizer: Function that makes the optimizer from the parameters. Its learning rate is the full one.
        lr_schedule: Factor of the learning rate over the run.
        ema_decay: Decay of the average of the weights, or a list for several averages; None keeps no average.
        clip_norm: Longest gradient; a longer one is scaled down. None for no bound.

    Attributes:
        rate_factor: Factor of the learning rate beside the schedule, which a control of rates sets.
        penalty: Maps the parameters to a term that is added to every loss; None at first.
        gradient_norm: Norm of the last gradient before clipping, if it is measured or clipped.
        compiling: Compiles the loss of `fit` with its gradients, as `CompiledLoss` does; None if it is not to be.
        latest: The inputs of the last call of `fit`.
        also_average: More averages of the weights, which a callback keeps. They are no part of the state.
        recall: Makes an average after training, by its name; set where a finished run is loaded.
    """

    measures_gradients: ClassVar[bool] = False
    """Whether the norm of every gradient is computed."""

    def __init__(
        self,
        network: N,
        optimizer: OptimizerFactory = adam,
        lr_schedule: Schedule = Schedule(),  # noqa: B008  immutable
        ema_decay: DecayRates = None,
        clip_norm: Positive | None = None,
    ) -> None:
        super().__init__()
        self.rate_factor = 1.0
        self.penalty: Callable[[Sequence[nn.Parameter]], Tensor] | None = None
        self.gradient_norm: Tensor | None = None
        self.compiling: Callable[..., CompiledLoss] | None = None
        self.latest: tuple[Tensor, ...] = ()
        self._compiled: CompiledLoss | None = None
        self.also_average: list[Average[N]] = []
        self.recall: Callable[[Weights], Average[N]] | None = None
        self.role = type(self).__name__.lower()
        check_factory(f"model.{self.role}.optimizer", optimizer)
        self.make_optimizer, self.lr_schedule, self.clip_norm = optimizer, lr_schedule, clip_norm
        self.ema_decay = ema_decay
        self.optimizer: Optimizer | None = None
        self._configured: list[dict[str, Any]] = []
        self._also: list[nn.Module] = []
        self.replace_network(network)

    def replace_network(self, network: N) -> None:
        """Train another network from now on, such as a wrapper of this one, with a new average."""
        self.network = network
        decays = decays_of(self.ema_decay)
        self.ema: EMA[N] | None = EMA(network, decays[0]) if decays else None
        self.further = nn.ModuleList(EMA(network, decay) for decay in decays[1:])

    @property
    def averages(self) -> list[EMA[N]]:
        """All averages of the weights. The first one is `ema`."""
        return [] if self.ema is None else [self.ema, *cast(Iterable[EMA[N]], self.further)]

    def include(self, network: nn.Module) -> None:
        """Let the optimizer move another network as well, which stays a module of the method."""
        self._also.append(network)

    @property
    def moved(self) -> list[nn.Module]:
        """The networks that the optimizer moves."""
        return [self.network, *self._also]

    def forward(self, *args: Tensor) -> Tensor:
        """Evaluate the network."""
        return cast(Tensor, self.network(*args))

    # ----------------------------------------------------------------------------------------------------- training

    def bind(self, role: str) -> Optimizer | None:
        """Make the optimizer, before training.

        Args:
            role: Name of the player in its method.

        Returns:
            The optimizer; None if nothing is trainable.
        """
        self.role = role
        parameters = [p for net in self.moved for p in net.parameters() if p.requires_grad]
        if not parameters:
            return None
        self.optimizer = self.make_optimizer(parameters)
        self.keep_settings()
        return self.optimizer

    def keep_settings(self) -> None:
        """Record the optimizer's current options as the configured ones."""
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        self._configured = [{key: value for key, value in group.items() if key != "params"} for group in groups]

    def restore_settings(self) -> None:
        """Restore the configured options of the optimizer, such as its rate, after a checkpoint replaced them."""
        if self.optimizer is not None:
            for group, configured in zip(self.optimizer.param_groups, self._configured, strict=True):
                group.update(configured)

    @property
    def settings(self) -> list[dict[str, Any]]:
        """The configured options of the optimizer's parameter groups."""
        return self._configured

    @property
    def lr(self) -> float:
        """The learning rate of this iteration, in the first parameter group."""
        return float(self.bound.param_groups[0]["lr"])

    @property
    def bound(self) -> Optimizer:
        """The optimizer, which must exist."""
        if self.optimizer is None:
            raise UserError(f"{self.role}: expected an optimizer, got none. Train the method with Trainer.fit")
        return self.optimizer

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that the optimizer moves."""
        return [p for group in self.bound.param_groups for p in group["params"]]

    def begin(self, progress: Progress) -> None:
        """Set the learning rate of an iteration."""
        if self.optimizer is None:
            return
        factor = self.lr_schedule(progress) * self.rate_factor
        for group, configured in zip(self.optimizer.param_groups, self._configured, strict=True):
            group["lr"] = configured["lr"] * factor

    def step(self, loss: Tensor) -> None:
        """Take one optimizer step down a loss (scalar).

        Gradients are averaged over ranks. No other parameters receive any, so nothing has to be frozen around a step.

        Raises:
            UserError: The loss is not a differentiable scalar, or does not depend on a trained parameter.
        """
        descend([self], loss)

    def fit(self, loss: Callable[..., Terms], *inputs: Tensor, key: str = "loss_D") -> Terms:
        """Take one optimizer step down one of the terms that a loss of tensors returns.

        Args:
            loss: Maps the inputs to terms (scalars). Nothing else in it may change between two calls, except for
                weights and noise of the method.
            inputs: Tensors.
            key: Name of the term.

        Returns:
            The terms, detached.

        Raises:
            UserError: There is no such term, it is not a differentiable scalar, or a trained parameter has no part.
        """
        if self.compiling is not None and self._compiled is None:
            self._compiled = self.compiling(self.moved, loss, key, f"loss of the {self.role}")
        self.latest = inputs
        if self._compiled is not None and self._compiled.loss == loss and self.penalty is None:
            terms, gradients = self._compiled(*inputs)
            self.apply_gradients(mean_over_ranks(self._compiled.gradients(gradients, self.trained)))
            return terms
        terms = loss(*inputs)
        if not isinstance(terms, dict) or key not in terms:
            got = list(terms) if isinstance(terms, dict) else type(terms).__name__
            raise UserError(f"{self.role}_loss: expected a dict with the {self.role}'s loss under '{key}', got {got}")
        self.step(terms[key])
        check_terms(f"{self.role}_loss", terms, detached=False)
        return {name: value.detach() for name, value in terms.items()}

    def plain(self) -> None:
        """Evaluate losses as they are from now on, and forget what is compiled."""
        self.compiling = self._compiled = None

    def apply_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Take one optimizer step along given gradients, one for each trained parameter, equal on all ranks."""
        parameters = self.trained
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.clip_norm is not None or self.measures_gradients:
            norm = nn.utils.clip_grad_norm_(parameters, self.clip_norm or math.inf)
            self.gradient_norm = norm.detach()
        self.bound.step()

    def adopt(self, network: nn.Module) -> None:
        """Take the weights of an equal network, for the average too."""
        state = network.state_dict()
        self.network.load_state_dict(state)
        for average in self.averages:
            average.network.load_state_dict(state)

    def average(self, iteration: int) -> None:
        """Fold the weights after an iteration, counted from 1, into their averages."""
        for average in (*self.averages, *self.also_average):
            average.update(self.network, iteration)

    def raise_for_unused(self, gradients: Sequence[Tensor | None]) -> None:
        """Raise for parameters that a loss does not depend on.

        Args:
            gradients: One for each trained parameter, None without a dependence.

        Raises:
            UserError: The error names them.
        """
        unused = {id(p) for p, gradient in zip(self.trained, gradients, strict=True) if gradient is None}
        names = [name for net in self.moved for name, p in net.named_parameters() if id(p) in unused]
        lost = f"expected a loss of all trained parameters, got one without {', '.join(names[:3])}"
        raise UserError(f"{self.role}.step: {lost}. Remove them from the network, or set requires_grad to False")

    # ------------------------------------------------------------------------------------------------------ evaluation

    def keeps(self, weights: Weights) -> bool:
        """Whether the player has such weights."""
        return weights == "raw" or self._average(weights) is not None

    def weighted(self, weights: Weights) -> N:
        """The network with the averaged or the raw weights.

        Raises:
            UserError: The average is not kept.
        """
        if weights == "raw":
            return self.network
        if (average := self._average(weights)) is None:
            kept = [f"ema@{float(average.decay)}" for average in self.averages]
            if not kept:
                wanted = f"expected raw, got {weights}, but {self.role} keeps no average"
                raise UserError(f"weights: {wanted}. Choose raw, or train with an ema_decay")
            wanted = f"expected raw, ema or one of {', '.join(kept)}, as {self.role} keeps"
            power = weights.startswith(POWER)
            advice = "Train with the callback PowerAverages" if power else "Give its ema_decay a list with this decay"
            raise UserError(f"weights: {wanted}, got {weights}. {advice}")
        return average.network

    def _average(self, weights: Weights) -> Average[N] | None:
        """The average of this name; None if it is not kept."""
        if weights == "ema":
            return self.ema
        if weights.startswith(POWER):
            return None if self.recall is None else self.recall(weights)
        return next((average for average in self.averages if weights == f"ema@{float(average.decay)}"), None)

    @contextmanager
    def fixed(self, weights: Weights = "raw") -> Iterator[N]:
        """The network as one function of its arguments, in evaluation mode, inside a `with` block."""
        network = self.weighted(weights)
        with in_evaluation(network):
            yield network


@contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """Keep a module in evaluation mode inside a `with` block, and restore the mode of every layer."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def descend(players: Sequence[Player[Any]], loss: Tensor) -> None:
    """Take one optimizer step of every player down one loss (scalar), after one backward pass.

    Gradients are averaged over ranks. No other parameters receive any, so nothing has to be frozen around a step.

    Raises:
        UserError: The loss is not a differentiable scalar, or does not depend on a trained parameter.
    """
    parameters = [p for player in players for p in player.trained]
    check_loss(f"{' and '.join(player.role for player in players)}.step", loss)
    for player in players:
        if player.penalty is not None:
            loss = loss + player.penalty(player.trained)
    with torch.autocast(loss.device.type, enabled=False):  # backward in the precision that forward chose
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for player, own in zip(players, _shares(players, gradients), strict=True):
        if any(gradient is None for gradient in own):
            player.raise_for_unused(own)
    for player, own in zip(players, _shares(players, mean_over_ranks(gradients)), strict=True):
        player.apply_gradients(own)


def _shares(players: Sequence[Player[Any]], gradients: Sequence[Tensor]) -> list[list[Tensor]]:
    """The gradients of every player, from those of all in order."""
    rest = iter(gradients)
    return [list(islice(rest, len(player.trained))) for player in players]


def check_players(hints: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Check that arguments with the annotation of a player are players.

    Args:
        hints: Annotations of a method's arguments by name.
        arguments: Values by name.

    Raises:
        UserError: An argument is something else, such as a network alone.
    """
    for name, value in arguments.items():
        kind = hints.get(name)
        if isinstance(kind, type) and issubclass(kind, Player) and not isinstance(value, kind):
            wanted, got = kind.__name__, type(value).__name__
            raise UserError(f"model.{name}: expected a player of kind {wanted}, got {got}. Write {wanted}(network)")
