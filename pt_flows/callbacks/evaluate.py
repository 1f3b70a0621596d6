"""Measure generated samples on a schedule, and in `validate` and `test`."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import lightning as L
import torch
from torch import Tensor

from pt_flows.callbacks.schedule import EveryIterations, as_flow
from pt_flows.callbacks.watchers import tell_watchers, watch_evaluations
from pt_flows.contracts import Weights
from pt_flows.errors import UserError
from pt_flows.loop.base import GenerativeModule, GeneratorModule
from pt_flows.methods.energies.base import EnergyModule
from pt_flows.metrics.base import RealData, SampleMetric, full_precision
from pt_flows.progress import track
from pt_flows.training.distributed import share_of, world
from pt_flows.training.noise import generator_at

T = TypeVar("T")
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
    for chunk in share_of(-(-num // CHUNK)):
        yield module.sample(min(CHUNK, num - chunk * CHUNK), rng=generator_at("cpu", stream, chunk), weights=weights)


def with_progress(chunks: Iterable[Tensor], num: int, text: str) -> Iterable[Tensor]:
    """A bar over this rank's chunks of `num` samples, shown by the first rank."""
    return track(chunks, text, len(share_of(-(-num // CHUNK))), quiet=world()[0] > 0)


def prepare_metrics(
    metrics: Sequence[SampleMetric], data: RealData, num: int, device: torch.device, module: Any = None
) -> None:
    """Give metrics of `num` generated samples of a module their references, on a device."""
    for metric in metrics:
        metric.sample_noise = module.sample_noise if isinstance(module, EnergyModule) else 0.0
        metric.to(device).prepare(data, num)
        metric.to(device)  # and what `prepare` added


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
    with full_precision(metrics[0].device):  # samples are drawn here too
        for x in batches:
            for metric in metrics:
                metric.update(x)
        return {key: value for metric in metrics for key, value in metric.compute().items()}


def listed(given: T | Sequence[T] | None) -> list[T]:
    """One of something, several or none as a list."""
    return list(given) if isinstance(given, list | tuple) else [] if given is None else [cast(T, given)]


class Tier(NamedTuple):
    """Metrics that are measured together, on so many samples over all ranks."""

    metrics: list[SampleMetric]
    num_samples: int


class Evaluate(EveryIterations):
    """One pass over generated samples feeds every metric; the numbers go to all loggers as `eval/<key>`.

    The latents are the same at every evaluation and in every run, so that curves differ by weights alone. Two tiers: a
    cheap curve, and full numbers at milestones and at the end.

    Args:
        metrics: What to measure, one metric or a list; the first one ranks checkpoints.
        num_samples: Generated samples per evaluation, over all ranks.
        every_n_iterations: How often, beside after the last iteration.
        weights: The moving average, or the raw weights.
        full_metrics: What to measure rarely, on more samples.
        full_num_samples: Generated samples for them, over all ranks.
        full_every_n_iterations: How often, beside after the last iteration; 0 for then only.
    """

    def __init__(
        self,
        metrics: list[SampleMetric] | SampleMetric | None = None,
        num_samples: int = 10_000,
        every_n_iterations: int = 5_000,
        weights: Weights = "ema",
        full_metrics: list[SampleMetric] | SampleMetric | None = None,
        full_num_samples: int = 50_000,
        full_every_n_iterations: int = 0,
    ) -> None:
        super().__init__(every_n_iterations)
        for key, num in (("num_samples", num_samples), ("full_num_samples", full_num_samples)):
            if num < 1:
                raise UserError(f"evaluation.{key} must be at least 1, got {num}")
        self.curve, self.full = Tier(listed(metrics), num_samples), Tier(listed(full_metrics), full_num_samples)
        self.milestones = EveryIterations(full_every_n_iterations)
        self.weights: Weights = weights
        self.found: list[tuple[Tier, dict[str, float]]] = []
        self.latest_iteration = -1

    @property
    def latest(self) -> dict[str, float]:
        """The numbers of the last evaluation by their log keys."""
        return {f"eval/{key}": value for _, numbers in self.found for key, value in numbers.items()}

    @property
    def watched(self) -> tuple[str, bool] | None:
        """Log key that ranks checkpoints, and whether higher is better; None without metrics."""
        if not self.curve.metrics:
            return None
        first = self.curve.metrics[0]
        return f"eval/{first.key}", bool(first.higher_is_better)

    @property
    def tiers(self) -> list[Tier]:
        """Those that measure anything."""
        return [tier for tier in (self.curve, self.full) if tier.metrics]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prepare references before training, so that what is missing is missed at once."""
        if self.tiers:
            watch_evaluations(trainer)
        self.prepare(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do not measure again what was measured before a resume."""
        super().on_train_start(trainer, pl_module)
        self.milestones.on_train_start(trainer, pl_module)

    def prepare(self, trainer: L.Trainer) -> None:
        """Give every metric its reference."""
        device = trainer.strategy.root_device
        for tier in self.tiers:
            data = cast(Any, trainer).datamodule
            prepare_metrics(tier.metrics, data, tier.num_samples, device, trainer.lightning_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate where it is due."""
        module = as_flow(pl_module)
        due = [(self.due(trainer, module), self.curve), (self.milestones.due(trainer, module), self.full)]
        if tiers := [tier for now, tier in due if now and tier.metrics]:
            module.flush_terms()
            self.measure(module, tiers)
            module.write(self.latest)
            tell_watchers(trainer, module, self.latest)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the end of a run that ended early."""
        self.milestones.ends = not trainer.interrupted
        super().on_train_end(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate in `pt-flows validate`."""
        if trainer.state.fn == "validate":
            self.prepare(trainer)
            self.measure(as_flow(pl_module), self.tiers)
            pl_module.log_dict(self.latest)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate in `pt-flows test`: against the test split where a metric names a split."""
        for tier in self.tiers:
            for metric in tier.metrics:
                metric.use_split("test")
        self.prepare(trainer)
        self.measure(as_flow(pl_module), self.tiers)
        pl_module.log_dict(self.latest)

    @torch.no_grad()
    def measure(self, module: GenerativeModule, tiers: Sequence[Tier]) -> None:
        """Find all numbers of the current weights."""
        same = self.latest_iteration == module.iteration  # an early end adds what was not due there
        self.found = [(old, numbers) for old, numbers in self.found if same and all(old is not new for new in tiers)]
        for tier in tiers:
            chunks = evaluation_samples(module, tier.num_samples, self.weights, "evaluation")
            batches = with_progress(chunks, tier.num_samples, "evaluating")
            self.found.append((tier, measured(tier.metrics, batches, module, self.weights)))
        self.latest_iteration = module.iteration
