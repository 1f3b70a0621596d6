"""The base of Wasserstein gradient flows: particles follow a potential, the generator follows the particles.

    fit the critic to data and particles               critic_loss, on fresh minibatches
    ζ_i = y_i + ε ∇f(y_i)                              one Euler step of the particles y_i = G(z_i) up the potential f
    K times:  G ← one optimizer step on ‖G(z_i) - ζ_i‖²    the same z and ζ each time

A flow defines the loss of the critic and, if it is not the critic itself, the function of it that moves particles.
"""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from pt_flows.bounds import Count, Positive
from pt_flows.contracts import Batch, Terms
from pt_flows.errors import UserError
from pt_flows.functional.potentials import Reduction, euler_target, velocity
from pt_flows.loop.method import Method
from pt_flows.training.players import Critic, Generator, check_pair, check_unconditional
from pt_flows.training.schedules import Schedule, scheduled
from pt_flows.training.steps import fit_critic, regress


class ParticleFlow(Method):
    """Base of flows with a critic.

    Args:
        generator: G, latents to samples.
        critic: The critic; without batch norm if its gradient is penalised.
        step_size: ε, in data units for a Wasserstein-1 flow, and the fraction of the way to the data for a
            Wasserstein-2 flow. It has no effect at K = 1 with Adam, which cancels constant factors.
        persistence: K, optimizer steps of G towards the same targets, at least one in every iteration.
        reduction: Squared distance summed over coordinates (formula) or averaged (released code).
        rematch: Pair targets and outputs anew before every inner step after the first, by optimal assignment.
    """

    differentiated_once = ("generator",)
    fitted_whole = ("generator", "critic")

    def __init__(
        self,
        generator: Generator,
        critic: Critic,
        step_size: Positive | Schedule = 1.0,
        persistence: Count | Schedule = 5,
        reduction: Reduction = "sum",
        rematch: bool = False,
    ) -> None:
        super().__init__()
        check_pair(generator, critic)
        check_unconditional(type(self).__name__, [generator, critic])
        self.generator, self.critic = generator, critic
        self.minibatches_per_iteration = critic.steps
        self.step_size, self.persistence = scheduled(step_size), scheduled(persistence)
        self.reduction: Reduction = reduction
        self.rematch = rematch

    @abstractmethod
    def critic_loss(self, x: Tensor, y: Tensor) -> Terms:
        """Return the loss of the critic under the name `loss_D`, and other scalars for the log.

        Args:
            x: Data (B, *event).
            y: Particles (B, *event), constants.

        Returns:
            `loss_D` with its graph, which one optimizer step of the critic follows; the others for the log.
        """

    def potential(self, y: Tensor) -> Tensor:
        """The function (B, *event) to (B,) whose gradient moves particles, high on data; here the critic itself."""
        return self.critic(y)

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Fit the critic, then take one Euler step of the particles and K regression steps of the generator."""
        G, K = self.generator, max(1, round(self.persistence(self.progress)))

        terms = fit_critic(self.critic, self.critic_loss, minibatches, self.particles)

        z = G.latents(len(minibatches[0][0]), self.noise)
        y = G(z)
        zeta = euler_target(y, velocity(self.values, y), self.step_size(self.progress))  # ζ = y + ε ∇f(y)
        return terms | regress(G, z, y, zeta, K, self.reduction, self.rematch)

    def particles(self, num: int) -> Tensor:
        """Fresh particles y = G(z), (num, *event)."""
        return self.generator(self.generator.latents(num, self.noise))

    def values(self, y: Tensor) -> Tensor:
        """Evaluate `potential`, and check that it returns one value per sample.

        A mean would scale the field by the batch size.
        """
        values = self.potential(y)
        if values.shape != y.shape[:1]:
            wanted = f"one value per sample, shape ({len(y)},)"
            raise UserError(f"{type(self).__name__}.potential: expected {wanted}, got {tuple(values.shape)}")
        return values
