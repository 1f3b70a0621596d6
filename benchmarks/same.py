"""Train the recipes at another commit and here, and name the first tensor that differs, with its iteration and index.

    make same REF=main~1
    python benchmarks/same.py REF [--recipes toy2d/w1_fe ...] [--iterations 20] [--own-configs]

Each recipe runs twice with one seed, on one thread, in a copy of the commit and in this working tree. After every block
of iterations all weights, averages, buffers, chains and optimizer states are compared bit by bit. Both trees read the
configuration files of REF; with --own-configs each reads its own, after the format of the files has changed. Tensors of
version 0.1 are compared under their names of today. Two recipes also run on two processes, and on one process that
becomes two in the middle.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
import yaml
from torch import Tensor

HERE = Path(__file__).resolve().parents[1]
TOYS = sorted(f"toy2d/{file.stem}" for file in (HERE / "configs" / "toy2d").glob("*.yaml") if "." not in file.stem)
IMAGES = ["cifar10/w1_fe_small", "cifar10/ode_gan_small"]
ON_TWO = ["toy2d/w1_fe", "toy2d/da_ebm"]
STATES = "PT_FLOWS_SAME_STATES"
FIXED = ["--evaluation.metrics", "[]", "--pictures.every_n_iterations", "0", "--trainer.enable_progress_bar", "false"]
FIXED += [
    "--run.wandb",
    "disabled",
    "--trainer.accelerator",
    "cpu",
    "--trainer.callbacks",
    "[{class_path: same.Record}]",
]
FIXED += ["--perf", "reference"]


class Record(L.Callback):
    """Write every tensor of the module and of its optimizers to a file after each block of iterations."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Switch off pictures: at the end they take minutes with the chains of an energy that is hardly trained."""
        for callback in trainer.callbacks:
            if type(callback).__name__ == "Pictures":
                callback.draw = lambda *args: None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write one file, named by the iteration, from the first process."""
        if not trainer.is_global_zero:
            return
        state = {key: value for key, value in pl_module.state_dict().items() if isinstance(value, Tensor)}
        for i, optimizer in enumerate(trainer.optimizers):
            for j, kept in optimizer.state_dict()["state"].items():
                state |= {f"optimizer {i}, {key} of parameter {j}": torch.as_tensor(v) for key, v in kept.items()}
        torch.save(state, Path(os.environ[STATES]) / f"{pl_module.iteration}.pt")


class Case(NamedTuple):
    """A recipe and how many processes train each part of its iterations.

    Attributes:
        recipe: The configuration file, without its folder and suffix.
        processes: One number for each part; a part resumes from the one before.
    """

    recipe: str
    processes: tuple[int, ...] = (1,)

    def __str__(self) -> str:
        return self.recipe + (
            "" if self.processes == (1,) else f", {' then '.join(map(str, self.processes))} processes"
        )


def cases(recipes: Iterable[str]) -> list[Case]:
    """Return each recipe on one process; two of them also on two, and first on one and then on two."""
    return [Case(recipe, ps) for recipe in recipes for ps in [(1,), *([(2,), (1, 2)] if recipe in ON_TWO else [])]]


def trained(tree: Path, configs: Path, case: Case, iterations: int, folder: Path) -> "subprocess.Popen[str]":
    """Start a case in a tree; its states go to `folder`."""
    folder.mkdir(parents=True)
    commands = []
    for part, processes in enumerate(case.processes, 1):
        words = [sys.executable, "-m", "pt_flows", "fit", "--config", str(configs / f"{case.recipe}.yaml")]
        if not case.recipe.startswith("toy2d/"):
            words += ["--config", str(configs / "data" / "shapes32.yaml")]  # drawn images, nothing to download
        words += FIXED
        words += [
            "--trainer.max_steps",
            str(iterations * part // len(case.processes)),
            "--run.root",
            str(folder / "runs"),
        ]
        words += ["--trainer.devices", str(processes)] + (["--trainer.strategy", "ddp"] if processes > 1 else [])
        if len(case.processes) > 1:
            words += constant_rates(configs / f"{case.recipe}.yaml")  # the parts have different ends
        commands.append(words + ["--ckpt_path", "last"] * (part > 1))
    quoted = " && ".join(subprocess.list2cmdline(words) for words in commands)
    environment = os.environ | {"PYTHONPATH": f"{tree}{os.pathsep}{HERE / 'benchmarks'}", "OMP_NUM_THREADS": "1"}
    environment |= {STATES: str(folder), "WANDB_MODE": "disabled"}
    return subprocess.Popen(
        ["bash", "-c", quoted], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def constant_rates(recipe: Path) -> list[str]:
    """Flags that keep the learning rates of a recipe, of this version or of 0.1, constant."""
    arguments = yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"]["init_args"]
    players = [name for name, value in arguments.items() if isinstance(value, dict) and "lr_schedule" in value]
    keys = [f"--model.{name}.lr_schedule.decay" for name in players]
    return [word for key in keys or ["--model.lr_decay"] for word in (key, "constant")]


def states(folder: Path) -> dict[int, dict[str, Tensor]]:
    """Return the states that `Record` wrote, by iteration."""
    files = sorted(folder.glob("*.pt"), key=lambda file: int(file.stem))
    return {int(file.stem): torch.load(file, weights_only=True) for file in files}


def difference(then: dict[int, dict[str, Tensor]], now: dict[int, dict[str, Tensor]]) -> str | None:
    """Return a sentence about the first tensor that differs, or None if all are equal, bit by bit."""
    if list(then) != list(now):
        return f"the blocks end at iterations {list(then)} there and {list(now)} here"
    for iteration in then:
        a, b = (renamed(side[iteration]) for side in (then, now))
        if lost := [name for name in a if name not in b]:
            return f"{lost[0]} is missing here ({len(lost)} tensors in all)"
        for name, old in a.items():
            new = b[name]
            if old.shape != new.shape or old.dtype != new.dtype:
                return f"{name} is {old.dtype} {tuple(old.shape)} there and {new.dtype} {tuple(new.shape)} here"
            if not bool(((old == new) | (old.isnan() & new.isnan())).all()):
                return _place(name, iteration, old, new)
    return None


def _place(name: str, iteration: int, old: Tensor, new: Tensor) -> str:
    unequal = ((old != new) & ~(old.isnan() & new.isnan())).flatten()
    first = int(unequal.nonzero()[0])
    largest = float((old.double() - new.double()).abs().max() / old.double().abs().max().clamp(min=1e-300))
    index = ", ".join(str(int(i)) for i in torch.unravel_index(torch.tensor(first), old.shape))
    return (
        f"iteration {iteration}: {name}[{index}] is {old.flatten()[first].item():.9g} there and "
        f"{new.flatten()[first].item():.9g} here; {int(unequal.sum())} of {old.numel()} values differ, relative to the "
        f"largest by {largest:.1e} at most"
    )


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state under the names of this version; only methods of 0.1 have an average outside of their players."""
    if not any(name.startswith("ema.") for name in state):
        return state
    from pt_flows.runs.moves import upgraded_state  # another commit, which imports this file too, may lack it

    return upgraded_state(state)


def exported(ref: str, folder: Path) -> Path:
    """Copy the package and the configurations of a commit."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", ref], cwd=HERE, capture_output=True)
    if archive.returncode:
        sys.exit(
            f"error: {ref}: expected a commit, a branch or a tag of this repository. {archive.stderr.decode().strip()}"
        )
    subprocess.run(["tar", "x"], cwd=folder, input=archive.stdout, check=True)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ref")
    parser.add_argument("--recipes", nargs="+", default=[*TOYS, *IMAGES])
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--own-configs", action="store_true")
    arguments = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        there = exported(arguments.ref, Path(scratch) / "ref")
        for i, case in enumerate(cases(arguments.recipes)):
            runs = {}
            for name, tree in (("there", there), ("here", HERE)):
                configs = (tree if arguments.own_configs else there) / "configs"
                runs[name] = trained(tree, configs, case, arguments.iterations, Path(scratch) / f"{i}-{name}")
            outputs = {name: run.communicate()[0] for name, run in runs.items()}
            broken = [name for name, run in runs.items() if run.returncode]
            if broken:
                last = re.sub(r"\s+", " ", outputs[broken[0]].strip()[-400:])
                found: str | None = f"the run {broken[0]} failed: {last}"
            else:
                found = difference(*(states(Path(scratch) / f"{i}-{name}") for name in runs))
            failures += found is not None
            print(f"{'same' if found is None else 'DIFFERS':8} {case}" + (f": {found}" if found else ""), flush=True)
    print(f"{failures} of {len(cases(arguments.recipes))} differ" if failures else "all are the same, bit by bit")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
