"""Tune Wasserstein GANs and particle flows on the ring of eight, each with the same effort.

Every arm gets the same number of trials over the same ranges: both learning rates, side and weight of the penalty,
critic steps per iteration, and the step size. Trials spend an equal number of critic steps. Trial 0 is the same setting
for all. The others are scrambled Sobol points, so that a longer search extends a shorter one. The best two run again
with another seed. The better one runs with the seeds of the record: once with equal critic steps, once with the CPU
seconds of WGAN-GP.

Every finished run is one line of the file. A later call does not repeat these runs, and prints the tables.

    python benchmarks/tune_ring8.py [--file runs/tune_ring8.jsonl] [--trials 17] [--seeds 5]
"""

import argparse
import json
import statistics
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from scipy.stats import qmc

from pt_flows import sample
from pt_flows.data import Toy2D
from pt_flows.errors import DivergenceError
from pt_flows.functional.transport import exact_wasserstein
from pt_flows.methods import W1FE, W2FE, WGANGP
from pt_flows.metrics import ExactWasserstein, ModeCoverage
from pt_flows.metrics.base import SampleMetric
from pt_flows.nets import MLPCritic, ResidualMLPGenerator
from pt_flows.training.noise import generator_at
from pt_flows.training.players import Critic, Generator
from pt_flows.training.schedules import Schedule

ARMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "WGAN-GP": (WGANGP, {}),
    "W1-FE, K = 1": (W1FE, {"persistence": 1, "reduction": "mean"}),
    "W1-FE, K = 5": (W1FE, {"persistence": 5, "reduction": "mean"}),
    "W2-FE, K = 5": (W2FE, {"persistence": 5, "reduction": "mean", "equality_weight": 0.0}),
}
"""WGAN-GP and W1-FE with K = 1 are one algorithm under Adam, so only the luck of tuning sets them apart."""
TRIAL_SEEDS, FINALISTS, TRIAL_STEPS, FINAL_STEPS = (100, 101), 2, 900, 3000
MARKS = (300, 600, 1200, 3000)  # critic steps
MANY = 2000  # points of the distance that trials are ranked by
RANGES = {"generator_lr": (1e-4, 3e-3), "critic_lr": (3e-4, 3e-3), "weight": (0.1, 30.0), "step_size": (0.03, 1.0)}
CHOICES = {"one_sided": (True, False), "num_critic_steps": (3, 5, 10)}
COMMON = {"generator_lr": 1e-3, "critic_lr": 1e-3, "weight": 10.0, "step_size": 0.1} | {
    "one_sided": True, "num_critic_steps": 5
}  # fmt: skip


def settings(arm: str, num: int) -> list[dict[str, Any]]:
    """Return the trials of an arm."""
    cube = qmc.Sobol(d=len(RANGES) + len(CHOICES), seed=list(ARMS).index(arm)).random(64)[: num - 1]
    trials = [COMMON]
    for row in cube:
        trial: dict[str, Any] = {
            name: float(f"{low * (high / low) ** u:.2g}")
            for (name, (low, high)), u in zip(RANGES.items(), row, strict=False)
        }
        trial |= {
            n: values[int(u * len(values))] for (n, values), u in zip(CHOICES.items(), row[len(RANGES) :], strict=True)
        }
        trials.append(trial)
    return trials


def arguments_of(arm: str, setting: dict[str, Any]) -> dict[str, Any]:
    """Translate a setting for a method; penalties of W2-FE have another unit, and its side is that of the field."""
    cls, arguments = ARMS[arm]
    if cls is not WGANGP:
        arguments = arguments | {"step_size": setting["step_size"]}
    if cls is W2FE:
        weight = 20 * setting["weight"]
        side = "fake" if setting["one_sided"] else "real"
        return arguments | {"inequality_weight": weight, "interpolated_weight": weight, "potential_side": side}
    return arguments | {
        "penalty": "one_sided" if setting["one_sided"] else "two_sided", "penalty_weight": setting["weight"]
    }  # fmt: skip


class Watch(L.Callback):
    """Record W1 and CPU seconds during training, without the seconds of measuring."""

    def __init__(self, data: Toy2D) -> None:
        self.real, self.rows, self.spent, self.start = data.reference("test", 512), [], 0.0, time.process_time()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *arguments: Any) -> None:
        now, steps = time.process_time(), pl_module.iteration * pl_module.critic.steps
        if steps in MARKS:
            x = sample(pl_module, 512, rng=generator_at("cpu", "evaluation", 0))
            self.rows.append((steps, now - self.start - self.spent, exact_wasserstein(x, self.real, 1)))
            self.spent += time.process_time() - now


@cache
def metrics() -> list[SampleMetric]:
    """Return the metrics of the recipes, with their floors."""
    found: list[SampleMetric] = [ExactWasserstein(), ModeCoverage()]
    for metric in found:
        metric.prepare(Toy2D("ring8"), 512)
    return found


def train(arm: str, setting: dict[str, Any], seed: int, critic_steps: int) -> dict[str, Any]:
    """Train once and measure; a run that diverges has no distance."""
    L.seed_everything(seed, verbose=False)
    adam = lambda lr: partial(torch.optim.Adam, lr=lr, betas=(0.5, 0.9))
    falling, arguments = Schedule(decay="cosine"), arguments_of(arm, setting)
    if ARMS[arm][0] is W2FE:
        arguments["excess"] = MLPCritic(init_std=0.1)
    G = Generator(
        ResidualMLPGenerator(batch_norm=False, init_std=0.05), adam(setting["generator_lr"]), falling, ema_decay=0.99
    )
    f = Critic(MLPCritic(init_std=0.1), adam(setting["critic_lr"]), falling, steps=setting["num_critic_steps"])
    module = ARMS[arm][0](G, f, **arguments)
    data = Toy2D("ring8", batch_size=512)
    watch = Watch(data)
    trainer = L.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, max_epochs=-1, callbacks=[watch],
        max_steps=10 * round(critic_steps / setting["num_critic_steps"] / 10),
    )  # fmt: skip
    try:
        trainer.fit(module, datamodule=data)
    except DivergenceError:
        return {"w2": float("inf")}
    seconds, found = time.process_time() - watch.start - watch.spent, {}
    for metric in metrics():
        metric.reset()
        metric.update(sample(module, 512, rng=generator_at("cpu", "evaluation", 0)))
        found |= metric.compute()
    w2 = exact_wasserstein(sample(module, MANY, rng=generator_at("cpu", "many")), data.reference("test", MANY), 2)
    return found | {"w2": w2, "seconds": seconds, "rows": watch.rows, "iterations": module.iteration}


class Runs:
    """Finished runs, one JSON line each."""

    def __init__(self, file: Path) -> None:
        self.file, self.done = file, {}
        file.parent.mkdir(parents=True, exist_ok=True)
        for line in file.read_text().splitlines() if file.is_file() else ():
            run = json.loads(line)
            self.done[run["key"]] = run

    def __call__(self, arm: str, setting: dict[str, Any], seed: int, critic_steps: int) -> dict[str, Any]:
        key = json.dumps([arm, setting, seed, critic_steps], sort_keys=True)
        if key not in self.done:
            self.done[key] = {"key": key} | train(arm, setting, seed, critic_steps)
            with self.file.open("a") as file:
                file.write(json.dumps(self.done[key]) + "\n")
        return self.done[key]


def tuned(runs: Runs, num: int) -> dict[str, dict[str, Any]]:
    """Return the best setting of every arm."""
    first: dict[str, list[tuple[float, dict[str, Any]]]] = {arm: [] for arm in ARMS}
    for trial in range(num):
        for arm in ARMS:
            setting = settings(arm, num)[trial]
            first[arm].append((runs(arm, setting, TRIAL_SEEDS[0], TRIAL_STEPS)["w2"], setting))
    best = {}
    for arm, found in first.items():
        finalists = sorted(found, key=lambda pair: pair[0])[:FINALISTS]
        again = [(w2 + runs(arm, s, TRIAL_SEEDS[1], TRIAL_STEPS)["w2"], s) for w2, s in finalists]
        score, best[arm] = min(again, key=lambda pair: pair[0])
        print(f"{arm}: W2 {score / 2:.3f} with {best[arm]} (first trial {found[0][0]:.3f})", flush=True)
    return best


def table(results: dict[str, list[dict[str, Any]]]) -> None:
    """Print medians over seeds with the worst in brackets, and every seed's W2 unless it diverged."""
    print("\n| arm | W2 | W2, many | W1 | good | modes | iterations | CPU seconds | W1 on the way | W2 of each seed |")
    print("|", "--- |" * 10)
    for arm, found in results.items():
        ended = [run for run in found if "rows" in run]
        of = lambda key, runs=ended: [run[key] for run in runs]
        cell = lambda values, worst=max: f"{statistics.median(values):.3f} ({worst(values):.3f})"
        cells = [arm, cell(of("w2_512")), cell(of("w2")), cell(of("w1_512")), cell(of("high_quality"), min)]
        cells += [f"{min(of('modes')):.0f}", ended[0]["iterations"], f"{statistics.median(of('seconds')):.0f}"]
        way = [(rows[0][0], statistics.median(row[2] for row in rows)) for rows in zip(*of("rows"), strict=True)]
        cells += [", ".join(f"{steps}: {w1:.2f}" for steps, w1 in way)]
        cells += [", ".join(f"{run['w2_512']:.3f}" if "rows" in run else "diverged" for run in found)]
        print("|", *(f"{text} |" for text in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=Path("runs") / "tune_ring8.jsonl")
    parser.add_argument("--trials", type=int, default=17)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = Runs(arguments.file)
    best, steps = tuned(runs, arguments.trials), dict.fromkeys(ARMS, FINAL_STEPS)
    for _ in range(2):
        results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
        for seed in range(arguments.seeds):
            for arm in ARMS:
                results[arm].append(runs(arm, best[arm], seed, steps[arm]))
        table(results)
        seconds = [statistics.median(run["seconds"] for run in results[arm] if "rows" in run) for arm in ARMS]
        for arm, own in zip(ARMS, seconds, strict=True):
            if own > 1.1 * seconds[0]:  # smaller differences are noise of the clock
                steps[arm] = round(FINAL_STEPS * seconds[0] / own / 100) * 100


if __name__ == "__main__":
    main()
