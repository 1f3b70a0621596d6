"""Share a trained method: export it to a folder, load such a folder, upload it."""

import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from pt_flows.contracts import POWER, MapsLatents, Samples, Weights
from pt_flows.errors import UserError
from pt_flows.evaluation.card import card, records_of, shared_config
from pt_flows.evaluation.load import FinishedRun, finished, method_of
from pt_flows.evaluation.sample import draw, points_beside
from pt_flows.evaluation.subject import Subject
from pt_flows.loop.method import Method
from pt_flows.plots import num_shown, save_samples
from pt_flows.progress import track_shares
from pt_flows.runs.checkpoint import open_checkpoint
from pt_flows.runs.exported import AVERAGE, DESCRIPTION, WEIGHTS, is_exported, read_exported, write_exported
from pt_flows.runs.folder import read_config
from pt_flows.samplers import event_shape_of
from pt_flows.training.player import Player


def load(source: str | Path, trusted: tuple[str, ...] | list[str] = ()) -> Method:
    """Load a trained method that draws samples.

    Args:
        source: An exported folder, NAME/MODEL on Hugging Face, a checkpoint or a run folder.
        trusted: Packages beside this one whose classes an exported model may be built from.

    Returns:
        The method in evaluation mode, on the CPU.

    Raises:
        UserError: There is none, or it is damaged, of a newer version, or of other packages.
    """
    path = Path(source)
    if not path.exists() and _is_hub_name(str(source)):
        path = _downloaded(str(source))
    if is_exported(path):
        return method_of(path / WEIGHTS, read_exported(path, trusted))
    return finished(str(path)).method


def export(ckpt: str, out: str, weights: Weights = "ema", program: bool = False) -> None:
    """Write what draws from a checkpoint to a folder: weights as safetensors, settings, numbers, a picture and a card.

    `pt_flows.load(DIR)`, `pt-flows sample DIR` and `pt-flows evaluate DIR` use it. It cannot be trained further.

    Args:
        ckpt: A checkpoint, a run folder, or last / best of the newest run.
        out: The folder to make.
        weights: The averaged weights, an average with another decay or width, or the raw ones of the last iteration.
        program: Whether to write the generator as a program of torch.export, too, which needs torch alone to run.
    """
    target = Path(out)
    if not out or target.exists():
        got = f"{out}, which exists" if out else "none"
        raise UserError(f"--out: expected a new folder, got {got}. Name another, or remove it")
    run = finished(ckpt)
    content = open_checkpoint(run.checkpoint)[1]
    if "without" in content["pt_flows"]:
        raise UserError(f"{ckpt}: expected a checkpoint, got an exported model. Copy its folder instead")
    keeping = {} if weights == "raw" else {name: p for name, p in run.method.players.items() if p.keeps(weights)}
    averaged = {name: numbered(player, name, weights, content["state_dict"]) for name, player in keeping.items()}
    drawing = [name for name in ("generator", "energy") if name in run.method.players]
    if weights != "raw" and drawing and not set(averaged) & set(drawing):
        if weights != "ema":
            run.method.players[drawing[0]].weighted(weights)  # says which averages there are
        decay = run.method.players[drawing[0]].ema_decay
        got = f"none, because model.{drawing[0]}.ema_decay is {'null' if decay is None else decay}"
        raise UserError(f"{run.checkpoint}: expected averaged weights, got {got}. Add --weights raw")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write_exported(partial, content, averaged, run.method.training_state)
        _fill(partial, target.name, run, weights, program)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{type(run.method).__name__} after {run.method.iteration} iterations ({weights} weights): {target}")
    for file in sorted(target.iterdir()):
        print(f"  {file.name:<20} {file.stat().st_size:,} bytes" if file.is_file() else f"  {file.name}/")


def numbered(player: Player[Any], name: str, weights: Weights, state: dict[str, Any]) -> int:
    """Return the number of an average in the state of a checkpoint; one that is made now replaces the first."""
    networks, chosen = [average.network for average in player.averages], player.weighted(weights)
    if weights.startswith(POWER):
        state.update({f"{name}{AVERAGE}{key}": value for key, value in chosen.state_dict().items()})
        return 0
    return networks.index(chosen)


def _fill(folder: Path, name: str, run: FinishedRun, weights: Weights, program: bool) -> None:
    """Write everything but the weights and their description."""
    method, data = run.method, ""
    if run.folder is not None:
        config = read_config(run.folder)
        data = str(config["data"]["class_path"]).rpartition(".")[2]
        text = yaml.safe_dump(shared_config(config), sort_keys=False, allow_unicode=True)
        (folder / "config.yaml").write_text(text)
    records = records_of(run.folder, method, weights)
    for file, _, _ in records:
        (folder / "evaluations").mkdir(exist_ok=True)
        shutil.copy(file, folder / "evaluations" / file.name)
    shape = event_shape_of(method)
    if shape is not None and (len(shape) == 3 or shape == (2,)):
        subject = Subject(method, weights)
        x = torch.cat(list(track_shares(draw(subject, min(num_shown(shape), 1_000), 0), "sampling")))
        save_samples(x, folder / "samples.png", type(method).__name__, points_beside(run, shape))
    if program:
        _write_program(folder / "generator.pt2", method, weights)
    told = [(passport, numbers) for _, passport, numbers in records]
    loaded = "raw" if weights == "raw" else "ema"  # an exported average is the only one
    (folder / "README.md").write_text(card(folder, method, loaded, data, told).replace(folder.name, name))


class _Generator(nn.Module):
    """A generator as a function of latents, and labels if it is conditional, in evaluation mode."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Samples (B, *event) from latents (B, *latent_shape)."""
        return self.network(z) if y is None else self.network(z, y)


def _write_program(file: Path, method: Method, weights: Weights) -> None:
    """Write a generator for `torch.export.load`, for any number of latents.

    Raises:
        UserError: There is no generator, or torch cannot export it.
    """
    if not isinstance(method, MapsLatents) or isinstance(method, Samples):
        raise UserError(f"--program: expected a method whose generator draws, got {type(method).__name__}. Omit it")
    network: Any = method.generator.weighted(weights)
    inputs = method.generator.inputs(2, None, torch.Generator().manual_seed(0))
    given = tuple(part for part in inputs if part is not None)
    try:
        batch = tuple({0: torch.export.Dim.DYNAMIC} for _ in given)
        shapes = {"z": batch[0]} | ({"y": batch[1]} if len(given) > 1 else {})
        torch.export.save(torch.export.export(_Generator(network).eval(), given, dynamic_shapes=shapes), file)
    except Exception as error:  # torch raises many kinds
        got = f"{type(network).__name__} ({str(error).strip().splitlines()[0]})"
        raise UserError(f"--program: expected a generator that torch exports, got {got}. Omit it") from error


def push(folder: str, to: str, private: bool = False) -> None:
    """Upload an exported model to Hugging Face.

    Args:
        folder: The folder that `export` has made.
        to: NAME/MODEL; made if it does not exist.
        private: Whether a new repository is private.
    """
    from huggingface_hub import HfApi

    if not Path(folder).is_dir():
        raise UserError(f"{folder}: expected an exported model, got no folder. Run pt-flows export first")
    if not is_exported(Path(folder)):
        raise UserError(f"{folder}: expected an exported model, got no {DESCRIPTION} in it. Run pt-flows export first")
    if not _is_hub_name(to):
        raise UserError(f"--to: expected NAME/MODEL, got {to}. Write, for example, me/my-model")
    read_exported(Path(folder), trusted=None)  # it may be damaged
    try:
        api = HfApi()
        api.create_repo(to, private=private, exist_ok=True)
        found = api.upload_folder(repo_id=to, folder_path=folder, commit_message="A model of pt_flows")
    except Exception as error:  # the library and its transport raise many kinds
        raise _hub_error(f"--to: expected an upload to {to}", error) from error
    print(f"{folder}: {getattr(found, 'commit_url', to)}")


def _is_hub_name(text: str) -> bool:
    owner, slash, name = text.partition("/")
    return bool(slash and owner and name) and not set(text) & set(" \\:") and "/" not in name and text[0] not in "./~"


def _downloaded(name: str) -> Path:
    """The folder of a model on Hugging Face, downloaded once.

    Raises:
        UserError: It cannot be had.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=[WEIGHTS, DESCRIPTION, "config.yaml", "evaluations/*"]))
    except Exception as error:  # the library and its transport raise many kinds
        raise _hub_error(f"{name}: expected a folder here or a model on Hugging Face", error) from error
    if not is_exported(folder):
        raise UserError(f"{name}: expected a model of pt_flows, got a repository without {DESCRIPTION}. Check the name")
    return folder


def _hub_error(wanted: str, error: Exception) -> UserError:
    """The sentence about an error of Hugging Face's library."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    advice = "Check the name, the network, and the login (hf auth login)"
    return UserError(f"{wanted}, got {type(error).__name__} ({reason[:160]}). {advice}")
