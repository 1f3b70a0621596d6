r"""SNGAN: the hinge game whose critic has spectrally normalised weights, which bound its slope without a penalty.

    critic      min_D  E max(0, 1 - D(x)) + E max(0, 1 + D(G(z)))         every weight W of D divided by σ(W)
    generator   min_θ  -E D(G_θ(z))

σ(W) is the largest singular value, found by one power iteration per evaluation in training.

Miyato, Kataoka, Koyama, Yoshida 2018, Spectral Normalization for Generative Adversarial Networks, Equations 16 and 17,
arXiv:1802.05957. Its residual networks have Adam with rate 2e-4 and betas 0 and 0.9, and five critic steps.

Departures: the body of the paper was not available. The hinge losses are written as losses that both players descend.
Power iterations are those of torch, one in every forward pass, so a critic step on data and samples does two.
"""

from collections.abc import Sequence

from torch import Tensor

from pt_flows.contracts import Batch, Terms
from pt_flows.functional.objectives import generator_loss, hinge_loss
from pt_flows.loop.method import Method
from pt_flows.training.players import Critic, Generator, check_pair, check_unconditional
from pt_flows.training.requirements import check_spectral_norm
from pt_flows.training.steps import fit_critic


class SNGAN(Method):
    """Hinge loss against a critic with spectral norm.

    Args:
        generator: G, latents to samples.
        critic: D, with `spectral_norm: true` and without batch norm.
    """

    differentiated_once = ("generator", "critic")
    fitted_whole = ("critic",)

    def __init__(self, generator: Generator, critic: Critic) -> None:
        super().__init__()
        check_pair(generator, critic)
        check_unconditional(type(self).__name__, [generator, critic])
        check_spectral_norm("model.critic.network", critic.network)
        self.generator, self.critic = generator, critic
        self.minibatches_per_iteration = critic.steps

    def critic_loss(self, x: Tensor, y: Tensor) -> Terms:
        """Hinge loss of D on data x and generated samples y."""
        return {"loss_D": hinge_loss(self.critic(x), self.critic(y))}

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Fit the critic, then take one step of the generator."""
        terms = fit_critic(self.critic, self.critic_loss, minibatches, self.generated)

        loss_G = generator_loss(self.critic(self.generated(len(minibatches[0][0]))), "wasserstein")
        self.generator.step(loss_G)
        return terms | {"loss_G": loss_G.detach()}

    def generated(self, num: int) -> Tensor:
        """Fresh samples G(z), (num, *event)."""
        return self.generator(self.generator.latents(num, self.noise))
