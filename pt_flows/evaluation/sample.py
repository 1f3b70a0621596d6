"""Draw samples from a checkpoint alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pt_flows.bounds import Count
from pt_flows.contracts import Shape, Weights
from pt_flows.errors import UserError
from pt_flows.evaluation.energies import compose, load_energy
from pt_flows.evaluation.load import FinishedRun, device_named, finished
from pt_flows.evaluation.long_run import walk_far
from pt_flows.evaluation.passport import stamped
from pt_flows.evaluation.provenance import passport_of
from pt_flows.evaluation.subject import CHUNK, Subject
from pt_flows.files import checked_target
from pt_flows.functional.pixels import as_uint8
from pt_flows.plots import save_samples
from pt_flows.progress import track_shares
from pt_flows.runs.folder import say
from pt_flows.samplers import Sampler, check_drawn, event_shape_of
from pt_flows.training.noise import generator_at


def draw(subject: Subject, n: int, seed: int) -> Iterator[tuple[float, Tensor]]:
    """Draw samples in pieces, each with the fraction done; chains also report while they run."""
    sampler = subject.prepared()
    with subject.counting(n) as cost, cost.running():
        for i in range(0, n, CHUNK):
            num, x = min(CHUNK, n - i), torch.empty(0)
            for fraction, x in sampler.sampling(num, generator_at("cpu", seed, "sample", i)):
                if fraction < 1:
                    yield (i + fraction * num) / n, x[:0].cpu()
            check_drawn(sampler, x, num, subject.method)
            yield (i + num) / n, x.cpu()


def sample(
    ckpt: str,
    n: Count | None = None,
    out: str = "samples.png",
    seed: int = 0,
    weights: Weights = "ema",
    sampler: Sampler | None = None,
    device: str = "auto",
    plus: str | None = None,
    long_run: Count | None = None,
    denoise: bool | None = None,
) -> None:
    """Draw samples from a checkpoint and write them to a file.

    Energy-based models run chains from noise, with the step sizes that training found.

    Args:
        ckpt: A checkpoint, such as runs/<experiment>/<run>/checkpoints/last.ckpt, a run folder, or last / best of the
            newest run.
        n: Number of samples; by default 1,000 points in the plane, 64 of anything else.
        out: A .png for a grid (images) or a density beside the target (toys), or an .npz for an array `samples`, uint8
            (n, H, W, C) or float32 (n, 2), and `passport`, their provenance as JSON.
        seed: Seed of the latents, or of the chains of an energy-based model.
        weights: The averaged weights, or the raw ones of the last iteration.
        sampler: The sampler; by default the method's own one.
        device: Device to compute on; auto uses a GPU if there is one.
        plus: A second checkpoint of an energy-based model: sample the sum of both energies.
        long_run: Number of Langevin steps (100000 is usual) of n chains from test samples. Instead of samples, write
            a picture over time to `out` and a table next to it, and print how far energies drift. Needs the run folder.
        denoise: Whether an energy-based model of noised data removes the noise from its samples, by one step along the
            score; by default as configured (`model.denoise`).
    """
    target = checked_target(out, (".png", ".npz") if long_run is None else (".png",))
    if plus is None and long_run is None and denoise is None:
        run = finished(ckpt)
        if sampler is not None:
            sampler.check(run.method)
        data = run.data() if sampler is not None and sampler.needs_data else None
        write_samples(Subject(run.method.to(device_named(device)), weights, sampler, data), n, target, seed, run)
        return
    run, method = load_energy(ckpt, device)
    if denoise is not None:
        if not method.data_noise:
            raise UserError(f"--denoise: expected a method with data_noise above 0, got 0 in {run.checkpoint}. Omit it")
        method.denoise = denoise
    if plus is not None:
        compose(method, load_energy(plus, device)[1])
    if long_run is None:
        write_samples(Subject(method, weights, sampler), n, target, seed, run)
    else:
        walk_far(method, run.data(), n or 64, long_run, target, seed, weights)


def write_samples(subject: Subject, n: int | None, target: Path, seed: int, run: FinishedRun) -> None:
    """Draw samples of a run and write them to a file, as in `sample`."""
    n = n or (1_000 if event_shape_of(subject.method) == (2,) else 64)
    x = torch.cat(list(track_shares(draw(subject, n, seed), "sampling")))
    method, shape = subject.method, tuple(x.shape[1:])
    name = type(method).__name__
    if target.suffix == ".npz":
        array = as_uint8(x).permute(0, 2, 3, 1).numpy() if len(shape) == 3 else x.float().numpy()
        passport = passport_of(subject, run.checkpoint, n, seed)
        np.savez_compressed(target, samples=array, passport=json.dumps(stamped(passport)))
    elif not save_samples(x, target, f"{name}, iteration {method.iteration}", points_beside(run, shape)):
        raise UserError(f"--out: expected .npz for samples of shape {shape}, got {target.suffix}. Write an .npz file")
    print(f"{n} samples of {name} after {method.iteration} iterations ({subject.weights} weights): {target}")
    for key, value in subject.diagnostics.items():
        print(f"  {key:<40} {value:.5g}")


def points_beside(run: FinishedRun, shape: Shape) -> dict[str, Tensor]:
    """Real points in the plane to draw beside samples; none for other shapes, and if the data are not known."""
    if shape != (2,) or run.folder is None:
        return {}
    try:
        return {"target": run.data().reference("test")}
    except UserError as error:
        say(f"note: samples are drawn without the data. {error}")
        return {}
