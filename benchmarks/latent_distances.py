"""Straight lines against geodesics in the plane of latents of autoencoders: a pendulum, a robot arm, MNIST.

    python benchmarks/latent_distances.py [--cases pendulum,arm,mnist] [--seeds 0,1,2] [--out runs/latent_distances]

It trains an IWAE with two latents for every case and seed, and then calls `pt-flows geodesic` for 100 pairs. Runs and
tables that exist in `--out` are not made again. Pictures of seed 0 are copied to `--pictures`.
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ADAM = '{"class_path": "Adam", "init_args": {"lr": 1.0e-3, "betas": [0.9, 0.999]}}'
CASES: dict[str, dict[str, Any]] = {
    "pendulum": {
        "data": {"class_path": "motions.Pendulum"},
        "shape": [1, 16, 16], "width": 256, "iterations": 3000, "decoder": {"std": 0.1, "learned_std": "global"},
    },
    "arm": {
        "data": {"class_path": "motions.RobotArm", "init_args": {"batch_size": 150}},
        "shape": [6], "width": 128, "iterations": 4000, "decoder": {"std": 0.1, "learned_std": "global"},
    },
    "mnist": {
        "data": {"class_path": "MNIST", "init_args": {"image_size": 28, "binarise": "threshold", "batch_size": 100,
                                                      "iterations_per_block": 10}},
        "shape": [1, 28, 28], "width": 256, "iterations": 4000,
        "decoder": {"likelihood": "bernoulli"}, "config": "mnist/iwae.yaml",
    },
}  # fmt: skip
PAIRS = 100
SMOOTHING = {"pendulum": 100.0}
"""Cases that are also measured with a smoothed metric, and λ."""


def call(*words: str) -> None:
    """Run pt-flows with the data classes beside this file."""
    path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    subprocess.run(
        [sys.executable, "-m", "pt_flows", *words], check=True, env=os.environ | {"PYTHONPATH": path}, stdout=sys.stderr
    )


def trained(name: str, seed: int, root: Path, scale: float) -> Path:
    """Train an autoencoder, if it is not there, and return its run folder."""
    found = list(root.glob("*/*/checkpoints/last.ckpt"))
    if not found:
        case, iterations = CASES[name], str(max(20, int(CASES[name]["iterations"] * scale) // 20 * 20))
        common = {"latent_dim": 2, "event_shape": case["shape"], "width": case["width"], "activation": "tanh"}
        network = lambda kind, extra: json.dumps({"class_path": kind, "init_args": common | extra})
        recipe = HERE.parent / "configs" / case.get("config", "toy2d/iwae.yaml")
        call(
            "fit", "--config", str(recipe), "--data", json.dumps(case["data"]),
            "--model.generator.network", network("MLPDecoder", case["decoder"]),
            "--model.encoder.network", network("MLPEncoder", {}),
            "--model.generator.optimizer", ADAM, "--model.encoder.optimizer", ADAM,
            "--model.num_importance_samples", "10", "--model.denoise", "true", "--trainer.max_steps", iterations,
            "--evaluation.every_n_iterations", iterations, "--pictures.every_n_iterations", iterations,
            "--evaluation.metrics", '[{"class_path": "LikelihoodBound", "init_args": {"num_real": 500}}]',
            "--evaluation.num_samples", "64",
            "--checkpoints.every_n_iterations", iterations, "--run.root", str(root), "--seed_everything", str(seed),
            "--trainer.accelerator", "cpu", "--run.wandb", "disabled",
        )  # fmt: skip
        found = list(root.glob("*/*/checkpoints/last.ckpt"))
    return found[0].parents[1]


def table(run: Path, target: Path, pairs: int, *flags: str) -> list[dict[str, str]]:
    """Rows of `pt-flows geodesic`, computed if they are not there."""
    if not target.is_file():
        call("geodesic", str(run), "--pairs", str(pairs), "--out", str(target), "--device", "cpu", *flags)
    with target.open() as file:
        return list(csv.DictReader(file))


def means(rows: list[dict[str, str]]) -> dict[str, float]:
    """Means over pairs of the columns that have numbers."""
    settled = statistics.fmean(row["converged"] == "yes" for row in rows)
    columns = [key for key in rows[0] if key not in ("pair", "converged")]
    return {key: statistics.fmean(float(row[key]) for row in rows) for key in columns} | {"converged": settled}


def spread(values: list[float]) -> str:
    """Mean over seeds and standard deviation."""
    if len(values) < 2:
        return f"{values[0]:.3g}"
    return f"{statistics.fmean(values):.3g} ± {statistics.stdev(values):.2g}"


def main() -> None:
    """Train, measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path("runs/latent_distances"))
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--iterations", type=float, default=1.0, help="factor of the length of all runs")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    options = parser.parse_args()
    if options.pictures is not None:
        options.pictures.mkdir(parents=True, exist_ok=True)
    print("| data | straight | geodesic | ratio | chord | classes straight | classes geodesic | converged |")
    print("| --- |" + " ---: |" * 7)
    for name in options.cases.split(","):
        plain: list[dict[str, float]] = []
        smooth: list[dict[str, float]] = []
        for seed in map(int, options.seeds.split(",")):
            folder = options.out / f"{name}_{seed}"
            run = trained(name, seed, folder / "run", options.iterations)
            plain.append(means(table(run, folder / f"{name}.csv", options.pairs)))
            if name in SMOOTHING:
                flags = ("--smoothing", str(SMOOTHING[name]))
                smooth.append(means(table(run, folder / f"{name}_smooth.csv", options.pairs, *flags)))
            if options.pictures is not None and not seed:
                for picture in folder.glob("*.png"):
                    shutil.copy(picture, options.pictures / f"latent_distances_{picture.name}")
        for title, found in ((name, plain), (f"{name}, smoothed with λ = {SMOOTHING.get(name)}", smooth)):
            keys = ("straight", "geodesic", "ratio", "chord", "classes straight", "classes geodesic", "converged")
            cells = [spread([one[key] for one in found]) if key in one else "-" for key in keys for one in found[:1]]
            if found:
                print(f"| {title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
