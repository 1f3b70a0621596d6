r"""WGAN-GP: the Wasserstein GAN whose critic is held near slope one by a penalty.

    critic      min_f  E f(G(z)) - E f(x) + λ E (‖∇f(u)‖ - 1)²,   u = a x + (1 - a) G(z),  a ~ U[0, 1]
    generator   min_θ  -E f(G_θ(z))

Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville 2017, Improved Training of Wasserstein GANs, Algorithm 1,
arXiv:1704.00028.

Departures: none with the defaults. `penalty: one_sided` is WGAN-LP, max(0, ‖∇f(u)‖ - 1)², which leaves slopes below one
alone (Petzka, Fischer, Lukovnicov 2018, On the regularization of Wasserstein GANs, arXiv:1709.08894).
"""

from collections.abc import Sequence

from torch import Tensor

from pt_flows.bounds import Count, NonNegative
from pt_flows.contracts import Batch, Terms
from pt_flows.functional.penalties import PENALTIES, Penalty, gradient_norm, interpolate
from pt_flows.functional.potentials import wasserstein1_dual
from pt_flows.loop.method import Method
from pt_flows.training.players import Critic, Generator, check_pair, check_unconditional
from pt_flows.training.steps import fit_critic


class WGANGP(Method):
    """Wasserstein GAN with a penalty on the critic's slope.

    Args:
        generator: G, latents to samples.
        critic: f; without batch norm, which would break the penalty.
        penalty: "two_sided" (GP, the paper) or "one_sided" (LP).
        penalty_weight: λ; 10 in the paper, 0.1 in the released toys.
        generator_batch_multiple: Generator batch over critic batch; 2 in the released CIFAR-10 ResNet.
        generator_steps: Generator steps per iteration, each on fresh latents; 1 in the paper.
    """

    differentiated_once = ("generator",)
    fitted_whole = ("generator", "critic")

    def __init__(
        self,
        generator: Generator,
        critic: Critic,
        penalty: Penalty = "two_sided",
        penalty_weight: NonNegative = 10.0,
        generator_batch_multiple: Count = 1,
        generator_steps: Count = 1,
    ) -> None:
        super().__init__()
        check_pair(generator, critic)
        check_unconditional(type(self).__name__, [generator, critic])
        self.generator, self.critic = generator, critic
        self.minibatches_per_iteration = critic.steps
        self.penalty, self.penalty_weight = PENALTIES[penalty], penalty_weight
        self.generator_batch_multiple, self.generator_steps = generator_batch_multiple, generator_steps

    def critic_loss(self, x: Tensor, y: Tensor) -> Terms:
        """Loss of f on data x and generated samples y: lines 4 to 7."""
        f, lam = self.critic, self.penalty_weight
        u = interpolate(x, y, self.noise.uniform(len(x)))
        dual, penalty = wasserstein1_dual(f, x, y), self.penalty(gradient_norm(f, u))
        return {"loss_D": -dual + lam * penalty, "dual": dual, "penalty": penalty}

    def generator_loss(self, z: Tensor) -> Terms:
        """Loss of G on latents z: line 12."""
        return {"loss_G": -self.critic(self.generator(z)).mean()}

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Run Algorithm 1, lines 2 to 12, with any number of generator steps."""
        G, num = self.generator, len(minibatches[0][0])

        terms = fit_critic(self.critic, self.critic_loss, minibatches, self.generated)  # lines 2 to 9

        for _ in range(self.generator_steps):
            z = G.latents(self.generator_batch_multiple * num, self.noise)  # lines 11 and 12
            terms |= G.fit(self.generator_loss, z, key="loss_G")
        return terms

    def generated(self, num: int) -> Tensor:
        """Fresh samples G(z), (num, *event)."""
        return self.generator(self.generator.latents(num, self.noise))
