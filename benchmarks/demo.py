"""W1-FE, W2-FE and WGAN-GP on the ring of eight under the same conditions: minutes on two CPU cores.

Runs the toy recipes through the command line, then prints a table and writes one picture that compares the target with
what each method draws. The run of W2-FE also leaves a picture of its flow.

    python benchmarks/demo.py [--iterations 1000]
"""

import argparse
import csv
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from pt_flows.callbacks.pictures import save_density
from pt_flows.cli import main as pt_flows
from pt_flows.data.toy2d import Toy2D
from pt_flows.evaluation.load import load_method
from pt_flows.state.noise import generator_at

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "toy2d"
RUNS = Path("runs") / "demo"


def train(name: str, iterations: int) -> tuple[Path, float]:
    """Train a recipe; its run folder and the seconds it took."""
    before = set(RUNS.glob("*/*"))
    start = time.monotonic()
    code = pt_flows(
        ["fit", "--config", str(CONFIGS / f"{name}.yaml"), "--trainer.max_steps", str(iterations),
         "--trainer.accelerator", "cpu", "--run.root", str(RUNS), "--run.group", "demo"]
    )  # fmt: skip
    if code:
        sys.exit(code)
    (folder,) = set(RUNS.glob("*/*")) - before
    return folder, time.monotonic() - start


def row(title: str, folder: Path, seconds: float) -> dict[str, Any]:
    """The last evaluation of a run, as a row of the table."""
    with (folder / "metrics.csv").open() as file:
        last = [r for r in csv.DictReader(file) if r["eval/w2_512"]][-1]
    arguments = yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]
    value = lambda key: float(last[f"eval/{key}"])
    return {
        "method": title, "K": arguments.get("persistence", 1), "iterations": last["iteration"],
        "seconds": f"{seconds:.0f}",
        "W1": f"{value('w1_512'):.3f}", "W2": f"{value('w2_512'):.3f}",
        "floor W1": f"{value('w1_512_floor'):.3f}", "floor W2": f"{value('w2_512_floor'):.3f}",
        "modes": f"{value('modes'):.0f}/{value('modes_of'):.0f}", "high quality": f"{value('high_quality'):.0%}",
    }  # fmt: skip


def main() -> None:
    """Train all, print the table, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    panels = {"target": Toy2D("ring8").reference("test", 5000)}
    rows, flow = [], None
    for title, name in (("W1-FE", "w1_fe"), ("W2-FE", "w2_fe"), ("WGAN-GP", "wgan_gp")):
        folder, seconds = train(name, arguments.iterations)
        rows.append(row(title, folder, seconds))
        module = load_method(folder / "checkpoints" / "last.ckpt")
        panels[title] = module.sample(5000, rng=generator_at("cpu", "pictures"))
        if name == "w2_fe":
            flow = folder / "pictures" / "flow.png"
    picture = RUNS / "demo.png"
    save_density(panels, picture)
    print("\nW1 and W2 are exact, between 512 generated and 512 real samples; the floor is real against real.\n")
    widths = {key: max(len(key), *(len(str(r[key])) for r in rows)) for key in rows[0]}
    for line in ({key: key for key in widths}, *rows):
        print("  ".join(str(line[key]).rjust(width) for key, width in widths.items()))
    print(f"\npictures: {picture} and, of W2-FE's flow, {flow}")


if __name__ == "__main__":
    main()
