r"""JS flow: the gradient flow of the Jensen-Shannon divergence, forward Euler steps, persistent training.

    dY = -½ ∇ ln(1 - D*(Y)) dt    D* = p / (p + q) the best discriminator between data p and Y's distribution q
    ζ_i = y_i - (ε/2) ∇ ln(1 - D(y_i))
    K times:  G ← one optimizer step on  (1/m) Σ ‖G(z_i) - ζ_i‖²,  the same z and ζ each time

Huang and Zhang 2023, GANs as Gradient Flows that Converge, JMLR 24(217), arXiv:2205.02910. K = 1 is the original
minimax GAN, its generator's gradient scaled by ε.

Departures: written from the abstract and the divergence's derivative; the body of the paper was not available.
"""

from torch import Tensor
from torch.nn.functional import softplus

from pt_flows.contracts import Terms
from pt_flows.functional.objectives import discriminator_loss
from pt_flows.methods.flows.particle_flow import ParticleFlow


class JSFlow(ParticleFlow):
    """Jensen-Shannon forward Euler with persistent training; the critic gives logits of D."""

    differentiated_once = ("generator", "critic")

    def critic_loss(self, x: Tensor, y: Tensor) -> Terms:
        """Cross entropy of D. At its minimum, log 2 - ½ loss is the Jensen-Shannon divergence of data and particles."""
        return {"loss_D": discriminator_loss(self.critic(x), self.critic(y))}

    def potential(self, y: Tensor) -> Tensor:
        """-½ ln(1 - D(y)) = ½ softplus(logit): high on data."""
        return 0.5 * softplus(self.critic(y))
