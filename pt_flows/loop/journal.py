"""The journal of a run: it turns the terms of iterations into rows of the log, and counts costs."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from statistics import fmean
from typing import Any, Protocol

import lightning as L
import torch
from torch import nn

from pt_flows.contracts import AddsNoise, FlowNet, Terms
from pt_flows.errors import DivergenceError
from pt_flows.training.distributed import world
from pt_flows.training.player import Player
from pt_flows.training.rates import RateControl
from pt_flows.training.requirements import check_terms
from pt_flows.training.rounds import Rounds


class Cost:
    """The cost of training so far: seconds in training steps, data consumed, samples that each network evaluated.

    Evaluation, pictures and checkpoints are not counted.

    Args:
        on_all_ranks: Whether all ranks evaluate equally many samples.

    Attributes:
        seconds: Time in training steps.
        images_seen: Real samples consumed, over all ranks.
        evaluations: Samples that each network has evaluated, over all ranks; the same on every machine.
    """

    def __init__(self, on_all_ranks: bool = True) -> None:
        self.on_all_ranks = on_all_ranks
        self.seconds = 0.0
        self.images_seen = 0
        self.evaluations: dict[str, int] = {}
        self._since: float | None = None
        self._counters: list[Any] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count inside a `with` block."""
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self.tick()
            self._since = None

    def tick(self) -> None:
        """Bring `seconds` up to date."""
        if self._since is not None:
            now = time.perf_counter()
            self.seconds, self._since = self.seconds + now - self._since, now

    def count(self, network: str, num: int) -> None:
        """Count samples that a network evaluates on this rank, times the number of ranks if all evaluate as many."""
        if self._since is not None:
            ranks = world()[1] if self.on_all_ranks else 1
            self.evaluations[network] = self.evaluations.get(network, 0) + num * ranks

    @contextmanager
    def apart(self) -> Iterator[dict[str, int]]:
        """Collect the evaluations inside a `with` block, and do not count them."""
        before, self.evaluations = self.evaluations, {}
        try:
            yield self.evaluations
        finally:
            self.evaluations = before

    def add(self, evaluations: Mapping[str, int]) -> None:
        """Count evaluations that were collected apart."""
        for network, num in evaluations.items():
            self.evaluations[network] = self.evaluations.get(network, 0) + num

    def watch(self, networks: dict[str, nn.Module]) -> None:
        """Count every evaluation of the networks, too, from now on."""
        self._counters += [net.register_forward_pre_hook(partial(self._hook, name)) for name, net in networks.items()]

    def _hook(self, name: str, network: nn.Module, inputs: tuple[Any, ...]) -> None:
        along_paths = isinstance(network, FlowNet) and len(inputs) == 1  # it evaluates velocities, which are counted
        if inputs and isinstance(inputs[0], torch.Tensor) and not along_paths:
            self.count(name, len(inputs[0]))

    def unwatch(self) -> None:
        """Stop counting evaluations."""
        for counter in self._counters:
            counter.remove()
        self._counters = []

    def state_dict(self) -> dict[str, Any]:
        """The costs as plain values."""
        return {"seconds": self.seconds, "images_seen": self.images_seen, "evaluations": dict(self.evaluations)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue counting from saved costs."""
        self.seconds, self.images_seen = float(state["seconds"]), int(state["images_seen"])
        self.evaluations = {str(name): int(num) for name, num in state["evaluations"].items()}

    def row(self) -> dict[str, float]:
        """The costs by their log keys."""
        evaluations = {f"cost/evaluations_{name}": float(num) for name, num in self.evaluations.items()}
        return {"cost/images_seen": float(self.images_seen), "cost/seconds": self.seconds} | evaluations


class Judge(Protocol):
    """The part of a method that the journal uses."""

    iteration: int
    cost: Cost
    rates: RateControl | None
    rounds: Rounds | None

    @property
    def trainer(self) -> L.Trainer:
        """The trainer of the run."""
        ...

    @property
    def players(self) -> dict[str, Player[Any]]:
        """The players by name."""
        ...

    def check(self, iteration: int, terms: dict[str, float]) -> None:
        """Raise if the terms of an iteration show that the run is lost."""
        ...

    def diagnose(self, row: dict[str, float]) -> dict[str, float]:
        """Return more numbers for a row of the log."""
        ...


class Journal:
    """Collects terms without reading them back from the device, and writes their means as rows of the log."""

    def __init__(self) -> None:
        self._terms: list[Terms] = []
        self._known: set[str] = set()
        self._flushed = (0, 0.0)

    def begin(self, method: Judge) -> None:
        """Begin the first interval of the log."""
        self._flushed = (method.iteration, method.cost.seconds)

    def add(self, method: Judge, terms: Terms) -> None:
        """Collect the terms of an iteration.

        Raises:
            UserError: They are not detached scalar tensors.
        """
        if not isinstance(terms, dict) or not terms.keys() <= self._known:
            check_terms(f"{type(method).__name__}.iterate", terms)
            self._known |= terms.keys()
        self._terms.append(terms)

    def flush(self, method: Judge) -> None:
        """Log the means since the last flush. Only here does training wait for the device.

        Raises:
            DivergenceError: The method finds that the run is lost.
        """
        if not self._terms:
            return
        first = method.iteration - len(self._terms) + 1
        names = [list(terms) for terms in self._terms]
        terms = [value.float() for terms in self._terms for value in terms.values()]
        values = iter(torch.stack(terms).tolist() if terms else [])
        self._terms.clear()
        by_name: dict[str, list[float]] = {}
        for iteration, terms in enumerate(names, first):
            numbers = {name: next(values) for name in terms}
            method.check(iteration, numbers)
            for name, value in numbers.items():
                by_name.setdefault(name, []).append(value)
        row = {f"train/{name}": fmean(v) for name, v in by_name.items() if not name.startswith("_")}
        row |= {f"train/lr_{name}": p.lr for name, p in method.players.items() if p.optimizer is not None}
        row |= noise_stds(method.players)
        for part in (method.rates, method.rounds):
            row |= {} if part is None else part.report()
        method.cost.tick()
        before, since = self._flushed
        self._flushed = (method.iteration, method.cost.seconds)
        rate = (method.iteration - before) / max(method.cost.seconds - since, 1e-9)
        row |= method.cost.row() | {"cost/iterations_per_second": rate}
        self.write(method, row | method.diagnose(row))

    def write(self, method: Judge, values: dict[str, float]) -> None:
        """Send numbers to every logger, and to callbacks that monitor a metric."""
        trainer = method.trainer
        for logger in trainer.loggers:
            logger.log_metrics(values, step=method.iteration)
        trainer.callback_metrics.update({key: torch.as_tensor(value) for key, value in values.items()})


def noise_stds(players: dict[str, Player[Any]]) -> dict[str, float]:
    """The mean standard deviation of every stochastic layer by its log key; layers count from 1, in forward order."""
    row = {}
    for name, player in players.items():
        layers = [layer for layer in player.network.modules() if isinstance(layer, AddsNoise)]
        row |= {f"train/noise_std_{name}_{i}": float(layer.sigma.detach().mean()) for i, layer in enumerate(layers, 1)}
    return row


def check_finite(iteration: int, terms: dict[str, float]) -> None:
    """Check the terms of an iteration.

    Raises:
        DivergenceError: A term is not finite.
    """
    for name, value in terms.items():
        if not math.isfinite(value):
            advice = "Lower the learning rate or the step size, or raise the penalty weight"
            raise DivergenceError(f"{name.lstrip('_')} is {value} at iteration {iteration}. {advice}")
