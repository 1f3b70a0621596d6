"""The engine of evaluation: one pass over generated samples feeds every metric."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from pt_flows.contracts import BoundsLikelihood, Encodes, HasEnergy, MapsLatents, Predicts, RunsChains, Weights
from pt_flows.errors import UserError
from pt_flows.evaluation.subject import CHUNK, Subject
from pt_flows.metrics.base import RealData, SampleMetric, full_precision
from pt_flows.progress import track
from pt_flows.runs.folder import say
from pt_flows.training.distributed import share_of, world

T = TypeVar("T")


def with_progress(chunks: Iterable[Tensor], num: int, text: str) -> Iterable[Tensor]:
    """Show a progress bar over this rank's chunks of `num` samples, on the first rank."""
    return track(chunks, text, len(share_of(-(-num // CHUNK))), quiet=world()[0] > 0)


def prepare_metrics(
    metrics: Sequence[SampleMetric], data: RealData, num: int, device: torch.device, method: Any = None
) -> None:
    """Prepare metrics for `num` generated samples of a method, on a device."""
    predicts = method is not None and not Subject(method).draws
    chains = method if isinstance(method, RunsChains) else None
    for metric in metrics:
        if predicts and metric.needs_samples:
            wanted, got = "a metric of predictions, such as Accuracy or Risk", type(metric).__name__
            raise UserError(f"metrics: expected {wanted}, as {type(method).__name__} draws no samples, got {got}")
        metric.data_noise = chains.data_noise if chains else 0.0
        metric.sample_noise = 0.0 if chains and chains.denoise else metric.data_noise
        metric.to(device).prepare(data, num)
        metric.to(device)  # also the tensors that `prepare` added


def name_lacking(metrics: Iterable[SampleMetric]) -> None:
    """Print a note about each kind of metric that is prepared and has no numbers for the data."""
    for name, lost in {type(metric).__name__: metric.lacks for metric in metrics if metric.lacks}.items():
        say(f"note: {name} has no numbers, as the data have no {lost}")


def measure(subject: Subject, metrics: Sequence[SampleMetric], num: int, stream: str, text: str) -> dict[str, float]:
    """Measure `num` samples of a subject, over all ranks.

    Args:
        subject: The subject that draws the samples.
        metrics: Metrics that are prepared for as many samples.
        num: Number of samples.
        stream: Name of the noise.
        text: Title of the progress bar.
    """
    chunks = with_progress(subject.chunks(num, stream), num, text)
    return measured(metrics, chunks, subject.method, subject.weights) | subject.diagnostics


@torch.no_grad()
def measured(
    metrics: Sequence[SampleMetric], batches: Iterable[Tensor], method: Any = None, weights: Weights = "ema"
) -> dict[str, float]:
    """Feed every metric in one pass over generated samples.

    Args:
        metrics: Metrics that are prepared for as many samples.
        batches: Generated samples (B, *event).
        method: Their method, for metrics of a map, an energy or a likelihood; None for images of unknown origin.
        weights: The averaged weights, or the raw ones.
    """
    with full_precision(metrics[0].device):  # networks are evaluated here
        for metric in metrics:
            metric.reset()
            if isinstance(method, MapsLatents):
                metric.update_map(partial(method.generator.push, weights=weights))
            if isinstance(method, HasEnergy):
                metric.update_energy(partial(method.clean_energy, weights=weights))
            if isinstance(method, BoundsLikelihood):
                metric.update_likelihood(partial(method.likelihood_bound, weights=weights))
            if isinstance(method, Encodes) and cast(Any, method).takes_latents:
                metric.update_encoder(partial(method.encode, weights=weights))
            if isinstance(method, Predicts):
                metric.update_predictor(partial(method.predict, weights=weights))
            if not metric.needs_samples:
                metric.update(torch.empty(0))  # torchmetrics warns of a metric that was not updated
        for x in batches:
            for metric in metrics:
                metric.update(x)
        return {key: value for metric in metrics for key, value in metric.compute().items()}


def listed(given: T | Sequence[T] | None) -> list[T]:
    """Return a single value, a sequence or None as a list."""
    return list(given) if isinstance(given, list | tuple) else [] if given is None else [cast(T, given)]
