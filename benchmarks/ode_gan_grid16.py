"""Train ODE-GAN on 16 Gaussians with several seeds and integrators, and without the regulariser.

It runs the recipe configs/toy2d/ode_gan.yaml for five seeds, and the released notebook's smaller networks for fewer
iterations with every integrator and without the regulariser. Runs go through the command line, some side by side on one
thread each. Then it prints a table and writes two pictures: modes and the fraction of good samples over the iterations,
and samples at the end. Finished runs are not repeated.

    python benchmarks/ode_gan_grid16.py [--jobs 2] [--runs runs/grid16] [--out .]
"""

import argparse
import csv
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from pt_flows import sample
from pt_flows.callbacks.pictures import save_density
from pt_flows.data.toy2d import Toy2D
from pt_flows.evaluation.load import finished
from pt_flows.training.noise import generator_at

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "toy2d" / "ode_gan.yaml"
SMALL = ["--model.step_size.boundaries", "[48000, 54000, 57000, 59000]"]
SMALL += ["--model.step_size.factors", "[1.0, 0.5, 0.25, 0.1, 0.05]"]
MODES, GOOD = "eval/modes_4std", "eval/high_quality_4std"


@dataclass(frozen=True)
class Case:
    """One run."""

    integrator: str
    penalty_weight: float
    seed: int
    iterations: int
    units: int = 64

    @property
    def name(self) -> str:
        return f"{self.units}-{self.integrator}-{self.penalty_weight}-s{self.seed}"

    @property
    def title(self) -> str:
        return f"{self.units} units, {self.integrator}, λ = {self.penalty_weight:g}"

    def folder(self, runs: Path) -> Path | None:
        """Return the folder of the finished run, or None."""
        for file in (runs / self.name).glob("*/*/metrics.csv"):
            rows = self.curve(file)
            if rows and int(rows[-1]["iteration"]) == self.iterations:
                return file.parent
        return None

    def train(self, runs: Path) -> None:
        """Train it unless it is finished."""
        if self.folder(runs):
            return
        command = [
            str(Path(sys.executable).with_name("pt-flows")),
            "fit",
            "--config",
            str(CONFIG),
            "--run.wandb",
            "disabled",
        ]
        command += ["--run.root", str(runs / self.name), "--seed_everything", str(self.seed)]
        command += ["--model.integrator", self.integrator, "--model.penalty_weight", str(self.penalty_weight)]
        command += ["--trainer.max_steps", str(self.iterations)]
        if self.units != 64:
            command += ["--model.generator.width", str(self.units), "--model.critic.width", str(self.units), *SMALL]
        subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)

    @staticmethod
    def curve(file: Path) -> list[dict[str, str]]:
        """Return the evaluations of a run."""
        with file.open() as rows:
            return [row for row in csv.DictReader(rows) if row.get(MODES)]


CASES = [Case("rk4", 0.07, seed, 160_000) for seed in range(5)]
CASES += [Case("rk4", 0.07, seed, 60_000, 25) for seed in range(5)]
CASES += [Case(name, 0.07, 0, 60_000, 25) for name in ("heun", "euler")]
CASES += [Case("rk4", 0.0, 0, 20_000, 25)]


def table(folders: dict[Case, Path]) -> None:
    """Print modes and the fraction of good samples, in the course of training and at its end."""
    marks = (10_000, 20_000, 40_000, 90_000)
    print(
        "| units | integrator | λ | seed |",
        *(f"{mark // 1000}k |" for mark in marks),
        "end | fewest modes in last ten | minutes |",
    )
    print("|", "--- |" * (7 + len(marks)))
    for case, folder in folders.items():
        curve = Case.curve(folder / "metrics.csv")
        at = {int(r["iteration"]): f"{float(r[MODES]):.0f}, {float(r[GOOD]):.0%}" for r in curve}
        with (folder / "metrics.csv").open() as rows:
            seconds = max(float(row["cost/seconds"] or 0) for row in csv.DictReader(rows))
        cells = [case.units, case.integrator, case.penalty_weight, case.seed, *(at.get(mark, "") for mark in marks)]
        cells += [at[case.iterations], f"{min(float(r[MODES]) for r in curve[-10:]):.0f}", f"{seconds / 60:.1f}"]
        print("|", *(f"{cell} |" for cell in cells))


def curves(folders: dict[Case, Path], path: Path) -> None:
    """Draw modes and the fraction of good samples over the iterations, a panel for each setting."""
    titles = list(dict.fromkeys(case.title for case in CASES))
    figure = Figure(figsize=(3.2 * len(titles), 4.6), layout="constrained")
    axes = figure.subplots(2, len(titles), sharex=True, sharey="row", squeeze=False)
    for case, folder in folders.items():
        rows = Case.curve(folder / "metrics.csv")
        x = [int(row["iteration"]) / 1000 for row in rows]
        for axis, key in zip(axes[:, titles.index(case.title)], (MODES, GOOD), strict=True):
            axis.plot(x, [float(row[key]) for row in rows], lw=1.2, label=f"seed {case.seed}")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_ylim(0, 16.8)
    for axis in axes[1]:
        axis.set(ylim=(0, 1), xlabel="thousand iterations")
    axes[0][0].set_ylabel("modes of 16")
    axes[1][0].set_ylabel("fraction within 4 std")
    axes[1][0].legend(fontsize=7, loc="upper left")
    figure.savefig(path, dpi=110)


def samples(folders: dict[Case, Path], path: Path) -> None:
    """Draw samples of the first seed of every setting beside the target."""
    panels = {"target": Toy2D("grid16").reference("test", 5000)}
    for case, folder in folders.items():
        if case.seed == 0:
            module = finished(folder / "checkpoints" / "last.ckpt").method
            panels[case.title] = sample(module, 5000, rng=generator_at("cpu", "pictures"))
    save_density(panels, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "grid16")
    parser.add_argument("--out", type=Path, default=Path())
    arguments = parser.parse_args()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda case: case.train(arguments.runs), CASES))
    folders = {case: folder for case in CASES if (folder := case.folder(arguments.runs))}
    table(folders)
    curves(folders, arguments.out / "ode_gan_grid16_curves.png")
    samples(folders, arguments.out / "ode_gan_grid16_samples.png")


if __name__ == "__main__":
    main()
