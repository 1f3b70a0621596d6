"""Adversarial training of linear models against exact solutions: least squares, and the flow that training follows.

    python benchmarks/adversarial_linear.py

First, `AdversarialTraining` with a smoothed l2 attack on y = xᵀθ₀ + N(0, 1/4) of d = 10, beside the least adversarial
risk, which is known. Then logistic models, trained at ascents without a bound and by their penalty on input gradients,
beside the modified equation. The script prints the tables of the record, in two minutes of a core.
"""

import logging
import math
import warnings
from functools import partial

import lightning as L
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pt_flows.data import LinearRegression
from pt_flows.functional.attacks import FastGradient, input_gradient_penalty
from pt_flows.functional.modified_flow import AdversarialTraining as Descent
from pt_flows.functional.modified_flow import Order, follow
from pt_flows.methods import AdversarialTraining
from pt_flows.nets import LinearPredictor
from pt_flows.training.predictor import Predictor

C0, EPSILON, NOISE = math.sqrt(2 / math.pi), 0.5, 0.5
SIZES, SEEDS = (200, 2000, 20_000), range(3)
ORDERS: tuple[Order, ...] = (1, 2)


def risk(theta: Tensor, truth: Tensor) -> float:
    """Population risk under the worst attack of length ε: E (|xᵀθ - y| + ε ‖θ‖)² for x ~ N(0, I)."""
    v, norm = float((theta - truth).square().sum()) + NOISE**2, float(theta.norm())
    return v + 2 * C0 * EPSILON * norm * math.sqrt(v) + EPSILON**2 * norm**2


def least_risk() -> tuple[float, float]:
    """The multiple α of θ₀ with the least risk, for ‖θ₀‖ = 1, and this risk, on a grid of 1e-5."""
    a = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    v = (1 - a).square() + NOISE**2
    risks = v + 2 * C0 * EPSILON * a * v.sqrt() + EPSILON**2 * a.square()
    return float(a[risks.argmin()]), float(risks.min())


def excess(num: int, seed: int) -> float:
    """Risk above the least one, after training on `num` samples."""
    L.seed_everything(seed, verbose=False)
    data = LinearRegression(num, data_seed=seed, batch_size=num)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    predictor = Predictor(LinearPredictor((10,), bias=False, init_std=0.1), optimizer, ema_decay=None)
    method = AdversarialTraining(predictor, FastGradient(EPSILON, "l2", 0.01))
    L.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, max_epochs=-1, max_steps=500,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
    ).fit(method, datamodule=data)  # fmt: skip
    theta = torch.cat([p.detach().flatten() for p in predictor.network.parameters()]).double()
    return risk(theta, data.truth.double()) - least_risk()[1]


def regression() -> None:
    """Print the excess of every number of samples."""
    alpha, least = least_risk()
    print(f"least risk {least:.4f} at {alpha:.4f} θ₀\n\n| n | excess risk | n · excess |\n| ---: | ---: | ---: |")
    for num in SIZES:
        found = torch.tensor([excess(num, seed) for seed in SEEDS])
        print(f"| {num} | {found.mean():.5f} ± {found.std():.5f} | {num * found.mean():.2f} |", flush=True)


def logistic(theta: Tensor, u: Tensor) -> Tensor:
    """Loss of one sample u = y x: a step of u is one of x with the same length."""
    return softplus(-theta @ u)


def flows(data: Tensor) -> None:
    """Print distances to the equations at time 4, with their ratios from row to row."""
    start = torch.tensor([[0.8, -0.5, 0.3]], dtype=torch.float64)
    print("\n| K | η = η_I | first order | ratio | second order | ratio |\n| ---: | ---: | ---: | ---: | ---: | ---: |")
    for ascents in (0, 1, 3):
        last: dict[int, float] = {}
        for rate in (0.2, 0.1, 0.05):
            problem, cells = Descent(logistic, data, ascents, rate), []
            end = problem.run(start, rate, round(4 / rate))
            for order in ORDERS:
                error = float((end - follow(problem.drift(rate, order), start, 4.0, 20)).norm())
                cells += [f"{error:.2e}", f"{last[order] / error:.2f}" if order in last else ""]
                last[order] = error
            print(f"| {ascents} | {rate:g} | {' | '.join(cells)} |", flush=True)


def robustness(data: Tensor) -> None:
    """Print what attacks and their penalty make of one start, when the clean loss falls below 0.45 and at the end."""
    print("\n| training | steps | clean loss | E ‖∇_x ℓ‖² | loss at attacks of length 0.5 |\n| --- |" + " ---: |" * 4)
    penalised = lambda theta, x: logistic(theta, x) + 0.3 * (torch.sigmoid(-theta @ x) * theta).square().sum()
    arms = {
        "plain": Descent(logistic, data, 0, 0.2),
        "K = 3, η_I = 0.2": Descent(logistic, data, 3, 0.2),
        "penalty K η_I / 2 = 0.3": Descent(penalised, data, 0, 0.2),
    }
    for name, problem in arms.items():
        theta, early = torch.zeros(1, 3, dtype=torch.float64), False
        for step in range(1, 401):
            theta = problem.run(theta, 0.2, 1)
            own = lambda x, at=theta[0]: softplus(-x @ at)
            if ((clean := float(own(data).mean())) < 0.45 and not early) or step == 400:
                worst = float(own(FastGradient(0.5)(own, data)).mean())
                slope = float(input_gradient_penalty(own, data))
                print(f"| {name} | {step} | {clean:.4f} | {slope:.4f} | {worst:.4f} |", flush=True)
                early = True


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=rng, dtype=torch.float64)
    y = torch.where(x.sum(1) + 0.7 * torch.randn(40, generator=rng, dtype=torch.float64) > 0, 1.0, -1.0)
    data = y[:, None] * x
    flows(data)
    robustness(data)
    regression()


if __name__ == "__main__":
    main()
