"""Measurement of generated samples during training, in `validate` and in `test`."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import lightning as L
import torch

from pt_flows.bounds import Count, CountOrZero
from pt_flows.callbacks.records import record_run
from pt_flows.callbacks.schedule import EveryIterations, as_method
from pt_flows.callbacks.watchers import tell_watchers, watch_evaluations
from pt_flows.contracts import POWER, Split, Weights
from pt_flows.errors import UserError
from pt_flows.evaluation.engine import listed, measure, name_lacking, prepare_metrics
from pt_flows.evaluation.provenance import directions_of
from pt_flows.evaluation.subject import Subject
from pt_flows.loop.method import Method
from pt_flows.metrics.base import SampleMetric
from pt_flows.runs.described import section_of
from pt_flows.runs.loggers import IterationWandbLogger
from pt_flows.samplers import Sampler


class Tier(NamedTuple):
    """Metrics that are measured on the same samples, and the number of samples over all processes."""

    metrics: list[SampleMetric]
    num_samples: int


class Found(NamedTuple):
    """The numbers of a subject in one tier."""

    tier: Tier
    subject: Subject
    numbers: dict[str, float]


class Evaluate(EveryIterations):
    """Measures all metrics in one pass over generated samples, and logs the numbers as `eval/<key>`.

    Several weights are measured one after the other on the same noise. The numbers of all but the first ones are logged
    as `eval_<weights>/<key>`, such as `eval_raw/w2_512`.

    The noise is the same at every evaluation and in every run, so that curves differ by weights alone. There are two
    tiers: a cheap curve, and full numbers at milestones and at the end.

    Args:
        metrics: One metric or a list of metrics. The first one ranks checkpoints.
        num_samples: Generated samples per evaluation, over all processes.
        every_n_iterations: Iterations between two evaluations. Another one follows the last iteration.
        split: Split of the real samples for all metrics; by default each metric uses its own. "other" takes samples
            that a metric does not use by itself, for choices that must not see the real samples of the final numbers:
            the other split, or for predictions and likelihoods the next ones of the test split.
        weights: The moving average, the raw weights, an average with another decay (`ema@0.9999`), or a list of these.
            The first ones rank checkpoints.
        sampler: Draws the samples; default the method's own way.
        full_metrics: One metric or a list of metrics, measured rarely and on more samples.
        full_num_samples: Generated samples for the full metrics, over all processes.
        full_every_n_iterations: Iterations between two full evaluations; 0 evaluates after the last iteration only.
    """

    def __init__(
        self,
        metrics: list[SampleMetric] | SampleMetric | None = None,
        num_samples: Count = 10_000,
        every_n_iterations: CountOrZero = 5_000,
        split: Split | Literal["other"] | None = None,
        weights: list[Weights] | Weights = "ema",
        sampler: Sampler | None = None,
        full_metrics: list[SampleMetric] | SampleMetric | None = None,
        full_num_samples: Count = 50_000,
        full_every_n_iterations: CountOrZero = 0,
    ) -> None:
        super().__init__(every_n_iterations)
        self.curve, self.full = Tier(listed(metrics), num_samples), Tier(listed(full_metrics), full_num_samples)
        for metric in (*self.curve.metrics, *self.full.metrics):
            if split == "other":
                metric.use_other_samples()
            elif split is not None:
                metric.use_split(split)
        self.milestones = EveryIterations(full_every_n_iterations)
        self.weights: list[Weights] = list(dict.fromkeys(listed(weights)))
        self.sampler = sampler
        self.found: list[Found] = []
        self.latest_iteration = -1

    @property
    def latest(self) -> dict[str, float]:
        """Numbers of the last evaluation by log key."""
        return {
            f"{self.section(subject)}/{key}": value
            for _, subject, numbers in self.found
            for key, value in numbers.items()
        }

    def section(self, subject: Subject) -> str:
        """The part of log keys before the slash: that of the first weights is plain."""
        return section_of(subject.weights, self.weights[0])

    @property
    def watched(self) -> tuple[str, bool] | None:
        """The log key that ranks checkpoints, and whether higher is better; None without metrics."""
        if not self.curve.metrics:
            return None
        first = self.curve.metrics[0]
        return f"eval/{first.key}", bool(first.higher_is_better)

    @property
    def tiers(self) -> list[Tier]:
        """The tiers that have metrics."""
        return [tier for tier in (self.curve, self.full) if tier.metrics]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prepare references before training, so that missing files are reported at once."""
        if self.tiers:
            watch_evaluations(trainer)
        self.prepare(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Skip evaluations that were done before a resume."""
        super().on_train_start(trainer, pl_module)
        self.milestones.on_train_start(trainer, pl_module)

    def prepare(self, trainer: L.Trainer) -> None:
        """Give every metric its reference, and check that weights and sampler fit the method."""
        method, data = as_method(trainer.lightning_module), cast(Any, trainer).datamodule
        self.subjects = [Subject(method, weights, self.sampler, data) for weights in self.weights]
        if self.tiers:
            check_kept(method, self.weights)
            for subject in self.subjects:
                subject.check()
        device = trainer.strategy.root_device
        for tier in self.tiers:
            prepare_metrics(tier.metrics, data, tier.num_samples, device, trainer.lightning_module)
        name_lacking(metric for tier in self.tiers for metric in tier.metrics)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate when it is due."""
        module = as_method(pl_module)
        due = [(self.due(trainer, module), self.curve), (self.milestones.due(trainer, module), self.full)]
        if tiers := [tier for now, tier in due if now and tier.metrics]:
            module.flush()
            self.measure(module, tiers)
            self.record(trainer, module)
            tell_watchers(trainer, module, self.latest)

    def record(self, trainer: L.Trainer, module: Method) -> None:
        """Log the numbers with their costs in one row, from which any chart of a number against a cost is drawn."""
        for logger in trainer.loggers:
            if isinstance(logger, IterationWandbLogger) and not self.latest.keys() <= logger.directions.keys():
                for tier, subject, numbers in self.found:
                    told = directions_of(tier.metrics, numbers, subject)
                    logger.directions |= {f"{self.section(subject)}/{key}": better for key, better in told.items()}
        module.journal.write(module, self.latest | module.cost.row())

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate at the end of a run that ended early."""
        self.milestones.ends = not trainer.interrupted
        super().on_train_end(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate in `pt-flows validate`."""
        if trainer.state.fn == "validate":
            self.prepare(trainer)
            self.measure(as_method(pl_module), self.tiers)
            pl_module.log_dict(self.latest)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate in `pt-flows test`. Metrics that have a split use the test split."""
        for tier in self.tiers:
            for metric in tier.metrics:
                metric.use_split("test")
        self.prepare(trainer)
        self.measure(as_method(pl_module), self.tiers)
        pl_module.log_dict(self.latest)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the last numbers with their passports to the run folder, as `pt-flows evaluate` does."""
        method = as_method(pl_module)
        if self.latest_iteration == method.iteration and not cast(Any, trainer).fast_dev_run:
            record_run(trainer, [(subject, *tier, numbers) for tier, subject, numbers in self.found])

    @torch.no_grad()
    def measure(self, module: Method, tiers: Sequence[Tier]) -> None:
        """Measure the current weights."""
        same = self.latest_iteration == module.iteration  # an early end adds the tiers that were not due
        self.found = [old for old in self.found if same and all(old.tier is not new for new in tiers)]
        for tier in tiers:
            for subject in self.subjects:
                numbers = measure(subject, tier.metrics, tier.num_samples, "evaluation", "evaluating")
                self.found.append(Found(tier, subject, numbers))
        self.latest_iteration = module.iteration


def check_kept(method: Method, wanted: Sequence[Weights]) -> None:
    """Check that averages with decays of their own are kept, before training.

    Raises:
        UserError: No player keeps one of them.
    """
    for weights in wanted:
        if weights.startswith(POWER):
            advice = "Measure it afterwards with pt-flows evaluate --weights"
            got = f"{weights}, which is made after training"
            raise UserError(f"evaluation.weights: expected ema, raw or an average of a player, got {got}. {advice}")
        if weights.startswith("ema@") and not any(player.keeps(weights) for player in method.players.values()):
            decay = weights.removeprefix("ema@")
            got = f"{weights}, which no player keeps"
            advice = f"Add it to the drawing player's ema_decay, such as [0.999, {decay}]"
            raise UserError(f"evaluation.weights: expected ema, raw or an average of a player, got {got}. {advice}")
