"""Choose the step sizes of samplers over a trained critic, each with the same number of evaluations of networks.

    python benchmarks/sampler_steps.py RUN [--n 1000] [--evaluations 100]

Numbers are measured against the training split, so that a comparison against the test split has seen nothing of the
choice. RUN should have a seed of its own, too.
"""

import argparse
from collections.abc import Iterator

import torch

from pt_flows.evaluation.engine import measure
from pt_flows.evaluation.evaluate import default_metrics, prepared
from pt_flows.evaluation.load import finished
from pt_flows.evaluation.subject import Subject
from pt_flows.samplers import REPGAN, Direct, GradientFlow, Sampler

LATENT_STEPS = (0.001, 0.003, 0.01, 0.03, 0.1)
FLOW_STEPS = (0.001, 0.003, 0.01, 0.03, 0.1)


def candidates(evaluations: int) -> Iterator[tuple[str, Sampler]]:
    """Yield samplers with their names; a latent step evaluates two networks, a step in data space one."""
    half = evaluations // 2
    yield "Direct", Direct()
    yield "MH-GAN", REPGAN(half, proposal="independent")
    for step in LATENT_STEPS:
        yield f"REP-GAN, τ = {step:g}", REPGAN(half, step)
        yield f"DDLS, τ = {step:g}", REPGAN(half, step, metropolis=False)
    for step in FLOW_STEPS:
        yield f"flow of latents, η = {step:g}", GradientFlow(half, step)
        yield f"flow of samples, η = {step:g}", GradientFlow(evaluations, step, noise=0.0, space="data")


def main() -> None:
    """Print a row for every sampler."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="run folder or checkpoint")
    parser.add_argument("--n", type=int, default=1_000, help="samples")
    parser.add_argument("--evaluations", type=int, default=100, help="of networks for one sample")
    options = parser.parse_args()
    run = finished(options.run)
    data, method = run.data(), run.method
    chosen, cpu = default_metrics(Subject(method), data, "train"), torch.device("cpu")
    metrics = prepared(chosen, data, options.n, "train", "train", cpu, method)
    for i, (name, sampler) in enumerate(candidates(options.evaluations)):
        subject = Subject(method, sampler=sampler, data=data)
        numbers = measure(subject, metrics, options.n, "steps", name)
        numbers["evaluations"] = sum(subject.evaluations.values())
        left_out = [key for key in numbers if key in subject.diagnostics or key.endswith(("_floor", "_of"))]
        shown = {key: f"{value:.4g}" for key, value in numbers.items() if key not in left_out}
        shown["about its chains"] = ", ".join(f"{key} {value:.3g}" for key, value in subject.diagnostics.items())
        if i == 0:
            print("| sampler | " + " | ".join(shown) + " |\n" + "| --- " * (len(shown) + 1) + "|")
        print(f"| {name} | " + " | ".join(shown.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
