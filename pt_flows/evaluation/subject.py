"""Subjects of evaluation: a method with its weights and a sampler."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pt_flows.contracts import MapsLatents, Predicts, RunsChains, Samples, Weights
from pt_flows.loop.journal import Cost
from pt_flows.loop.method import Method
from pt_flows.samplers import Sampler, check_drawn, default_sampler
from pt_flows.training.distributed import share_of, sum_over_ranks
from pt_flows.training.noise import BLOCK, generator_at

CHUNK = BLOCK
"""Number of samples from one seed, so that sample i does not depend on ranks or batches."""


@dataclass
class Subject:
    """A method, the weights that draw, and the sampler that draws.

    Attributes:
        method: The trained method, on its device.
        weights: The averaged weights, or the raw ones.
        sampler: The sampler; by default the method's own one.
        data: The data module of the method, for samplers that need it.
        evaluations: Samples that each network evaluated for one of the samples drawn last, over all ranks.
        preparing: Samples that each network evaluated when the sampler was prepared last, on one rank.
        diagnostics: The sampler's numbers about the samples drawn last, over all ranks.
    """

    method: Method
    weights: Weights = "ema"
    sampler: Sampler | None = None
    data: Any = None
    evaluations: dict[str, float] = field(default_factory=dict)
    preparing: dict[str, float] = field(default_factory=dict)
    diagnostics: dict[str, float] = field(default_factory=dict)

    @property
    def draws(self) -> bool:
        """Whether samples are drawn; a method that predicts may draw none."""
        draws = self.sampler is not None or isinstance(self.method, MapsLatents | RunsChains | Samples)
        return draws or not isinstance(self.method, Predicts)

    @property
    def sampler_name(self) -> str:
        """The sampler with its arguments; empty if no samples are drawn."""
        return str(self.chosen) if self.draws else ""

    @property
    def chosen(self) -> Sampler:
        """The given sampler, or the method's own one."""
        self.sampler = self.sampler or default_sampler(self.method)
        return self.sampler

    def check(self) -> None:
        """Check that the sampler fits the method, before it is trained. One without need of data is prepared for it."""
        if not self.draws:
            return
        if self.chosen.needs_data:
            self.chosen.check(self.method)
        else:
            self.prepared()

    def prepared(self) -> Sampler:
        """The sampler, ready to draw from the method's current weights."""
        cost = self._watching()
        try:
            with cost.running():
                self.chosen.prepare(self.method, self.weights, self.data)
        finally:
            cost.unwatch()
        self.preparing = {name: float(num) for name, num in cost.evaluations.items()}
        return self.chosen

    def chunks(self, num: int, stream: str) -> Iterator[Tensor]:
        """Draw this rank's part of `num` samples from fixed noise, in chunks, and count their cost.

        There are none for a method that draws no samples.

        Args:
            num: Samples over all ranks.
            stream: Name of the noise; the same name gives the same noise in every run.
        """
        if not self.draws:
            return
        sampler = self.prepared()
        with self.counting(num) as cost:
            for chunk in share_of(-(-num // CHUNK)):
                size = min(CHUNK, num - chunk * CHUNK)
                with cost.running():
                    x = sampler.sample(size, rng=generator_at("cpu", stream, chunk))
                check_drawn(sampler, x, size, self.method)
                yield x

    @contextmanager
    def counting(self, num: int) -> Iterator[Cost]:
        """Measure the cost of `num` samples over all ranks inside a `with` block, and collect their diagnostics."""
        cost = self._watching()
        try:
            yield cost
        finally:
            cost.unwatch()
        own = sum(min(CHUNK, num - chunk * CHUNK) for chunk in share_of(-(-num // CHUNK)))
        found = self.chosen.diagnostics()
        counts = [cost.evaluations.get(name, 0) for name in self.method.networks]
        sums = torch.tensor([*counts, *(own * value if own else 0.0 for value in found.values())], dtype=torch.float64)
        totals = [total / num for total in sum_over_ranks(sums.to(self.method.device)).tolist()]
        evaluations = zip(self.method.networks, totals, strict=False)
        self.evaluations = {name: mean for name, mean in evaluations if mean}
        self.diagnostics = dict(zip(found, totals[len(counts) :], strict=True))

    def _watching(self) -> Cost:
        """A count of the evaluations of all networks, with the raw weights and those of the subject."""
        cost = Cost(on_all_ranks=False)
        cost.watch(self.method.networks)
        if self.weights != "raw":
            players = self.method.players.items()
            cost.watch({name: p.weighted(self.weights) for name, p in players if p.keeps(self.weights)})
        return cost

    @property
    def sampling_cost(self) -> dict[str, float]:
        """The entries of a passport's cost: `evaluations` and `preparing` by the names of the networks."""
        found = {f"sampling_{name}": num for name, num in self.evaluations.items()}
        return found | {f"preparing_{name}": num for name, num in self.preparing.items()}
