"""Train SimVAE on the five simulators of its paper, three seeds each, and print their numbers beside the paper's.

python benchmarks/simulators.py runs/simulators

The recipes of configs/simulators are shortened to fit two CPU cores: half an hour of one core in all. Seeds that are
already there are not trained again. The regression of the polygon's parameters is a study, polygon.yaml.
"""

import csv
import statistics
import subprocess
import sys
from pathlib import Path

import yaml

PAPER = {
    "FourierPlot": ("0.76", "1"),
    "Sprites": ("0.32", "1"),
    "BoxPlot": ("0.56", "0.82"),
    "RLCCircuit": ("0.13", "0.07"),
    "FourPointPolygon": ("0", "0"),
}
"""Gap and its ground truth in Srivastava et al. 2019, arXiv:1911.08051."""
SHORT = ["--trainer.max_steps", "1200", "--model.decoder_iterations", "600", "--evaluation.every_n_iterations", "1200"]
CIRCUIT_METRICS = """[{class_path: SimulationError},
{class_path: InvariantR2, init_args: {num_real: 2000}}, {class_path: MutualInformation, init_args: {num_real: 2000}}]"""
RECIPES = {
    "fourier_plot": SHORT,
    "sprites": SHORT,
    "box_plot": SHORT,
    "polygon": SHORT,
    "rlc_circuit": ["--trainer.max_steps", "4000", "--model.decoder_iterations", "2000",
                    "--evaluation.every_n_iterations", "4000", "--evaluation.metrics", CIRCUIT_METRICS],
}  # fmt: skip
"""Recipes of configs/simulators with their changes."""
CIRCUIT = ("r2_f0", "slope_f0", "r2_Q", "slope_Q", "r2_R", "r2_L", "r2_C")


def numbers(folder: Path) -> dict[str, float]:
    """The last numbers of a run, without the protocol at the end of their names."""
    found: dict[str, float] = {}
    with (folder / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            values = {key.removeprefix("eval/"): value for key, value in row.items() if key.startswith("eval/")}
            found |= {key: float(value) for key, value in values.items() if value}
    short = lambda key: key.replace("_20bins", "").replace("_1k_test", "").replace("_2k_test", "")
    return {short(key): value for key, value in found.items()}


def told(runs: list[dict[str, float]], key: str) -> str:
    """Mean over runs and standard deviation."""
    values = [run[key] for run in runs if key in run]
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3g}{spread}"


def train(root: Path) -> None:
    """Train every recipe with three seeds, unless they are there."""
    for name, changes in RECIPES.items():
        flags = ["--trainer.accelerator", "cpu", "--run.wandb", "disabled", "--run.root", str(root)]
        flags += ["--pictures.every_n_iterations", "4000", "--checkpoints.every_n_iterations", "4000"]
        command = [sys.executable, "-m", "pt_flows", "fit", "--config", f"simulators/{name}", "--seeds", "0..2"]
        subprocess.run([*command, *flags, *changes], check=True)


def main() -> None:
    """Train what is missing, and print both tables."""
    train(Path(sys.argv[1]) / "runs")
    groups: dict[tuple[str, str], list[dict[str, float]]] = {}
    for config in sorted(Path(sys.argv[1]).glob("runs/*/*/config.yaml")):
        content = yaml.safe_load(config.read_text())
        simulator = content["data"]["init_args"]["simulator"]["class_path"].rsplit(".", 1)[-1]
        target = content["model"]["init_args"].get("encoder_target", "observation")
        own = numbers(config.parent)
        if "mig" in own:
            groups.setdefault((simulator, target), []).append(own)
    header = (
        "simulator",
        "encoder",
        "runs",
        "gap",
        "of a perfect inverse",
        "paper: gap",
        "paper: truth",
        "R²",
        "error",
    )
    print(f"| {' | '.join(header)} |\n| --- | --- |{' ---: |' * 7}")
    for (simulator, target), runs in groups.items():
        cells = [told(runs, "mig"), told(runs, "mig_truth"), *PAPER[simulator], told(runs, "r2")]
        kind = "regression" if target == "latent" else "through the decoder"
        print(f"| {simulator} | {kind} | {len(runs)} | {' | '.join(cells)} | {told(runs, 'resimulated_error')} |")
    print("\n| circuit | " + " | ".join(CIRCUIT) + " |\n| --- |" + " ---: |" * len(CIRCUIT))
    for (simulator, target), runs in groups.items():
        if simulator == "RLCCircuit":
            print(f"| {target} | {' | '.join(told(runs, key) for key in CIRCUIT)} |")


if __name__ == "__main__":
    main()
