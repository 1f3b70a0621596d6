r"""W2-FE with the potential of the minibatch itself: no critic, exact or entropic transport between samples.

    y_i - ∇ψ(y_i) = x_σ(i)     σ the optimal assignment of y_1..y_m = G(z) to data x_1..x_m
                  = Σ_j p_ij x_j     or the mean under the entropic plan, ψ its potential
    ζ_i = y_i - ε ∇ψ(y_i)
    K times:  G ← one optimizer step on  (1/m) Σ ‖G(z_i) - ζ_i‖²,  the same z and ζ each time

The flow of w2_fe.py with another estimator of ψ. Minibatches bias the map by about the distance between two samples of
their size, so it is for low dimension and large minibatches. Entropic potentials and their barycentric projection:
Seguy et al. 2018, arXiv:1711.02283; Pooladian and Niles-Weed 2021, arXiv:2109.12004.

Departures: the network potentials of Huang and Malik 2024, arXiv:2406.13619, are replaced.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from pt_flows.contracts import Batch, GeneratorNet
from pt_flows.functional.potentials import Reduction, euler_target, velocity
from pt_flows.functional.transport import entropic_potential
from pt_flows.loop.base import GeneratorModule, Terms, adam, at_least, matched, positive, within_the_way
from pt_flows.loop.requirements import check_factory
from pt_flows.training.distributed import all_ranks
from pt_flows.training.schedules import Decay, decay_factor


class MinibatchW2FE(GeneratorModule):
    """Wasserstein-2 forward Euler along the potential between the minibatches of all ranks.

    Args:
        generator: G, latents to samples.
        generator_optimizer: Makes G's optimizer from its parameters; its state is kept between iterations. Default Adam
            with rate 5e-4 and betas 0.5 and 0.9.
        entropy: Temperature of entropic transport in units of the cost ½‖x - y‖²; 0 for exact transport, on the CPU.
        step_size: ε, the share of the way to the data.
        persistence: K, optimizer steps of G towards the same targets.
        reduction: Squared distance summed over coordinates (formula) or averaged.
        lr_decay: How the learning rate falls over the run.
        step_size_decay: How ε falls over the run.
        ema_decay: Decay of the average of G's weights.
    """

    differentiated_once = ("generator",)

    def __init__(
        self,
        generator: GeneratorNet,
        generator_optimizer: OptimizerCallable = adam,
        entropy: float = 0.0,
        step_size: float = 1.0,
        persistence: int = 5,
        reduction: Reduction = "sum",
        lr_decay: Decay = "constant",
        step_size_decay: Decay = "constant",
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__(generator, ema_decay)
        check_factory("model.generator_optimizer", generator_optimizer)
        at_least("model.entropy", entropy, 0)
        at_least("model.persistence", persistence, 1)
        positive("model.step_size", step_size)
        within_the_way("model.step_size", step_size)
        self.generator_optimizer, self.entropy = generator_optimizer, entropy
        self.step_size, self.persistence = step_size, persistence
        self.lr_decay: Decay = lr_decay
        self.step_size_decay: Decay = step_size_decay
        self.reduction: Reduction = reduction

    @property
    def share_of_the_way(self) -> float:
        """ε of this iteration."""
        return self.step_size * decay_factor(self.step_size_decay, self.progress)

    def velocity(self, x: Tensor, y: Tensor) -> Tensor:
        """-∇ψ at particles y, ψ the potential from particles to data x, over all ranks."""
        if self.entropy == 0:
            return matched(y, x) - y
        return velocity(entropic_potential(all_ranks(y), all_ranks(x), self.entropy), y)

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Transport between the samples, one Euler step, K regression steps of the generator."""
        ((x, _),) = minibatches
        optimizer = cast(LightningOptimizer, self.optimizers())
        z = self.latents(len(x))
        y = self.generator(z)
        v = self.velocity(x, y.detach())
        zeta = euler_target(y, v, self.share_of_the_way)  # ζ = y - ε ∇ψ(y)
        cost = 0.5 * v.flatten(1).square().sum(1).mean()
        return {"dual": cost} | self.persistent_fit(optimizer, z, y, zeta, self.persistence, self.reduction)

    def configure_optimizers(self) -> Any:
        """G's optimizer and its schedule."""
        self.needs_an_end("lr_decay", self.lr_decay)
        self.needs_an_end("step_size_decay", self.step_size_decay)
        optimizer: torch.optim.Optimizer = self.generator_optimizer(self.generator.parameters())
        return [optimizer], [self.decayed(optimizer, self.lr_decay)]
