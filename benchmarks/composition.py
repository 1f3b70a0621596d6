"""Does the sum of two energies draw from the intersection of their data? Improved contrastive divergence on digits.

One energy is trained on the digits 0 to 4, one on even digits, and their sum should draw 0, 2 and 4: the product of
both densities (Du et al. 2021, arXiv:2012.01316, compose energies of attributes). A classifier of all digits tells what
was drawn. Runs that exist in `--out` are not made again.

    python benchmarks/composition.py [--seeds 0,1,2] [--num 500] [--out runs/composition] [--picture FILE]
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from latent_distances import call
from torch import Tensor

import pt_flows
from pt_flows.bounds import Count
from pt_flows.contracts import Split
from pt_flows.data import MNIST
from pt_flows.evaluation.energies import compose
from pt_flows.functional.pixels import as_float
from pt_flows.plots import save_grid

HERE = Path(__file__).parent
LOW, EVEN = (0, 1, 2, 3, 4), (0, 2, 4, 6, 8)
BOTH = sorted({*LOW} & {*EVEN})


class DigitsAmong(MNIST):
    """MNIST at 16 pixels, some classes of it.

    Args:
        classes: The digits.
        root: As for `MNIST`.
        batch_size: Images of one minibatch.
        iterations_per_block: Iterations that one Lightning step runs.
    """

    def __init__(
        self, classes: Sequence[int], root: str | None = None, batch_size: Count = 64, iterations_per_block: Count = 1
    ) -> None:
        super().__init__(root, 16, batch_size, iterations_per_block)
        self.classes = tuple(classes)

    def load(self, split: Split) -> tuple[Tensor, Tensor]:
        """The images of these digits uint8 (N, 1, 16, 16), and their labels (N,)."""
        images, labels = super().load(split)
        kept = torch.isin(labels, torch.tensor(self.classes))
        return images[kept], labels[kept]


def trained(recipe: str, root: Path, *words: str) -> Any:
    """Train, if no run is there, and return the method."""
    if not (found := list(root.glob("*/*/checkpoints/last.ckpt"))):
        call(
            "fit", "--config", str(HERE.parent / "configs/mnist" / recipe), *words, "--evaluation.metrics", "[]",
            "--evaluation.every_n_iterations", "0", "--run.root", str(root), "--trainer.accelerator", "cpu",
            "--run.wandb", "disabled",
        )  # fmt: skip
        found = list(root.glob("*/*/checkpoints/last.ckpt"))
    method, folder = pt_flows.load(str(found[0])), found[0].parents[1]
    wanted = yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_steps"]
    if method.iteration < wanted:
        raise SystemExit(f"{folder}: expected a run of {wanted} iterations, got {method.iteration}. Remove it")
    return method


def energy_of(classes: Sequence[int], seed: int, out: Path) -> Any:
    """Improved contrastive divergence on some digits."""
    data = {"class_path": "composition.DigitsAmong", "init_args": {"classes": list(classes), "batch_size": 32}}
    root = out / f"{''.join(map(str, classes))}_{seed}"
    return trained("improved_cd.yaml", root, "--data", json.dumps(data), "--seed_everything", str(seed))


def main() -> None:
    """Train, draw and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("runs/composition"))
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    sized = ("--model.predictor.network.image_size", "16", "--data.image_size", "16", "--trainer.max_steps", "3000")
    judge = trained("classifier.yaml", options.out / "classifier", *sized).predictor.ema.network.eval()
    test, labels = MNIST(image_size=16).load("test")
    with torch.no_grad():
        told = judge(as_float(test)).argmax(1)
    print(f"The classifier is right on {(told == labels).float().mean():.3f} of the test set.\n")
    shares: dict[str, list[float]] = {"0 to 4": [], "even": [], "sum": []}
    pictures: list[Tensor] = []
    for seed in map(int, options.seeds.split(",")):
        for name in shares:
            method = energy_of(EVEN if name == "even" else LOW, seed, options.out)
            if name == "sum":
                compose(method, energy_of(EVEN, seed, options.out))
            x = pt_flows.sample(method, options.num, rng=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                digits = judge(x).argmax(1)
            shares[name].append(float(torch.isin(digits, torch.tensor(BOTH)).float().mean()))
            pictures += [x[:12]]
    if options.picture is not None:
        save_grid(torch.cat(pictures), options.picture, columns=12)
    print(f"| energy | share of {', '.join(map(str, BOTH))} | each seed |\n| --- | ---: | --- |")
    for name, found in shares.items():
        print(f"| {name} | {statistics.fmean(found):.3f} | {', '.join(f'{share:.3f}' for share in found)} |")


if __name__ == "__main__":
    main()
