r"""MomentGAN: the Wasserstein game whose critic is linear in moments of the samples, solved exactly in every iteration.

    critic      max_v  <v, E_data f - E_gen f> - ½ ‖v‖²,  at v = E_data f - E_gen f
    generator   A ← A - η ∇_A ( -<v, E_gen f> + <e, A> ),  e uniform on the unit sphere times its length
                rows of A scaled to length one, if they are known to have it

    f(x) = x for "linear", relu(x - c) for "rectified", x xᵀ for "quadratic"; c = (φ(y) + φ(-y)) / 2, zero for odd φ

Lei, Lee, Dimakis, Daskalakis 2020, SGD Learns One-Layer Networks in WGANs, Algorithm 1 with Sections 3 and 4,
arXiv:1910.07030. There G(z) = φ(A z), "linear" or "rectified" learn the lengths of A's rows, and then "quadratic"
learns A Aᵀ. One ascent step of length one from any v is the exact maximum.

Departures: the sign of the objective is that of the text, as the printed one diverges. Any generator is accepted; rows
and noise need one with a matrix A. The length of e is one in the theorem, and zero here by default.
"""

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor

from pt_flows.bounds import NonNegative
from pt_flows.contracts import Batch, HasMatrix, Terms
from pt_flows.errors import UserError
from pt_flows.loop.method import Method
from pt_flows.training.distributed import mean_over_ranks
from pt_flows.training.noise import generator_at, run_seed
from pt_flows.training.players import Generator, check_unconditional

MomentName = Literal["linear", "rectified", "quadratic"]

MOMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "rectified": lambda x: x.relu(),
    "quadratic": lambda x: (x[:, :, None] * x[:, None]).flatten(1),
}
"""Features (B, p) of samples (B, d)."""


class MomentGAN(Method):
    """Wasserstein game with an exact critic of moments, for one-layer generators.

    Args:
        generator: G(z) = φ(A z), with plain SGD as its optimizer in the paper.
        moments: "quadratic" for A Aᵀ, "linear" or "rectified" for the lengths of rows.
        unit_rows: Whether rows of A are scaled to length one after every step.
        gradient_noise: Length of the random direction e that is added to the gradient; it helps to leave saddle points.
    """

    def __init__(
        self,
        generator: Generator,
        moments: MomentName = "quadratic",
        unit_rows: bool = False,
        gradient_noise: NonNegative = 0.0,
    ) -> None:
        super().__init__()
        check_unconditional(type(self).__name__, [generator])
        if len(generator.event_shape) != 1:
            raise UserError(f"model.generator.network: expected samples of shape (d,), got {generator.event_shape}")
        if (unit_rows or gradient_noise) and not isinstance(generator.network, HasMatrix):
            wanted, got = "a network with a matrix A, such as OneLayerGenerator", type(generator.network).__name__
            raise UserError(f"model.generator.network: expected {wanted}, got {got}. Omit unit_rows and gradient_noise")
        self.generator, self.f = generator, MOMENTS[moments]
        self.unit_rows, self.gradient_noise = unit_rows, gradient_noise

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Solve for the critic, take one step of the generator, and project."""
        x, _ = minibatches[0]
        features = self.f(self.generator(self.generator.latents(len(x), self.noise)))
        (v,) = mean_over_ranks([(self.f(x).mean(0) - features.mean(0)).detach()])
        loss_G = -(features @ v).mean()
        self.generator.step(loss_G + self.disturbance() if self.gradient_noise else loss_G)
        self.project()
        return {"loss_G": loss_G.detach(), "value": 0.5 * v.square().sum()}

    def disturbance(self) -> Tensor:
        """<e, A>, whose gradient is the random direction e of length `gradient_noise`."""
        A = cast(HasMatrix, self.generator.network).A
        e = torch.randn(A.shape, generator=generator_at("cpu", run_seed(), "direction", self.iteration)).to(A)
        return self.gradient_noise * (e / e.norm() * A).sum()

    @torch.no_grad()
    def project(self) -> None:
        """Scale the rows of A to length one."""
        if self.unit_rows:
            A = cast(HasMatrix, self.generator.network).A
            A.div_(A.norm(dim=1, keepdim=True))
