r"""W2-FE: the gradient flow of half the squared Wasserstein-2 distance, forward Euler steps, persistent training.

    dY = -∇ψ(Y) dt         ψ the Kantorovich potential from the law of Y to the data, cost c(x, y) = ½‖x - y‖²
    -∇ψ(y) = T(y) - y      T the optimal map, so particles move straight to the data and W2 falls like e^{-t}
    ζ_i = y_i - ε ∇ψ(y_i)  one Euler step of y_i = G(z_i); ε is the share of the way
    K times:  G ← one optimizer step on  (1/m) Σ ‖G(z_i) - ζ_i‖²,  the same z and ζ each time

The potentials are those of W2-GAN: φ on data and ψ = -φ + e on particles maximise E φ(x) + E ψ(y), with penalties where
φ(x) + ψ(y) exceeds c(x, y), where they are not equal along their own maps x - ∇φ(x) and y - ∇ψ(y), and where e > 0.

Huang and Malik 2024, Generative Modeling by Minimizing the Wasserstein-2 Loss, arXiv:2406.13619; the estimator is that
of Leygonie et al. 2019, Adversarial Computation of Optimal Transport Maps, arXiv:1906.09691. K = 1 is W2-GAN, its
gradient scaled by 2ε.

Departures: written from the abstract and the authors' released code; the body of the paper was not available. The
released code moves particles along +∇φ instead of -∇ψ (`potential_side: real`) and puts the last penalty on ψ instead
of e; here both are as in the formulas. The inequality is taken over all pairs of a minibatch, not over as many pairs as
there are samples. Learning rates, ε and K may decay.
"""

from collections.abc import Iterable
from itertools import chain
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from pt_flows.contracts import CriticNet
from pt_flows.errors import UserError
from pt_flows.functional.penalties import interpolate
from pt_flows.functional.potentials import equality_penalty, inequality_penalty, quadratic_cost
from pt_flows.functional.transport import exact_wasserstein, half_squared_distances
from pt_flows.loop.base import FlowModule, Terms, at_least, one_of, one_valued, within_the_way
from pt_flows.loop.requirements import check_network
from pt_flows.training.distributed import all_ranks

Side = Literal["fake", "real", "mean"]
ROWS_TO_WARN = 5
"""So many rows of the log in a row must show a dual that is far off."""


class W2FE(FlowModule):
    """Wasserstein-2 forward Euler with persistent training; the critic is φ.

    The penalties weigh squared costs, lengths to the fourth power, against a cost: for data scaled by s the weights
    that mean the same are those for scale one divided by s².

    Args:
        *args: As for FlowModule.
        excess: e, a network like the critic.
        inequality_weight: Weight of the inequality, over all pairs of the minibatch; the released code, which takes
            paired samples only, has 200 in the plane and 10 for images.
        interpolated_weight: The same between points on the segments of paired samples, which tells near pairs apart:
            without it particles gather in the middle of modes.
        equality_weight: Weight of both equality penalties; 0 saves their second derivatives.
        excess_weight: Weight of the penalty on e > 0; 0 in the plane, 10 for images in the released code.
        potential_side: What moves particles: "fake" -∇ψ, the formula; "real" ∇φ, the released code; "mean" half of
            each, which cancels the pull inwards of penalised potentials where particles have reached the data.
        **kwargs: As for FlowModule.
    """

    def __init__(
        self,
        *args: Any,
        excess: CriticNet,
        inequality_weight: float = 200.0,
        interpolated_weight: float = 200.0,
        equality_weight: float = 200.0,
        excess_weight: float = 0.0,
        potential_side: Side = "fake",
        **kwargs: Any,
    ) -> None:
        check_network("model.excess", excess, CriticNet)
        super().__init__(*args, **kwargs)
        if excess.event_shape != self.event_shape:
            raise UserError(
                f"model.excess takes samples of shape {excess.event_shape}, model.generator makes {self.event_shape}; "
                "give both the same image_size, num_channels or event_shape"
            )
        weights = {"inequality": inequality_weight, "interpolated": interpolated_weight}
        weights |= {"equality": equality_weight, "excess": excess_weight}
        for name, weight in weights.items():
            at_least(f"model.{name}_weight", weight, 0)
        one_of("model.potential_side", potential_side, ("fake", "real", "mean"))
        within_the_way("model.step_size", self.step_size)
        self.excess = one_valued(excess)
        self.penalty_weights, self.potential_side = weights, potential_side
        self._latest: tuple[Tensor, Tensor] | None = None
        self._rows_far_off = 0

    @property
    def critic_parameters(self) -> Iterable[nn.Parameter]:
        """φ and e have one optimizer."""
        return chain(self.critic.parameters(), self.excess.parameters())

    @property
    def share_of_the_way(self) -> float:
        """ε of this iteration, by which an exact step would shorten every path and with it W2."""
        return self.euler_step

    def psi(self, y: Tensor) -> Tensor:
        """The potential of the particles' side, ψ = -φ + e."""
        return self.excess(y) - self.critic(y)

    def potential(self, y: Tensor) -> Tensor:
        """-ψ, φ or their mean φ - e/2: high on data."""
        share = {"fake": 1.0, "mean": 0.5, "real": 0.0}[self.potential_side]
        return self.critic(y) - share * self.excess(y) if share else self.critic(y)

    def critic_loss(self, x: Tensor, y: Tensor) -> Terms:
        """The penalised dual of ½ W2² on data x and particles y, outside autocast: differences of large values."""
        self._latest = x, y.to(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.penalised_dual(*self._latest)

    def penalised_dual(self, x: Tensor, y: Tensor) -> Terms:
        """-E φ(x) - E ψ(y) with its penalties, and its parts."""
        phi, psi, weights = self.critic, self.psi, self.penalty_weights
        phi_x, psi_y = phi(x), psi(y)
        dual = phi_x.mean() + psi_y.mean()
        cost = half_squared_distances(all_ranks(x), all_ranks(y))
        penalties = {"inequality": inequality_penalty(all_ranks(phi_x)[:, None], all_ranks(psi_y), cost)}
        if weights["interpolated"]:
            u, v = (interpolate(*pair, self.noise.uniform(len(x))) for pair in ((x, y), (y, x)))
            penalties["interpolated"] = inequality_penalty(phi(u), psi(v), quadratic_cost(u, v))
        if weights["equality"]:
            penalties["equality"] = equality_penalty(phi, psi, x) + equality_penalty(psi, phi, y)
        if weights["excess"]:
            penalties["excess"] = self.excess(y).clamp(min=0).square().mean()
        weighted = [weights[name] * penalty for name, penalty in penalties.items()]
        return {"loss_D": sum(weighted, -dual), "dual": dual} | penalties

    def write(self, values: dict[str, float]) -> None:
        """On vectors, log the exact ½ W2² of the last minibatch beside the dual, and warn where they stay apart."""
        if "train/dual" in values and self._latest is not None and len(self.event_shape) == 1:
            x, y = self._latest
            values = values | {"train/dual_exact": 0.5 * exact_wasserstein(x, y, p=2) ** 2}
            self._judge(values["train/dual"], values["train/dual_exact"], 0.5 * float(x.var(0).sum()))
        super().write(values)

    def _judge(self, dual: float, exact: float, scale: float) -> None:
        self._rows_far_off = self._rows_far_off + 1 if abs(dual - exact) > 0.5 * exact + 0.1 * scale else 0
        if self._rows_far_off == ROWS_TO_WARN:
            weight = self.penalty_weights["inequality"]
            rank_zero_warn(
                f"the dual of φ and ψ, {dual:.3g}, stays far from ½ W2² of the same samples, {exact:.3g} (iteration "
                f"{self.iteration}): particles will not go to the data. Where it is too large, raise model."
                f"inequality_weight ({weight:g}); where it is too small, lower that, or give the critic more steps"
            )
