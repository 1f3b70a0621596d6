r"""CFM: conditional flow matching, the regression of a velocity on straight paths between noise and data.

    x_t = (1 - t) x_0 + t x_1,    t ~ U[0, 1],  (x_0, x_1) a pair of noise and data
    v ← one optimizer step on  E ‖v(x_t, t) - (x_1 - x_0)‖²
    samples    x(1) of dx/dt = v(x, t) from x(0) = z

Lipman, Chen, Ben-Hamu, Nickel, Le 2023, Flow Matching for Generative Modeling, arXiv:2210.02747: independent pairs.
Tong et al. 2024, Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport,
arXiv:2302.00482: the pairs of least squared distance inside a minibatch, which make paths shorter and straighter.

Departures: the bodies of the papers were not available. Paths have no width, the limit of both papers' σ to zero. Pairs
are a permutation of the minibatch of all processes, where the second paper draws pairs from the plan.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from pt_flows.contracts import Batch, FlowNet, Terms
from pt_flows.errors import UserError
from pt_flows.functional.penalties import interpolate
from pt_flows.functional.potentials import regression_loss
from pt_flows.loop.method import Method
from pt_flows.training.players import Generator, check_unconditional
from pt_flows.training.steps import matched

Pairing = Literal["independent", "optimal"]


class CFM(Method):
    """Conditional flow matching, with or without optimal transport between the minibatches of all ranks.

    Args:
        generator: The flow: its network is a velocity and the map along it, such as `MLPFlow` or `ConvFlow`.
        pairing: "optimal" (OT-CFM; exact assignment, on the CPU) or "independent" (I-CFM).
    """

    differentiated_once = ("generator",)

    def __init__(self, generator: Generator, pairing: Pairing = "optimal") -> None:
        super().__init__()
        check_unconditional(type(self).__name__, [generator])
        if not isinstance(generator.network, FlowNet):
            wanted, got = "a flow with a velocity, such as MLPFlow or ConvFlow", type(generator.network).__name__
            raise UserError(f"model.generator.network: expected {wanted}, got {got}. Use another network")
        self.generator, self.pairing = generator, pairing

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Pair noise with data, and take one step of the velocity towards the paths between them."""
        ((x1, _),) = minibatches
        v = self.generator
        x0, x1 = self.pairs(x1)
        t = self.noise.uniform(len(x1))

        loss = regression_loss(v(interpolate(x1, x0, t), t), x1 - x0)
        v.step(loss)
        return {"loss_G": loss.detach(), "squared_length": regression_loss(x0, x1)}

    def pairs(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        """Fresh noise x_0, or samples of the source, and the data x_1 in the order of their pairs."""
        x0 = self.generator.latents(len(x1), self.noise)
        return x0, matched(x0, x1) if self.pairing == "optimal" else x1
