"""Time two processes against one, shortcuts against the reference, and checkpoints, and measure the growth of memory.

    python benchmarks/scale.py [speed] [perf] [checkpoints] [memory]

Speed: the small DCGAN recipe of WGAN-GP on drawn shapes, one process on one core and two on two, at the same global
batch. For comparison, two independent runs at a time with half the batch each show the limit of the machine.
Perf: `--perf` fast and compile against reference on one core. Checkpoints: every 100 iterations, and at the end.
Memory: resident size of every toy recipe, 1,000 iterations apart.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L

from pt_flows.callbacks import Checkpoints

ROOT = Path(__file__).parents[1]
IMAGES = ["--config", str(ROOT / "configs/cifar10/wgan_gp_small.yaml")]
IMAGES += ["--config", str(ROOT / "configs/data/shapes32.yaml")]
BARE = ["--evaluation.metrics", "[]", "--pictures.every_n_iterations", "0", "--trainer.enable_progress_bar", "false"]
BARE += ["--run.wandb", "disabled", "--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "10"]
ROUNDS = 3
BATCH = 64


class WallClock(L.Callback):
    """Print the seconds between iterations 5 and 305, and those of saving checkpoints."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Watch the callback that saves."""
        keeper: Any = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))
        self.saving, save = 0.0, keeper.save

        def timed(*args: Any) -> None:
            start = time.perf_counter()
            save(*args)
            self.saving += time.perf_counter() - start

        keeper.save = timed

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Read the clock when it is due."""
        if pl_module.iteration == 5:
            self.start = time.perf_counter()
        if pl_module.iteration == 305:
            print(f"seconds {time.perf_counter() - self.start:.2f} saving {self.saving:.3f} ")


class Memory(L.Callback):
    """Print the resident size at two iterations."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Read the size when it is due."""
        if pl_module.iteration in (500, 1500):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(f"resident {pages * os.sysconf('SC_PAGE_SIZE') / 1e6:.2f}")


def started(cores: str, *arguments: str) -> tuple["subprocess.Popen[str]", Path]:
    """Start a run pinned to some cores; return it with the folder of its runs."""
    root = Path(tempfile.mkdtemp())
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    words = ["taskset", "-c", cores, sys.executable, "-m", "pt_flows", "fit", *arguments, *BARE]
    words += ["--run.root", str(root)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, env=environment, text=True, stdout=pipe, stderr=pipe), root


def run(cores: str, *arguments: str) -> tuple[str, Path]:
    """Return the output of a run pinned to some cores, and its folder."""
    process, root = started(cores, *arguments)
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(err)
    return out, next(root.glob("*/*"))


def rate(folder: Path) -> float:
    """Return the median iterations per second of the log, without its first two intervals."""
    with (folder / "metrics.csv").open(newline="") as file:
        rates = [float(row["cost/iterations_per_second"]) for row in csv.DictReader(file)]
    return statistics.median(rates[2:])


def speed() -> None:
    """Print rates of one process, of two, and of two runs with half the batch at the same time."""
    words, ratios, ceilings = [*IMAGES, "--trainer.max_steps", "80"], [], []
    for _ in range(ROUNDS):
        one = rate(run("0", *words, "--data.batch_size", str(BATCH))[1])
        ddp = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
        two = rate(run("0,1", *words, "--data.batch_size", str(BATCH), *ddp)[1])
        pair = [started(core, *words, "--data.batch_size", str(BATCH // 2)) for core in "01"]
        for process, _ in pair:
            process.communicate()
        apart = statistics.mean(rate(next(root.glob("*/*"))) for _, root in pair)
        ratios.append(two / one)
        ceilings.append(apart / one)
        print(f"one {one:.2f}, two {two:.2f}, two apart {apart:.2f} iterations/s: "
              f"{two / one:.2f} of {apart / one:.2f}", flush=True)  # fmt: skip
    ratio, ceiling = statistics.median(ratios), statistics.median(ceilings)
    print(f"two processes over one: {ratio:.2f}; limit of the machine: {ceiling:.2f}")


def perf() -> None:
    """Print rates of the three modes on one core."""
    residual = [*IMAGES, "--model.generator.network", "ResNetGenerator", "--model.generator.network.width", "32"]
    residual += [
        "--model.critic.network",
        "ResNetCritic",
        "--model.critic.network.width",
        "32",
        "--data.batch_size",
        "16",
    ]
    cases = {"DCGAN": (IMAGES, "100"), "ResNet": (residual, "50")}
    cases["toy"] = (["--config", str(ROOT / "configs/toy2d/w1_fe.yaml")], "600")
    for name, (words, steps) in cases.items():
        ratios: dict[str, list[float]] = {"fast": [], "compile": []}
        for _ in range(ROUNDS):
            rates = {
                mode: rate(run("0", *words, "--trainer.max_steps", steps, "--perf", mode)[1])
                for mode in ("reference", *ratios)
            }
            for mode, found in ratios.items():
                found.append(rates[mode] / rates["reference"])
        told = ", ".join(f"{m} {statistics.median(r):.2f} ({min(r):.2f}-{max(r):.2f})" for m, r in ratios.items())
        print(f"{name:<8} over reference: {told}", flush=True)


def checkpoints() -> None:
    """Print seconds of 300 iterations with a checkpoint every 100 and with one at the end, and the cost of saving."""
    ratios, fractions = [], []
    for _ in range(ROUNDS):
        seconds, saving = {}, {}
        for every in ("100", "0"):
            words = ["--trainer.max_steps", "310", "--checkpoints.every_n_iterations", every]
            out, _ = run("0", *IMAGES, *words, "--trainer.callbacks", "scale.WallClock")
            seconds[every], saving[every] = map(float, out.split("seconds ")[1].split()[0:3:2])
        ratios.append(seconds["100"] / seconds["0"])
        fractions.append(saving["100"] / seconds["100"])
        times = f"{seconds['100']:.1f} s, without {seconds['0']:.1f} s"
        print(f"{times}: {ratios[-1]:.3f}; saving {fractions[-1]:.2%}", flush=True)
    print(
        f"checkpoints every 100 iterations: {statistics.median(ratios):.3f}; saving {statistics.median(fractions):.2%}"
    )


def memory() -> None:
    """Print resident megabytes of every toy recipe."""
    for recipe in sorted((ROOT / "configs/toy2d").glob("*.yaml")):
        few = ["--model.num_langevin_steps", "2"] if "num_langevin_steps" in recipe.read_text() else []
        data = "data.target.init_args" if "TwoDomains" in recipe.read_text() else "data"
        words = ["--config", str(recipe), "--trainer.max_steps", "1500", f"--{data}.iterations_per_block", "1", *few]
        out, _ = run("0", *words, "--trainer.callbacks", "scale.Memory")
        before, after = (float(line.split()[1]) for line in out.splitlines() if line.startswith("resident"))
        print(f"{recipe.stem:<16} {before:.0f} MB, {after:.0f} MB: {after / before - 1:+.2%}", flush=True)


PARTS = {"speed": speed, "perf": perf, "checkpoints": checkpoints, "memory": memory}


def main() -> None:
    """Run the named parts, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "all"], default="all")
    parts = parser.parse_args().parts
    for name in PARTS:
        if name in parts or "all" in parts:
            PARTS[name]()


if __name__ == "__main__":
    main()
