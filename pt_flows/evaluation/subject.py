"""Subjects of evaluation: a method with its weights and a sampler."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pt_flows.contracts import Weights
from pt_flows.loop.journal import Cost
from pt_flows.loop.method import Method
from pt_flows.samplers import Sampler, default_sampler
from pt_flows.training.distributed import share_of, sum_over_ranks
from pt_flows.training.noise import generator_at

CHUNK = 500
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
    """

    method: Method
    weights: Weights = "ema"
    sampler: Sampler | None = None
    data: Any = None
    evaluations: dict[str, float] = field(default_factory=dict)

    @property
    def chosen(self) -> Sampler:
        """The given sampler, or the method's own one."""
        self.sampler = self.sampler or default_sampler(self.method)
        return self.sampler

    def prepared(self) -> Sampler:
        """The sampler, ready to draw from the method's current weights."""
        self.chosen.prepare(self.method, self.weights, self.data)
        return self.chosen

    def chunks(self, num: int, stream: str) -> Iterator[Tensor]:
        """Draw this rank's part of `num` samples from fixed noise, in chunks, and count their cost.

        Args:
            num: Samples over all ranks.
            stream: Name of the noise; the same name gives the same noise in every run.
        """
        sampler = self.prepared()
        drawing = {name: p.weighted(self.weights) for name, p in self.method.players.items() if p.keeps(self.weights)}
        cost = Cost(on_all_ranks=False)
        cost.watch(drawing)
        try:
            for chunk in share_of(-(-num // CHUNK)):
                with cost.running():
                    x = sampler.sample(min(CHUNK, num - chunk * CHUNK), rng=generator_at("cpu", stream, chunk))
                yield x
        finally:
            cost.unwatch()
        counts = [cost.evaluations.get(name, 0) for name in drawing]
        totals = sum_over_ranks(torch.tensor(counts, dtype=torch.float64, device=self.method.device)).tolist()
        self.evaluations = {name: total / num for name, total in zip(drawing, totals, strict=True) if total}

    @property
    def sampling_cost(self) -> dict[str, float]:
        """The entries of a passport's cost: `evaluations` by the names of the networks."""
        return {f"sampling_{name}": num for name, num in self.evaluations.items()}
