"""Compare the time of `pt-flows fit --seeds` with that of its runs, one after another.

It trains a toy recipe with several seeds, first each by its own command, then all by one command. A perfect scheduler
needs the sum of the single commands divided by the number of runs side by side; the ratio to that is printed.

    python benchmarks/side_by_side.py [--seeds 12] [--jobs 2] [--iterations 300]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = Path(__file__).resolve().parent.parent / "configs" / "toy2d" / "w1_fe.yaml"


def seconds_of(*words: str) -> float:
    """Run a command of pt-flows and return its wall time."""
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pt_flows", "fit", "--config", str(RECIPE), *words],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    return time.monotonic() - begin


def main() -> None:
    """Time both ways and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=300)
    arguments = parser.parse_args()
    length = ["--trainer.max_steps", str(arguments.iterations), "--run.wandb", "disabled"]
    with tempfile.TemporaryDirectory() as folder:
        single = []
        for seed in range(arguments.seeds):
            single.append(seconds_of(*length, "--run.root", f"{folder}/one", "--seed_everything", str(seed)))
            print(f"seed {seed} alone: {single[-1]:.1f} s", flush=True)
        seeds = ["--seeds", f"0..{arguments.seeds - 1}", "--jobs", str(arguments.jobs)]
        together = seconds_of(*length, "--run.root", f"{folder}/all", *seeds)
    ideal = sum(single) / arguments.jobs
    print(f"{arguments.seeds} runs, {arguments.jobs} side by side: {together:.1f} s; the ideal: {ideal:.1f} s")
    print(f"ratio {together / ideal:.2f}")


if __name__ == "__main__":
    main()
