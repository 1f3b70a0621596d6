"""Draw samples from a checkpoint; nothing else is needed."""

from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule

from pt_flows.callbacks.pictures import save_density, save_grid
from pt_flows.contracts import UserError, Weights
from pt_flows.data.base import FlowData
from pt_flows.methods.base import GenerativeModule
from pt_flows.metrics.base import as_uint8
from pt_flows.progress import track
from pt_flows.runs import read_checkpoint, run_folder_of
from pt_flows.state.noise import generator_at


def load_method(ckpt: Path) -> GenerativeModule:
    """The method of a checkpoint that the CLI wrote, networks and weights included.

    Raises:
        UserError: The file is damaged, foreign, or of a module that was built by hand.
    """
    class_path = read_checkpoint(ckpt).get("hyper_parameters", {}).get("_class_path")
    if class_path is None:
        raise UserError(
            f"{ckpt} does not say which networks it holds, because its module was built in Python: load it there with "
            "load_from_checkpoint(path, generator=..., critic=...)"
        )
    try:
        import_module(class_path.rpartition(".")[0])  # Lightning builds classes of imported modules only
    except ImportError as error:
        raise UserError(
            f"{ckpt} was trained with {class_path}, which can not be imported ({error}); put its folder on PYTHONPATH"
        ) from error
    module: Any = LightningModule.load_from_checkpoint(ckpt, map_location="cpu", weights_only=True)
    if getattr(module, "moves_data", False):
        module.source = cast(Any, data_of_run(ckpt)).source
    return module.eval()


def data_of_run(ckpt: Path) -> FlowData:
    """The data that a checkpoint of a run folder was trained on, loaded.

    Raises:
        UserError: The checkpoint lies outside its run folder.
    """
    folder = run_folder_of(ckpt)
    if folder is None:
        raise UserError(
            f"{ckpt} is needed together with its data, which the config.yaml of its run folder names; leave it in "
            "runs/<experiment>/<run>/checkpoints"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(FlowData, "data")
    section = {"data": yaml.safe_load((folder / "config.yaml").read_text())["data"]}
    data: FlowData = cast(Any, parser.instantiate_classes(parser.parse_object(section))).data
    data.prepare_data()
    data.setup("test")
    return data


def sample(
    ckpt: str,
    n: int = 64,
    out: str = "samples.png",
    seed: int = 0,
    weights: Weights = "ema",
    device: str = "auto",
) -> None:
    """Draw samples from a checkpoint and write them to a file.

    Args:
        ckpt: A checkpoint, such as runs/<experiment>/<run>/checkpoints/last.ckpt.
        n: How many samples.
        out: .png for a grid (images) or a density (toys); .npz for an array `samples`, uint8 (n, H, W, C) or float32
            (n, 2).
        seed: Seed of the latents.
        weights: The moving average, or the raw weights of the last iteration.
        device: Where to compute; auto takes a GPU if there is one.
    """
    if n < 1:
        raise UserError(f"--n must be at least 1, got {n}")
    target = Path(out)
    if target.suffix not in (".png", ".npz"):
        raise UserError(f"--out must end in .png or .npz, got {out}")
    if not target.resolve().parent.is_dir():
        raise UserError(f"--out: there is no folder {target.resolve().parent}; make it first")
    module = load_method(Path(ckpt)).to(_device(device))
    step = 500
    chunks = track(range(0, n, step), "sampling")
    x = torch.cat(
        [
            module.sample(min(step, n - i), rng=generator_at("cpu", seed, "sample", i), weights=weights).cpu()
            for i in chunks
        ]
    )
    images = len(module.event_shape) == 3
    if target.suffix == ".npz":
        array = as_uint8(x).permute(0, 2, 3, 1).numpy() if images else x.float().numpy()
        np.savez_compressed(target, samples=array, seed=seed, iteration=module.iteration, weights=weights)
    elif images:
        save_grid(x, target)
    elif tuple(module.event_shape) == (2,):
        save_density({f"{type(module).__name__}, iteration {module.iteration}": x}, target)
    else:
        raise UserError(f"samples of shape {module.event_shape} can not be drawn; write them to an .npz file")
    print(f"{n} samples of {type(module).__name__} after {module.iteration} iterations ({weights} weights): {target}")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device {name} is not available here ({str(error).splitlines()[0]}); use cpu or cuda"
        ) from error
