"""Measure a checkpoint, or images of any generator, and record every number with its passport."""

import inspect
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

import pt_flows.data
import pt_flows.evaluation.outliers
from pt_flows.bounds import AtLeastTwo, Count
from pt_flows.contracts import BoundsLikelihood, HasEnergy, Predicts, Split, Weights
from pt_flows.data.base import FlowData
from pt_flows.data.simulated import Simulated
from pt_flows.errors import UserError
from pt_flows.evaluation.engine import listed, measured, name_lacking, prepare_metrics, with_progress
from pt_flows.evaluation.images import ImageFiles
from pt_flows.evaluation.load import device_named, finished
from pt_flows.evaluation.passport import Passport, record_path, write_record
from pt_flows.evaluation.provenance import details_of, directions_of, feature_hashes, machine, passport_of
from pt_flows.evaluation.published import publish
from pt_flows.evaluation.subject import CHUNK, Subject
from pt_flows.functional.pixels import as_float
from pt_flows.functional.transport import MOST_POINTS
from pt_flows.metrics import (
    Accuracy,
    ExactWasserstein,
    GridKL,
    ImageQuality,
    InvariantR2,
    LikelihoodBound,
    Lite0Features,
    ModeCoverage,
    MutualInformation,
    Risk,
    SampleDiscrepancy,
    SimulationError,
)
from pt_flows.metrics.base import RealData, SampleMetric
from pt_flows.metrics.reference import content_hash
from pt_flows.plots import num_shown, save_samples
from pt_flows.runs.folder import say
from pt_flows.samplers import Sampler
from pt_flows.training.distributed import launched, share_of, world


def evaluate(
    ckpt: str | None = None,
    images: str | None = None,
    ref: str | None = None,
    metrics: list[SampleMetric] | SampleMetric | None = None,
    n: AtLeastTwo = 10_000,
    split: Split | None = None,
    weights: Weights = "ema",
    sampler: Sampler | None = None,
    seeds: Count = 1,
    device: str = "auto",
) -> None:
    """Measure a checkpoint, or a set of images, and print and write all numbers with their passport.

    Numbers of a checkpoint are written to `evaluations/` of its run folder with a picture of the samples, those of
    images to `<images>.evaluation.json`. Sample i comes from noise that depends on i and the sampling seed alone.
    Processes that `torchrun` starts share the work. If training was recorded in W&B, the numbers join its summary.

    Args:
        ckpt: A checkpoint in its run folder, a run folder, or last / best of the newest run.
        images: A folder of images or an .npz file with an array `samples`, uint8 (N, H, W, C), instead of a checkpoint.
        ref: Reference of images: another folder or file, or a data set such as CIFAR10.
        metrics: One metric or a list. Default for images: Fréchet distance, KID, inception score, precision, recall,
            density and coverage in features of EfficientNet-Lite0 at 64 pixels. Default for toys: exact and sliced
            Wasserstein distances, MMD, modes, and the density and log-likelihood of energies. A bound of the
            log-likelihood of test samples where a method has one. For inverses of simulators: mutual information, R²
            and simulation errors. For methods that predict: accuracy and risk of the test split.
        n: Number of generated samples; toys at most 5,000.
        split: Split of the real samples to compare with; by default train for images and test for toys and likelihoods.
        weights: The averaged weights (ema), those of another decay that the run kept (ema@0.9999), the raw ones of the
            last iteration, or a power-function average of a run with the callback PowerAverages (power@0.08).
        sampler: The sampler; by default the method's own one, direct or by chains.
        seeds: Number of sampling seeds; each is measured separately.
        device: Device to compute on; auto uses a GPU if there is one.
    """
    if (ckpt is None) == (images is None):
        got = "neither" if ckpt is None else "both"
        raise UserError(f"evaluate: expected a checkpoint, or --images with --ref, got {got}. Give one of them")
    where = device_named(device)
    with launched(where):
        if images is not None:
            evaluate_images(Path(images), ref, listed(metrics), n, split or "train", where)
        else:
            evaluate_checkpoint(str(ckpt), listed(metrics), n, split, weights, sampler, seeds, where)


def evaluate_checkpoint(
    named: str,
    metrics: list[SampleMetric],
    n: int,
    split: Split | None,
    weights: Weights,
    sampler: Sampler | None,
    seeds: int,
    device: torch.device,
) -> None:
    """Measure samples of a checkpoint, for every sampling seed."""
    ckpt, method, folder = run = finished(named)
    data = run.data()
    assert folder is not None, "the data are there"
    subject = Subject(method.to(device), weights, sampler, data)
    if subject.draws and len(data.event_shape) != 3:
        if n > MOST_POINTS:
            say(f"note: expected at most {MOST_POINTS} samples, got {n}. {MOST_POINTS} are measured")
            n = MOST_POINTS
        if n > 2_000 and not metrics:
            say(f"note: exact transport between {n} points takes a minute or two on a CPU; --n 512 is quick")
    side: Split = split or ("train" if subject.draws and len(data.event_shape) == 3 else "test")
    chosen = prepared(metrics or default_metrics(subject, data, side), data, n, split, side, device, method)
    first = passport_of(subject, ckpt, n, 0, data, side, chosen)
    for i in range(seeds):
        first_samples: list[Tensor] = []
        chunks = kept(subject.chunks(n, stream(i)), num_shown(data.event_shape), first_samples)
        chunks = with_progress(chunks, n, "measuring")
        numbers = finite(measured(chosen, chunks, method, weights) | subject.diagnostics)
        directions, cost = directions_of(chosen, numbers, subject), first.cost | subject.sampling_cost
        passport = replace(first, sampling_seed=i, directions=directions, cost=cost)
        title = f"{type(method).__name__}, iteration {method.iteration}, {weights} weights, sampling seed {i}"
        file = record_path(folder, passport, ckpt)
        conclude(file, passport, numbers, title)
        if world()[0] == 0 and first_samples:
            beside = {"target": data.reference(side)} if tuple(data.event_shape) == (2,) else {}
            save_samples(torch.cat(first_samples), file.with_suffix(".png"), title, beside)
    if world()[0] == 0:
        publish(folder)


def kept(chunks: Iterable[Tensor], num: int, samples: list[Tensor]) -> Iterator[Tensor]:
    """Pass chunks on, and keep the first samples of this rank for a picture.

    Args:
        chunks: Generated samples.
        num: Number of samples to keep.
        samples: List to which they are added, on the CPU.
    """
    for x in chunks:
        if (missing := num - sum(map(len, samples))) > 0:
            samples.append(x[:missing].cpu())
        yield x


def evaluate_images(
    path: Path, ref: str | None, metrics: list[SampleMetric], n: int, split: Split, device: torch.device
) -> None:
    """Measure images of any generator."""
    if ref is None:
        raise UserError("--ref: expected a folder of images, an .npz file or a data set such as CIFAR10, got none")
    generated, real = ImageFiles(path), named_reference(ref)
    x = generated.reference("train", n)
    if generated.event_shape != tuple(real.event_shape):
        wanted, got = tuple(real.event_shape), generated.event_shape
        raise UserError(f"{path}: expected images of shape {wanted}, as {ref} has, got {got}. Resize either")
    chosen = prepared(metrics or [ImageQuality(Lite0Features(64), split)], real, n, split, split, device)
    parts = x.split(CHUNK)
    batches = (as_float(parts[i].to(device)) for i in share_of(len(parts)))
    numbers = finite(measured(chosen, with_progress(batches, n, "measuring")))
    passport = Passport(
        method="images",
        data=type(real).__name__ if isinstance(real, FlowData) else str(ref),
        reference=content_hash(real.reference(split)),
        split=split,
        num_samples=n,
        features=feature_hashes(chosen),
        weights="",
        sampler="",
        sampling_seed=0,
        training_seed=None,
        iteration=0,
        checkpoint=content_hash(x),
        cost={},
        directions=directions_of(chosen, numbers),
        details=details_of(chosen),
        **machine(device),
    )
    conclude(path.with_name(f"{path.name}.evaluation.json"), passport, numbers, f"{n} images of {path}")


def named_reference(ref: str) -> RealData:
    """Images of a folder or file, or a data set by its name.

    Raises:
        UserError: There is neither.
    """
    if Path(ref).exists():
        return ImageFiles(Path(ref))
    names = [name for name in pt_flows.data.__all__ if inspect.isclass(getattr(pt_flows.data, name))]
    kinds = {name: getattr(pt_flows.data, name) for name in names}
    if not issubclass(kinds.get(ref, object), FlowData):
        raise UserError(f"--ref: expected a folder, an .npz file or one of {', '.join(names)}, got {ref}")
    data: FlowData = kinds[ref]()
    data.prepare_data()
    data.setup("test")
    return data


def default_metrics(subject: Subject, data: FlowData, split: Split) -> list[SampleMetric]:
    """The default metrics."""
    method = subject.method
    if isinstance(method, Predicts) and not subject.draws:
        return [Accuracy(), Risk()] if data.num_classes else [Risk()]
    bounds: list[SampleMetric] = [LikelihoodBound()] if isinstance(method, BoundsLikelihood) else []
    if isinstance(data, Simulated) and cast(Any, method).takes_latents:
        return [MutualInformation(), InvariantR2(), SimulationError()]
    if len(data.event_shape) == 3:
        return [ImageQuality(Lite0Features(64), split), *bounds]
    law: Any = getattr(data, "law", None)
    chosen: list[SampleMetric] = [ExactWasserstein(), SampleDiscrepancy(), *bounds]
    chosen += [ModeCoverage()] if hasattr(law, "centres") else []
    return [*chosen, GridKL()] if hasattr(law, "log_prob") and isinstance(method, HasEnergy) else chosen


def prepared(
    metrics: list[SampleMetric],
    data: RealData,
    n: int,
    asked: Split | None,
    side: Split,
    device: torch.device,
    method: Any = None,
) -> list[SampleMetric]:
    """The metrics, prepared for the split that was asked for; else held-out ones for "test", the others for `side`."""
    for metric in metrics:
        metric.use_split(asked or ("test" if metric.held_out else side))
    prepare_metrics(metrics, data, n, device, method)
    name_lacking(metrics)
    return metrics


def finite(numbers: dict[str, float]) -> dict[str, float]:
    """Return numbers that are finite.

    Raises:
        UserError: One of them is not.
    """
    if broken := [key for key, value in numbers.items() if not math.isfinite(value)]:
        advice = "Use more samples, or a method that has not diverged"
        raise UserError(f"evaluation: expected finite numbers, got others for {', '.join(broken)}. {advice}")
    return numbers


def stream(sampling_seed: int) -> str:
    """Name of the noise of a sampling seed. The first one has the noise of evaluations in training."""
    return "evaluation" if sampling_seed == 0 else f"evaluation-{sampling_seed}"


def conclude(path: Path, passport: Passport, numbers: dict[str, float], title: str) -> None:
    """Write the record and print the numbers, on the first process."""
    if world()[0] > 0:
        return
    write_record(path, passport, numbers)
    print(title)
    for key, value in numbers.items():
        print(f"  {key:<40} {value:.5g}")
    print(f"wrote {path}")
