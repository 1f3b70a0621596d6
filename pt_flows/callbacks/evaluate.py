"""Measure generated samples on a schedule, and in `validate` and `test`."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor

from pt_flows.callbacks.schedule import EveryIterations, as_flow
from pt_flows.contracts import UserError, Weights
from pt_flows.methods.base import GenerativeModule, GeneratorModule
from pt_flows.methods.energy_base import EnergyModule
from pt_flows.metrics.base import SampleMetric
from pt_flows.progress import track
from pt_flows.state.distributed import world
from pt_flows.state.noise import generator_at

CHUNK = 500
"""Samples drawn from one seed: which numbers sample i gets does not depend on ranks or batches."""


def evaluation_samples(module: GenerativeModule, num: int, weights: Weights, stream: str) -> Iterator[Tensor]:
    """This rank's share of `num` samples from fixed noise, in chunks.

    Args:
        module: Draws the samples.
        num: Over all ranks.
        weights: Averaged or raw.
        stream: Name of the noise; the same name gives the same latents in every run.
    """
    rank, num_ranks = world()
    for chunk in range(rank, -(-num // CHUNK), num_ranks):
        yield module.sample(min(CHUNK, num - chunk * CHUNK), rng=generator_at("cpu", stream, chunk), weights=weights)


def measured(
    metrics: Sequence[SampleMetric], batches: Iterable[Tensor], module: GenerativeModule | None, weights: Weights
) -> dict[str, float]:
    """One pass over generated samples feeds every metric.

    Args:
        metrics: Prepared for as many samples.
        batches: Generated samples (B, *event).
        module: Where they come from, for metrics of a map or an energy; None for images of unknown origin.
        weights: Averaged or raw.
    """
    for metric in metrics:
        metric.reset()
        if isinstance(module, GeneratorModule):
            metric.update_map(partial(module.push, weights=weights))
        if isinstance(module, EnergyModule):
            metric.update_energy(partial(module.clean_energy, weights=weights))
    for x in batches:
        for metric in metrics:
            metric.update(x)
    return {key: value for metric in metrics for key, value in metric.compute().items()}


class Evaluate(EveryIterations):
    """One pass over generated samples feeds every metric; the numbers go to all loggers as `eval/<key>`.

    The latents are the same at every evaluation and in every run, so that curves differ by weights alone.

    Args:
        metrics: What to measure; the first one ranks checkpoints.
        num_samples: Generated samples per evaluation, over all ranks.
        every_n_iterations: How often, beside after the last iteration.
        weights: The moving average, or the raw weights.
    """

    def __init__(
        self,
        metrics: list[SampleMetric] | None = None,
        num_samples: int = 10_000,
        every_n_iterations: int = 5_000,
        weights: Weights = "ema",
    ) -> None:
        super().__init__(every_n_iterations)
        if num_samples < 1:
            raise UserError(f"evaluation.num_samples must be at least 1, got {num_samples}")
        self.metrics, self.num_samples = metrics or [], num_samples
        self.weights: Weights = weights
        self.latest: dict[str, float] = {}
        self.latest_iteration = -1

    @property
    def watched(self) -> tuple[str, bool] | None:
        """Log key that ranks checkpoints, and whether higher is better; None without metrics."""
        if not self.metrics:
            return None
        return f"eval/{self.metrics[0].key}", bool(self.metrics[0].higher_is_better)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prepare references before training, so that what is missing is missed at once."""
        self.prepare(trainer)

    def prepare(self, trainer: L.Trainer) -> None:
        """Give every metric its reference."""
        device = trainer.strategy.root_device
        for metric in self.metrics:
            metric.to(device).prepare(cast(Any, trainer).datamodule, self.num_samples)
            metric.to(device)  # and what `prepare` added

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate where it is due."""
        module = as_flow(pl_module)
        if self.metrics and self.due(trainer, module):
            module.flush_terms()
            self.latest, self.latest_iteration = self.measure(module), module.iteration
            module.write(self.latest)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate in `pt-flows validate`."""
        if trainer.state.fn == "validate":
            self.prepare(trainer)
            pl_module.log_dict(self.measure(as_flow(pl_module)))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate in `pt-flows test`: against the test split where a metric names a split."""
        for metric in self.metrics:
            metric.use_split("test")
        self.prepare(trainer)
        pl_module.log_dict(self.measure(as_flow(pl_module)))

    @torch.no_grad()
    def measure(self, module: GenerativeModule) -> dict[str, float]:
        """All numbers of the current weights."""
        total = -(-self.num_samples // CHUNK)
        chunks = evaluation_samples(module, self.num_samples, self.weights, "evaluation")
        batches = track(chunks, "evaluating", total, quiet=world()[0] > 0)
        found = measured(self.metrics, batches, module, self.weights)
        return {f"eval/{key}": value for key, value in found.items()}
