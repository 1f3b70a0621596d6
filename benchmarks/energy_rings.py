"""Run chains of a DA-EBM on four rings long after training: mass of every ring, fractions of labels, KL divergence.

Chains of the buffer continue for many transitions with the stored steps. At powers of ten the script prints the
fraction of each ring among the chains at label 0, and of each label. Both are divided by the uniform fraction and
averaged over the transitions since the previous row. The KL divergence is that of the checkpoint's density.

    python benchmarks/energy_rings.py runs/toy2d-daebm/.../checkpoints/last.ckpt [--transitions 10000] [--chains 500]
"""

import argparse
from pathlib import Path

import torch

from pt_flows.evaluation.energies import load_energy
from pt_flows.functional.gibbs import mgms
from pt_flows.methods import DAEBM
from pt_flows.metrics import GridKL
from pt_flows.progress import track
from pt_flows.training.noise import generator_at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt", type=Path)
    parser.add_argument("--transitions", type=int, default=10_000)
    parser.add_argument("--chains", type=int, default=500)
    arguments = parser.parse_args()
    run, module = load_energy(str(arguments.ckpt), "cpu")
    data = run.data()
    assert isinstance(module, DAEBM)
    divergence = GridKL(400)
    divergence.prepare(data, 1)
    divergence.update_energy(module.clean_energy)
    print(f"iteration {module.iteration}: KL(true | model at label 0) {float(divergence.divergence):.4f} nat")

    x, t = module.buffer.points[: arguments.chains], module.buffer.labels[: arguments.chains]
    x, t = (v[torch.randperm(len(v), generator=generator_at("cpu", "rings"))] for v in (x, t))
    rng, s, K = generator_at("cpu", "rings", 1), module.step_sizes.values, module.num_langevin_steps
    rings, labels, extreme = torch.zeros(4), torch.zeros(module.num_labels), 0.0
    with module.energy.fixed("ema") as U:
        for i in track(range(1, arguments.transitions + 1), "transitions"):
            x, t, *_ = mgms(U, x, t, s, K, rng)
            r = x[t == 0].norm(dim=1)
            rings += (r.clamp(1, 4) - 1).round().long().bincount(minlength=4)
            labels += t.bincount(minlength=module.num_labels)
            extreme = max(extreme, float(x.norm(dim=1).max()))
            if i in (10, 100, 1000, arguments.transitions):
                fractions = [" ".join(f"{float(v):.2f}" for v in len(n) * n / n.sum()) for n in (rings, labels)]
                print(
                    f"{i:>7} transitions: rings {fractions[0]}; labels {fractions[1]}; largest norm {extreme:.1f}",
                    flush=True,
                )
                rings, labels = torch.zeros(4), torch.zeros(module.num_labels)


if __name__ == "__main__":
    main()
