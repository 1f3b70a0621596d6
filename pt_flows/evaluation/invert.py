"""Infer the parameters of a simulator from given observations."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from pt_flows.contracts import Encodes, MapsLatents, Shape, Weights
from pt_flows.data.simulators.base import Simulator
from pt_flows.errors import UserError
from pt_flows.evaluation.images import ImageFiles, read_array
from pt_flows.evaluation.load import FinishedRun, device_named, finished
from pt_flows.evaluation.passport import stamped
from pt_flows.evaluation.provenance import passport_of
from pt_flows.evaluation.subject import CHUNK, Subject
from pt_flows.files import checked_target, replacing
from pt_flows.functional.pixels import as_float
from pt_flows.metrics.base import full_precision
from pt_flows.metrics.reference import content_hash
from pt_flows.plots import save_grid

SHOWN = 10
"""Number of observations in the picture."""


class Inferred(NamedTuple):
    """Inferred parameters.

    Attributes:
        parameters: Parameters (N, K).
        emulated: Outputs of the decoder at them (N, *event).
        simulated: Outputs of the simulator at them (N, *event).
    """

    parameters: Tensor
    emulated: Tensor
    simulated: Tensor


def invert(
    ckpt: str,
    images: str | None = None,
    npz: str | None = None,
    out: str = "parameters.csv",
    weights: Weights = "ema",
    device: str = "auto",
) -> None:
    """Infer the parameters of a simulator from observations, by the encoder of a checkpoint.

    Prints how far the simulator's output at the inferred parameters is from the observations.

    Args:
        ckpt: A checkpoint of SimVAE in its run folder, a run folder, or last / best of the newest run.
        images: A folder of images of the simulator's size and mode.
        npz: Instead of it, an .npz or .npy file with one array, under `samples` or alone: uint8 (N, H, W, C) for
            images, else floats (N, *event).
        out: A .csv with a row of parameters for every observation, and the passport (the provenance record) in a
            comment above; an .npz with `parameters` (N, K), `names` and `passport`; or for images a .png with the first
            observations above the decoder's and the simulator's output at the inferred parameters.
        weights: The averaged weights, or the raw ones of the last iteration.
        device: Device to compute on; auto uses a GPU if there is one.
    """
    target = checked_target(out, (".csv", ".npz", ".png"))
    if (images is None) == (npz is None):
        got = "neither" if images is None else "both"
        raise UserError(f"invert: expected --images or --npz, got {got}. Give one of them")
    run = finished(ckpt)
    method, simulator, shape = checked(run)
    if target.suffix == ".png" and len(shape) != 3:
        wanted = f".csv or .npz for observations of shape {shape}"
        raise UserError(f"--out: expected {wanted}, got {target.suffix}. Write another file")
    flag, path = ("--images", images) if npz is None else ("--npz", npz)
    x = observations(flag, Path(cast(str, path)), shape)
    found = inferred(method.to(device_named(device)), simulator, x, weights)
    passport = passport_of(Subject(method, weights), run.checkpoint, len(x))
    passport = replace(passport, sampler="", reference=content_hash(x))
    write(target, x, found, simulator.names, json.dumps(stamped(passport)))
    error = float((found.simulated - x).square().mean().sqrt())
    print(f"{len(x)} observations, {type(simulator).__name__} at {type(method).__name__}'s parameters: {target}")
    print(f"  root mean square difference of the simulator's output {error:.4g}")


def checked(run: FinishedRun) -> tuple[Any, Simulator, Shape]:
    """Return the method of a run, which infers parameters, its simulator, and the shape of observations.

    Raises:
        UserError: The method is another one.
    """
    method = run.method
    if not method.takes_latents or not isinstance(method, Encodes) or not isinstance(method, MapsLatents):
        wanted, got = "a method that infers parameters of a simulator, such as SimVAE", type(method).__name__
        raise UserError(f"{run.checkpoint}: expected {wanted}, got {got}. Give another checkpoint")
    data = run.data()
    return method, cast(Any, data).simulator, tuple(data.event_shape)


def observations(flag: str, path: Path, shape: Shape) -> Tensor:
    """Read observations (N, *event) of a simulator.

    Raises:
        UserError: They cannot be read, or have another shape, or are not finite.
    """
    if flag == "--images" or len(shape) == 3:
        if flag == "--images" and len(shape) != 3:
            raise UserError(f"--images: expected --npz for observations of shape {shape}, got images. Use --npz")
        x = as_float(ImageFiles(path).reference("train"))
    else:
        x = vectors(path)
    if (got := tuple(x.shape[1:])) != shape or not len(x):
        wanted = f"observations of shape {shape}, as the encoder takes"
        raise UserError(f"{flag} {path}: expected {wanted}, got {len(x)} of shape {got}. Convert them")
    if not bool(x.isfinite().all()):
        raise UserError(f"{flag} {path}: expected finite values, got others. Remove such observations")
    return x.clone(memory_format=torch.contiguous_format)  # convolutions round by the layout of their input


def vectors(path: Path) -> Tensor:
    """Read the floats of an array file.

    Raises:
        UserError: The file cannot be read, or holds something else.
    """
    try:
        loaded = read_array(path)
    except ValueError as error:
        raise UserError(f"--npz {path}: expected an array file, got none that can be read ({error})") from error
    if loaded.dtype.kind != "f" or loaded.ndim < 2:
        got = f"{loaded.dtype} of shape {loaded.shape}"
        raise UserError(f"--npz {path}: expected floats (N, *event), got {got}. Convert them")
    return torch.as_tensor(loaded, dtype=torch.get_default_dtype())


@torch.no_grad()
def inferred(method: Any, simulator: Simulator, x: Tensor, weights: Weights) -> Inferred:
    """Infer parameters of observations (N, *event) on the CPU."""
    parts: list[Inferred] = []
    for part in x.split(CHUNK):
        with full_precision(method.device):
            z = method.encode(part.to(method.device), weights)
            emulated = method.generator.push(z, weights)
        parameters = simulator.from_latents(z.cpu())
        parts.append(Inferred(parameters, emulated.cpu(), simulator(parameters)))
    return Inferred(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def write(target: Path, x: Tensor, found: Inferred, names: tuple[str, ...], passport: str) -> None:
    """Write the parameters or a picture."""
    if target.suffix == ".png":
        rows = [values[:SHOWN] for values in (x, found.emulated, found.simulated)]
        save_grid(torch.cat(rows), target, columns=len(rows[0]))
        return
    parameters = found.parameters.numpy()
    with replacing(target) as partial, partial.open("wb") as file:
        if target.suffix == ".npz":
            np.savez_compressed(file, parameters=parameters, names=np.array(names), passport=passport)
        else:
            file.write(f"# {passport}\n".encode())
            np.savetxt(file, parameters, fmt="%.6g", delimiter=",", header=",".join(names), comments="")
