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

import torch
from torch import Tensor

from pt_flows.bounds import Count, NonNegative, Positive
from pt_flows.contracts import Batch, Terms
from pt_flows.functional.potentials import Reduction, euler_target, velocity
from pt_flows.functional.transport import entropic_potential
from pt_flows.loop.method import Method
from pt_flows.methods.flows.w2_fe import within_the_way
from pt_flows.training.distributed import all_ranks
from pt_flows.training.players import Generator, check_unconditional
from pt_flows.training.schedules import Schedule, scheduled
from pt_flows.training.steps import matched, regress


class MinibatchW2FE(Method):
    """Wasserstein-2 forward Euler along the potential between the minibatches of all ranks.

    Args:
        generator: G, latents to samples.
        entropy: Temperature of entropic transport in units of the cost ½‖x - y‖²; 0 for exact transport, on the CPU.
        step_size: ε, the fraction of the way to the data.
        persistence: K, optimizer steps of G towards the same targets, at least one in every iteration.
        reduction: Squared distance summed over coordinates (formula) or averaged.
    """

    differentiated_once = fitted_whole = ("generator",)

    def __init__(
        self,
        generator: Generator,
        entropy: NonNegative = 0.0,
        step_size: Positive | Schedule = 1.0,
        persistence: Count | Schedule = 5,
        reduction: Reduction = "sum",
    ) -> None:
        super().__init__()
        check_unconditional(type(self).__name__, [generator])
        self.generator, self.entropy = generator, entropy
        self.step_size, self.persistence = scheduled(step_size), scheduled(persistence)
        self.reduction: Reduction = reduction
        within_the_way(self.step_size)

    @property
    def fraction_of_the_way(self) -> float:
        """ε of this iteration, by which an exact step would shorten every path and with it W2."""
        return self.step_size(self.progress)

    def velocity(self, x: Tensor, y: Tensor) -> Tensor:
        """-∇ψ at particles y, ψ the potential from particles to data x, over all ranks."""
        if self.entropy == 0:
            return matched(y, x) - y
        with torch.autocast(y.device.type, enabled=False):
            return velocity(entropic_potential(all_ranks(y), all_ranks(x), self.entropy), y)

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Transport the samples, then take one Euler step and K regression steps of the generator."""
        ((x, _),) = minibatches
        G, K = self.generator, max(1, round(self.persistence(self.progress)))
        z = G.latents(len(x), self.noise)
        y = G(z)
        v = self.velocity(x, y.detach())
        zeta = euler_target(y, v, self.step_size(self.progress))  # ζ = y - ε ∇ψ(y)
        cost = 0.5 * v.flatten(1).square().sum(1).mean()
        return {"dual": cost} | regress(G, z, y, zeta, K, self.reduction)
