r"""W1-FE: the gradient flow of the Wasserstein-1 distance, forward Euler steps, persistent training.

    dY = ∇f(Y) dt          f a Kantorovich potential from data to the law of Y, ‖∇f‖ ≤ 1 (the paper's φ is -f)
    ζ_i = y_i + ε ∇f(y_i)  one Euler step of the particles y_i = G(z_i)
    K times:  G ← one optimizer step on  (1/m) Σ ‖G(z_i) - ζ_i‖²,  the same z and ζ each time

Malik and Huang 2024, A Differential Equation Approach for Wasserstein GANs and Beyond, arXiv:2405.16351. K = 1 is the
Wasserstein GAN, its gradient scaled by 2ε.

Departures: written from the authors' released code and the abstract; the body of the paper was not available. The loss
is a sum over coordinates, as in the formula; the released code's mean is `reduction: mean`. Learning rates and ε may
decay, because a Wasserstein-1 field does not slow down near the data.
"""

from collections.abc import Sequence
from typing import Literal

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from pt_flows.contracts import Batch, CriticNet, GeneratorNet
from pt_flows.functional.penalties import gradient_norm, interpolate, one_sided_penalty, two_sided_penalty
from pt_flows.functional.potentials import (
    Reduction,
    euler_target,
    regression_loss,
    velocity,
    wasserstein1_dual,
)
from pt_flows.functional.schedules import Decay, decay_factor
from pt_flows.methods.base import AlternatingModule, Terms, at_least, positive

PENALTIES = {"one_sided": one_sided_penalty, "two_sided": two_sided_penalty}


class W1FE(AlternatingModule):
    """Wasserstein-1 forward Euler with persistent training.

    Args:
        generator: G, latents to samples.
        critic: f, samples to one value each; without batch norm, which would break the penalty.
        generator_optimizer: Makes G's optimizer from its parameters; its state is kept between iterations.
        critic_optimizer: Makes f's optimizer from its parameters.
        num_critic_steps: Critic steps per iteration, each on a fresh minibatch.
        penalty: "one_sided" (LP, robust) or "two_sided" (GP).
        penalty_weight: λ.
        step_size: ε, in data units; no effect at K = 1 with Adam, which cancels constant factors.
        persistence: K, optimizer steps of G towards the same targets.
        reduction: Squared distance summed over coordinates (formula) or averaged (released code).
        lr_decay: How both learning rates fall over the run.
        step_size_decay: How ε falls over the run.
        ema_decay: Decay of the average of G's weights.
    """

    def __init__(
        self,
        generator: GeneratorNet,
        critic: CriticNet,
        generator_optimizer: OptimizerCallable,
        critic_optimizer: OptimizerCallable,
        num_critic_steps: int = 5,
        penalty: Literal["one_sided", "two_sided"] = "one_sided",
        penalty_weight: float = 10.0,
        step_size: float = 1.0,
        persistence: int = 5,
        reduction: Reduction = "sum",
        lr_decay: Decay = "constant",
        step_size_decay: Decay = "constant",
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__(
            generator, critic, generator_optimizer, critic_optimizer, num_critic_steps, lr_decay, ema_decay
        )
        at_least("model.penalty_weight", penalty_weight, 0)
        at_least("model.persistence", persistence, 1)
        positive("model.step_size", step_size)
        self.penalty, self.penalty_weight = PENALTIES[penalty], penalty_weight
        self.step_size, self.persistence = step_size, persistence
        self.step_size_decay: Decay = step_size_decay
        self.reduction: Reduction = reduction

    def critic_loss(self, x: Tensor, y: Tensor) -> Terms:
        """Loss of f on data x and particles y: the penalised dual of W1."""
        f, lam = self.critic, self.penalty_weight
        u = interpolate(x, y, self.noise.uniform(len(x)))
        dual, penalty = wasserstein1_dual(f, x, y), self.penalty(gradient_norm(f, u))
        return {"loss_D": -dual + lam * penalty, "dual": dual, "penalty": penalty}

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Critic phase, one Euler step of the particles, K regression steps of the generator."""
        G, f, K = self.generator, self.critic, self.persistence
        optimizer_G, _ = self.optimizer_pair()

        terms = self.fit_critic(minibatches)  # f towards the potential

        h = self.step_size * decay_factor(self.step_size_decay, self.progress)
        z = self.latents(len(minibatches[0][0]))
        y = G(z)
        zeta = euler_target(y, velocity(f, y), h)  # ζ = y + ε ∇f(y)
        first = loss_G = regression_loss(y, zeta, self.reduction)
        self.step_down(loss_G, optimizer_G)
        for _ in range(K - 1):  # the same z, the same ζ
            loss_G = regression_loss(G(z), zeta, self.reduction)
            self.step_down(loss_G, optimizer_G)
        return terms | {"loss_G": loss_G.detach(), "loss_G_first": first.detach()}
