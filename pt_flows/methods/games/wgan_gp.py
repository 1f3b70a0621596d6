r"""WGAN-GP: the Wasserstein GAN whose critic is held near slope one by a penalty.

    critic      min_f  E f(G(z)) - E f(x) + λ E (‖∇f(u)‖ - 1)²,   u = a x + (1 - a) G(z),  a ~ U[0, 1]
    generator   min_θ  -E f(G_θ(z))

Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville 2017, Improved Training of Wasserstein GANs, Algorithm 1,
arXiv:1704.00028.

Departures: none with the defaults. `penalty: one_sided` is WGAN-LP, max(0, ‖∇f(u)‖ - 1)², which leaves slopes below one
alone (Petzka, Fischer, Lukovnicov 2018, On the regularization of Wasserstein GANs, arXiv:1709.08894).
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pt_flows.contracts import Batch
from pt_flows.functional.penalties import PENALTIES, Penalty, gradient_norm, interpolate
from pt_flows.functional.potentials import wasserstein1_dual
from pt_flows.loop.base import AlternatingModule, Terms, at_least, one_of


class WGANGP(AlternatingModule):
    """Wasserstein GAN with a penalty on the critic's slope.

    Args:
        *args: As for AlternatingModule.
        penalty: "two_sided" (GP, the paper) or "one_sided" (LP).
        penalty_weight: λ; 10 in the paper, 0.1 in the released toys.
        generator_batch_multiple: Generator batch over critic batch; 2 in the released CIFAR-10 ResNet.
        **kwargs: As for AlternatingModule.
    """

    def __init__(
        self,
        *args: Any,
        penalty: Penalty = "two_sided",
        penalty_weight: float = 10.0,
        generator_batch_multiple: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        one_of("model.penalty", penalty, PENALTIES)
        at_least("model.penalty_weight", penalty_weight, 0)
        at_least("model.generator_batch_multiple", generator_batch_multiple, 1)
        self.penalty, self.penalty_weight = PENALTIES[penalty], penalty_weight
        self.generator_batch_multiple = generator_batch_multiple

    def critic_loss(self, x: Tensor, y: Tensor) -> Terms:
        """Loss of f on data x and generated samples y: lines 4 to 7."""
        f, lam = self.critic, self.penalty_weight
        u = interpolate(x, y, self.noise.uniform(len(x)))
        dual, penalty = wasserstein1_dual(f, x, y), self.penalty(gradient_norm(f, u))
        return {"loss_D": -dual + lam * penalty, "dual": dual, "penalty": penalty}

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Algorithm 1, lines 2 to 12."""
        G, f = self.generator, self.critic
        optimizer_G, _ = self.optimizer_pair()

        terms = self.fit_critic(minibatches)  # lines 2 to 9

        z = self.latents(self.generator_batch_multiple * len(minibatches[0][0]))  # lines 11 and 12
        loss_G = -f(G(z)).mean()
        self.step_down(loss_G, optimizer_G)
        return terms | {"loss_G": loss_G.detach()}
