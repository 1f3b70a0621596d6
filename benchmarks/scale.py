"""Two processes against one, what checkpoints cost, and whether memory stays flat.

    python benchmarks/scale.py [speed] [checkpoints] [memory]

Speed and checkpoints: the small DCGAN recipe of WGAN-GP on drawn shapes. One process runs on one core, two on two, with
the same global batch. Memory: resident size of every toy recipe after 500 and after 1,500 iterations.
"""

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

ROOT = Path(__file__).parents[1]
IMAGES = ["--config", str(ROOT / "configs/cifar10/wgan_gp_small.yaml")]
IMAGES += ["--config", str(ROOT / "configs/data/shapes32.yaml")]
BARE = ["--evaluation.metrics", "[]", "--pictures.every_n_iterations", "0", "--trainer.enable_progress_bar", "false"]
BARE += ["--run.wandb", "disabled", "--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "10"]
ROUNDS = 3


class Memory(L.Callback):
    """Prints the resident size at two iterations."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Look where it is due."""
        if pl_module.iteration in (500, 1500):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(f"resident {pages * os.sysconf('SC_PAGE_SIZE') / 1e6:.2f}")


def run(cores: str, *arguments: str) -> tuple[float, str, Path]:
    """Seconds of a run pinned to some cores, what it printed, and its folder."""
    root = tempfile.mkdtemp()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    words = ["taskset", "-c", cores, sys.executable, "-m", "pt_flows", "fit", *arguments, *BARE, "--run.root", root]
    start = time.perf_counter()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, done.stdout, next(Path(root).glob("*/*"))


def rate(folder: Path) -> float:
    """Median iterations per second of the log, without its first rows."""
    with (folder / "metrics.csv").open(newline="") as file:
        rates = [float(row["cost/iterations_per_second"]) for row in csv.DictReader(file)]
    return statistics.median(rates[2:])


def speed() -> None:
    """Rates of one and of two processes."""
    steps, ratios = ["--trainer.max_steps", "100"], []
    for _ in range(ROUNDS):
        one = rate(run("0", *IMAGES, *steps)[2])
        two = rate(run("0,1", *IMAGES, *steps, "--trainer.devices", "2", "--trainer.strategy", "ddp")[2])
        ratios.append(two / one)
        print(f"one process {one:.2f}, two {two:.2f} iterations/s: {two / one:.2f}", flush=True)
    print(f"two processes on two cores over one on one: {statistics.median(ratios):.2f}")


def checkpoints() -> None:
    """Seconds of whole runs with a checkpoint every 50 iterations, and with one at the end."""
    ratios = []
    for _ in range(ROUNDS):
        often, once = (
            run("0", *IMAGES, "--trainer.max_steps", "200", "--checkpoints.every_n_iterations", n)[0]
            for n in ("50", "0")
        )
        ratios.append(often / once)
        print(f"every 50 iterations {often:.1f} s, at the end {once:.1f} s: {often / once:.3f}", flush=True)
    print(f"checkpoints every 50 iterations: {statistics.median(ratios):.3f} of the time without")


def memory() -> None:
    """Resident megabytes of every toy recipe."""
    callback = ["--trainer.callbacks", "scale.Memory", "--data.iterations_per_block", "1"]
    for recipe in sorted((ROOT / "configs/toy2d").glob("*.yaml")):
        few = ["--model.num_langevin_steps", "2"] if "num_langevin_steps" in recipe.read_text() else []
        words = ["--config", str(recipe), "--trainer.max_steps", "1500", *few]
        try:
            _, out, _ = run("0", *words, *callback)
        except subprocess.CalledProcessError as error:
            print(f"{recipe.stem:<16} {error.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        before, after = (float(line.split()[1]) for line in out.splitlines() if line.startswith("resident"))
        print(f"{recipe.stem:<16} {before:.0f} MB, {after:.0f} MB: {after / before - 1:+.2%}", flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or ["speed", "checkpoints", "memory"]:
        {"speed": speed, "checkpoints": checkpoints, "memory": memory}[name]()
