r"""R3GAN: the relativistic game of pairs with zero-centred penalties on the critic's slope at data and at samples.

    critic      min_D  E softplus(-(D(x) - D(G(z)))) + γ/2 E ‖∇D(x)‖² + γ/2 E ‖∇D(G(z))‖²      R1 and R2
    generator   min_θ  E softplus(-(D(G_θ(z)) - D(x)))

Only differences of D between a real and a generated sample count. At equal values both losses are log 2.

Huang, Gokaslan, Kuleshov, Tompkin 2024, The GAN is dead; long live the GAN! A Modern GAN Baseline, arXiv:2501.05441.
One critic step per generator step: `steps: 1` of the critic.

Departures: the body of the paper was not available. Its networks are not here, and γ is constant, where the released
code lowers it over the run. The generator's step has the data of the last critic step, with fresh latents.
"""

from collections.abc import Sequence

from torch import Tensor

from pt_flows.bounds import NonNegative
from pt_flows.contracts import Batch, Terms
from pt_flows.functional.objectives import pairing_loss
from pt_flows.functional.penalties import gradient_norm, zero_centred_penalty
from pt_flows.loop.method import Method
from pt_flows.training.players import Critic, Generator, check_pair, check_unconditional
from pt_flows.training.steps import fit_critic


class R3GAN(Method):
    """Relativistic pairing loss with the penalties R1 and R2.

    Args:
        generator: G, latents to samples.
        critic: D; without batch norm, which would break the penalties. The paper has `steps: 1`.
        penalty_weight: γ, in units of length²: for data scaled by s, multiply it by s².
    """

    differentiated_once = ("generator",)
    fitted_whole = ("critic",)

    def __init__(self, generator: Generator, critic: Critic, penalty_weight: NonNegative = 1.0) -> None:
        super().__init__()
        check_pair(generator, critic)
        check_unconditional(type(self).__name__, [generator, critic])
        self.generator, self.critic = generator, critic
        self.minibatches_per_iteration = critic.steps
        self.penalty_weight = penalty_weight

    def critic_loss(self, x: Tensor, y: Tensor) -> Terms:
        """Loss of D on data x and generated samples y."""
        D, gamma = self.critic, self.penalty_weight
        pairing = pairing_loss(D(x), D(y))
        r1, r2 = (zero_centred_penalty(gradient_norm(D, u)) for u in (x, y))
        return {"loss_D": pairing + gamma * (r1 + r2), "pairing": pairing, "r1": r1, "r2": r2}

    def generator_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Loss of G at data x and its samples y."""
        return pairing_loss(self.critic(y), self.critic(x))

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Fit the critic, then take one step of the generator."""
        x, _ = minibatches[-1]

        terms = fit_critic(self.critic, self.critic_loss, minibatches, self.generated)

        loss_G = self.generator_loss(x, self.generated(len(x)))
        self.generator.step(loss_G)
        return terms | {"loss_G": loss_G.detach()}

    def generated(self, num: int) -> Tensor:
        """Fresh samples G(z), (num, *event)."""
        return self.generator(self.generator.latents(num, self.noise))
