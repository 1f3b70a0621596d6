"""Draw samples from a checkpoint; nothing else is needed."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pt_flows.callbacks.pictures import save_density, save_grid
from pt_flows.contracts import Weights
from pt_flows.errors import UserError
from pt_flows.evaluation.energy import compose, load_energy, walk_far
from pt_flows.evaluation.load import data_of_run, device_named, load_named
from pt_flows.evaluation.passport import stamped
from pt_flows.evaluation.provenance import passport_of, sampler_name
from pt_flows.loop.base import GenerativeModule
from pt_flows.methods.energies.base import EnergyModule
from pt_flows.metrics.base import as_uint8
from pt_flows.progress import track_shares
from pt_flows.training.noise import generator_at


def draw(module: GenerativeModule, n: int, seed: int, weights: Weights) -> Iterator[tuple[float, Tensor]]:
    """Samples in pieces of 500 with the share done; of chains, also where they are in between."""
    step = 500
    for i in range(0, n, step):
        num = min(step, n - i)
        if isinstance(module, EnergyModule):
            rng, x = generator_at(module.device, seed, "sample", i), torch.empty(0)
            for share, x in module.sampling(num, rng, weights):
                yield (i + 0.999 * share * num) / n, x[:0].cpu()
            x = module.finished(x, weights)
        else:
            x = module.sample(num, rng=generator_at("cpu", seed, "sample", i), weights=weights)
        yield (i + num) / n, x.cpu()


def sample(
    ckpt: str,
    n: int = 64,
    out: str = "samples.png",
    seed: int = 0,
    weights: Weights = "ema",
    device: str = "auto",
    plus: str | None = None,
    long_run: int | None = None,
    denoise: bool | None = None,
) -> None:
    """Draw samples from a checkpoint and write them to a file.

    Energy-based models run chains from noise, with the step sizes that training found.

    Args:
        ckpt: A checkpoint, such as runs/<experiment>/<run>/checkpoints/last.ckpt, a run folder, or last / best of the
            newest run.
        n: How many samples.
        out: .png for a grid (images) or a density (toys); .npz for an array `samples`, uint8 (n, H, W, C) or float32
            (n, 2), and `passport`, JSON that says where they come from.
        seed: Seed of the latents, or of the chains of an energy-based model.
        weights: The moving average, or the raw weights of the last iteration.
        device: Where to compute; auto takes a GPU if there is one.
        plus: A second checkpoint, named alike, of an energy-based model: sample the sum of both energies.
        long_run: Instead, walk n chains from test samples for so many Langevin steps (100000 is usual), write a picture
            over time to `out` and a table beside it, and say how far energies drift. Needs the run folder.
        denoise: Whether an energy-based model of noised data removes the noise from its samples, by one step along the
            score; default as it was configured (`model.denoise`).
    """
    target = checked_request(n, out, (".png", ".npz") if long_run is None else (".png",))
    if long_run is not None and long_run < 1:
        raise UserError(f"--long_run must be at least 1, got {long_run}")
    if plus is None and long_run is None and denoise is None:
        path, method = load_named(ckpt)
        write_samples(method.to(device_named(device)), n, target, seed, weights, path)
        return
    path, module = load_energy(ckpt, device)
    if denoise is not None:
        if not module.data_noise:
            raise UserError(f"--denoise: expected a model with data_noise above 0, {path} has none. Omit it")
        module.denoise = denoise
    module = module if plus is None else compose(module, load_energy(plus, device)[1])
    if long_run is None:
        write_samples(module, n, target, seed, weights, path)
    else:
        walk_far(module, data_of_run(path), n, long_run, target, seed, weights)


def checked_request(n: int, out: str, suffixes: tuple[str, ...] = (".png", ".npz")) -> Path:
    """The file to write.

    Raises:
        UserError: A number or file name that can not be.
    """
    if n < 1:
        raise UserError(f"--n must be at least 1, got {n}")
    target = Path(out)
    if target.suffix not in suffixes:
        raise UserError(f"--out must end in {' or '.join(suffixes)}, got {out}")
    if not target.resolve().parent.is_dir():
        raise UserError(f"--out: there is no folder {target.resolve().parent}; make it first")
    return target


def write_samples(module: GenerativeModule, n: int, target: Path, seed: int, weights: Weights, ckpt: Path) -> None:
    """Draw samples and write them, as `sample` says."""
    x = torch.cat(list(track_shares(draw(module, n, seed, weights), "sampling")))
    images = len(module.event_shape) == 3
    if target.suffix == ".npz":
        array = as_uint8(x).permute(0, 2, 3, 1).numpy() if images else x.float().numpy()
        passport = passport_of(module, ckpt, weights, sampler_name(module), n, seed)
        np.savez_compressed(target, samples=array, passport=json.dumps(stamped(passport)))
    elif images:
        save_grid(x, target)
    elif tuple(module.event_shape) == (2,):
        save_density({f"{type(module).__name__}, iteration {module.iteration}": x}, target)
    else:
        raise UserError(f"samples of shape {module.event_shape} can not be drawn; write them to an .npz file")
    print(f"{n} samples of {type(module).__name__} after {module.iteration} iterations ({weights} weights): {target}")
