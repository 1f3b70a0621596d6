r"""Gradient flow of a trained critic: samples or latents move along its gradient, with optional noise.

    data      x ← x + η ∇f(x) + √(2ηγ) ξ,                ξ ~ N(0, I),  num_steps times from x = G(u)
    latent    u ← u + η ∇_u f(G(u)) + √(2ηγ) ξ,          num_steps times from u ~ N(0, I), then x = G(u)

f is the method's own potential, whose gradient moved particles in training, or else the raw critic, high on data. It is
never trained further. u is the latent in units of its standard deviation.

Each step is a gradient layer x + η ∇f(x) of Nitanda and Suzuki 2018, Gradient Layer: Enhancing the Convergence of
Adversarial Training for Generative Models, arXiv:1801.02227, with one critic for all layers where the paper has a new
one for each. With noise it is an Euler-Maruyama step of the discriminator gradient flow of Ansari, Ang, Soh 2021,
arXiv:2012.00780, with weight one, which is its Kullback-Leibler case if f is the log ratio of densities.

Departures: written from the abstract of the first paper and the released code of the second, whose setting for a
WGAN-GP on CIFAR-10 gives the defaults. How far these steps are right elsewhere is unverified: f is reliable only near
the samples that its training saw, so steps stay few and small.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor

from pt_flows.bounds import Count, NonNegative, Positive
from pt_flows.contracts import HasPotential, Weights
from pt_flows.errors import UserError
from pt_flows.functional.langevin import normal_like
from pt_flows.functional.potentials import euler_target, velocity
from pt_flows.samplers.blocks import InBlocks
from pt_flows.samplers.critics import check_critic, critic_weights
from pt_flows.training.noise import row_noise
from pt_flows.training.player import in_evaluation

Space = Literal["latent", "data"]


class GradientFlow(InBlocks):
    """Samples of the generator after some steps along the gradient of the trained critic.

    Sample i starts at sample i of `Direct`. Labels of a class-conditional generator stay. The method's own potential is
    evaluated with raw weights, as in training; a critic without an average is, too.

    Args:
        num_steps: Number of steps. Each evaluates the critic once with its gradient, in latent space the generator too.
        step_size: η.
        noise: γ, the temperature of the noise; 0 for none.
        space: "latent" moves latents, so that samples stay in the generator's range; "data" moves samples.
    """

    def __init__(
        self, num_steps: Count = 25, step_size: Positive = 0.1, noise: NonNegative = 0.01, space: Space = "latent"
    ) -> None:
        self.num_steps, self.step_size, self.noise = num_steps, step_size, noise
        self.in_latents = space == "latent"

    def check(self, method: Any) -> None:
        """Check that the method has a generator and a critic."""
        check_critic("GradientFlow", method)

    def prepare(self, method: Any, weights: Weights, data: Any = None) -> None:
        """Check the method."""
        super().prepare(method, weights, data)
        method.generator.weighted(weights)
        self.sums, self.num_drawn = torch.zeros(2, dtype=torch.float64, device=method.device), 0

    def diagnostics(self) -> dict[str, float]:
        """Mean distance moved, divided by √d, and in latent space the mean ‖u‖/√d, which is one for the prior."""
        distance, norm = (self.sums / max(self.num_drawn, 1)).tolist()
        return {"distance": distance} | ({"latent_norm": norm} if self.in_latents else {})

    @contextmanager
    def potential(self, y: Tensor | None) -> Iterator[Callable[[Tensor], Tensor]]:
        """The function whose gradient points move along, in evaluation mode, inside a `with` block."""
        labels, generator, method = () if y is None else (y,), self.method.generator, self.method
        scale = generator.latent_std
        with ExitStack() as stack:
            if isinstance(method, HasPotential):
                stack.enter_context(in_evaluation(self.method))
                f = method.values
            else:
                D = stack.enter_context(method.critic.fixed(critic_weights(method, self.weights)))
                f = lambda x: D(x, *labels)
            G = stack.enter_context(generator.fixed(self.weights))
            yield (lambda u: f(G(scale * u, *labels))) if self.in_latents else f

    def block(self, num: int, y: Tensor | None, rng: torch.Generator) -> Iterator[tuple[float, Tensor]]:
        """Move latents or samples, and map latents."""
        G = self.method.generator
        z, y = G.inputs(num, y, rng)
        noise, eta = row_noise(rng, z.device), self.step_size
        start = x = z / G.latent_std if self.in_latents else G.push(z, self.weights, y)
        with self.potential(y) as f:
            for step in range(self.num_steps):
                x = euler_target(x, velocity(f, x), eta)
                x = x + sqrt(2 * eta * self.noise) * normal_like(x, noise) if self.noise else x
                yield step / self.num_steps, x.new_empty(0, *G.event_shape)
        if lost := int((~x.isfinite().flatten(1).all(1)).sum()):
            wanted = f"expected samples that stay finite, got {lost} of {num} others"
            raise UserError(f"GradientFlow.step_size: {wanted}. Lower it, or take fewer steps")
        lengths = torch.stack([(x - start).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1)])
        self.sums += lengths.double().sum(1) / sqrt(x[0].numel())
        self.num_drawn += num
        yield 1.0, G.push(G.latent_std * x, self.weights, y) if self.in_latents else x
