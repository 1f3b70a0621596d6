"""Distil samplers over trained GANs into one evaluation of a decoder: quality and cost of a sample before and after.

    python benchmarks/distillation.py [--cases toy,mnist] [--out runs/distillation] [--iterations 1.0]

It trains a GAN, then SimVAE on its sampler, and measures all with the same real data. Runs that are finished in `--out`
are not repeated. Seconds are those of one thread for 500 samples, on the CPU.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pt_flows.evaluation.engine import measure
from pt_flows.evaluation.evaluate import default_metrics, prepared
from pt_flows.evaluation.load import finished
from pt_flows.evaluation.subject import Subject
from pt_flows.evaluation.trained import TrainedSampler
from pt_flows.samplers import REPGAN, Direct, GradientFlow, Sampler

CPU = ["--trainer.accelerator", "cpu", "--run.wandb", "disabled"]
CASES: dict[str, dict[str, Any]] = {
    "toy": {
        "base": "configs/toy2d/wgan_gp.yaml",
        "student": "configs/simulators/trained_toy.yaml",
        "iterations": (600, 4000),
        "samplers": {
            "flow of samples": GradientFlow(50, 0.01, noise=0.0, space="data"),
            "REP-GAN": REPGAN(50, 0.003),
        },
        "keys": ["w1_1k", "w2_1k", "high_quality"],
        "n": 1000,
    },
    "mnist": {
        "base": "configs/mnist/wgan_gp.yaml",
        "student": "configs/simulators/trained_mnist.yaml",
        "iterations": (1000, 3000),
        "samplers": {"flow of latents": GradientFlow(25, 0.03, noise=0.0)},
        "keys": ["fd_lite0_64_500_test", "precision_lite0_64_500_test", "recall_lite0_64_500_test"],
        "n": 500,
    },
}


class Coupled(Sampler):
    """Samples of a simulator: those of its sampler, with one noise for all."""

    def __init__(self, simulator: TrainedSampler) -> None:
        self.simulator = simulator

    def sample(self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None) -> Tensor:
        """Simulate at fresh latents."""
        return self.simulator(torch.randn(num, len(self.simulator.names), generator=rng))


def trained(config: str, iterations: int, root: Path, *flags: str) -> Path:
    """Train a recipe into a folder of its own, if it is not there, and return the run folder."""
    if not (found := list(root.glob("*/*/checkpoints/last.ckpt"))):
        length = ["--trainer.max_steps", str(iterations), "--run.root", str(root)]
        words = ["fit", "--config", config, *length, *CPU, *flags]
        subprocess.run([sys.executable, "-m", "pt_flows", *words], check=True, stdout=sys.stderr)
        found = list(root.glob("*/*/checkpoints/last.ckpt"))
    return found[0].parents[1]


def student_of(case: dict[str, Any], base: Path, sampler: Sampler, scale: float, root: Path) -> Path:
    """Distil a sampler, with half of the iterations for the decoder."""
    iterations = int(case["iterations"][1] * scale) // 20 * 20
    path, own = f"pt_flows.samplers.{type(sampler).__name__}", sampler.init_args
    flags = ["--data.simulator.checkpoint", str(base), "--model.decoder_iterations", str(iterations // 2)]
    flags += ["--data.simulator.sampler", f'{{"class_path": "{path}", "init_args": {json.dumps(own)}}}']
    if scale < 1:
        flags += ["--data.num_pairs", "100"]
    flags += ["--evaluation.every_n_iterations", str(iterations), "--checkpoints.every_n_iterations", str(iterations)]
    return trained(case["student"], iterations, root, *flags)


def row(name: str, subject: Subject, metrics: Any, case: dict[str, Any]) -> str:
    """Measure a subject, and return its row of the table."""
    numbers = measure(subject, metrics, case["n"], "distillation", name)
    evaluations = sum(subject.evaluations.values())
    start = time.process_time()
    subject.prepared().sample(500, rng=torch.Generator().manual_seed(0))
    milliseconds = 2 * (time.process_time() - start)
    shown = [f"{numbers[key]:.4g}" if key in numbers else "-" for key in case["keys"]]
    return f"| {name} | {' | '.join(shown)} | {f'{evaluations:.4g}' if evaluations else '-'} | {milliseconds:.3g} |"


def compare(name: str, case: dict[str, Any], scale: float, out: Path) -> Iterator[str]:
    """Train what is missing of a case, and yield the lines of its table."""
    base = trained(case["base"], max(10, int(case["iterations"][0] * scale) // 10 * 10), out / name / "base")
    students = {
        title: student_of(case, base, sampler, scale, out / name / title.replace(" ", "_"))
        for title, sampler in case["samplers"].items()
    }
    run = finished(base)
    data, cpu = run.data(), torch.device("cpu")
    metrics = prepared(
        default_metrics(Subject(run.method), data, "test"), data, case["n"], "test", "test", cpu, run.method
    )
    header = [name, *case["keys"], "evaluations per sample", "ms per sample"]
    yield f"\n| {' | '.join(header)} |\n|{' --- |' * len(header)}"
    yield row("GAN", Subject(run.method, sampler=Direct()), metrics, case)
    for title, sampler in case["samplers"].items():
        yield row(title, Subject(run.method, sampler=sampler, data=data), metrics, case)
        simulator = TrainedSampler(str(base), sampler)
        if getattr(sampler, "noise", 1.0):
            yield row(f"{title}, one noise for all", Subject(run.method, sampler=Coupled(simulator)), metrics, case)
        student = finished(students[title])
        yield row(f"{title}, distilled", Subject(student.method, sampler=Direct()), metrics, case)
        log = (students[title] / "metrics.csv").read_text().splitlines()
        last = dict(zip(log[0].split(","), log[-1].split(","), strict=True))
        errors = {key: value for key, value in last.items() if "ulated_error" in key and value}
        yield f"<!-- {title}: {errors} -->"


def main() -> None:
    """Print a table for every case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", default="toy,mnist")
    parser.add_argument("--out", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--iterations", type=float, default=1.0, help="factor of the length of all runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.cases.split(","):
        with redirect_stdout(sys.stderr):
            lines = list(compare(name, CASES[name], options.iterations, options.out))
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
