r"""ADMMiRNN: a recurrent network trained by alternating minimisation of an augmented Lagrangian, without an optimizer.

    L(θ, a, s, o, λ)                                      the network unfolded in time, with penalties for its equations
    repeat:
        a, s, o ← forward pass, λ ← 0                     mode "reinit": proximal back-propagation on minibatches
        o;  V, c;  s, a;  U, W, b  ← argmin L             backward sweep, blocks in this order
        a;  s;  V, c;  o  ← argmin L                      mode "persistent": forward sweep on kept variables
        λ_k ← λ_k - ρ r_k                                 and multipliers of the last step

Tang et al. 2020, ADMMiRNN: Training RNN with Stable Convergence via An Efficient ADMM Approach, arXiv:2006.05622.
The unfolding, multipliers at the last step alone, and the sweeps back and forth are those of its released code.

Departures: the body of the paper could not be read. The updates (`functional.admm`) are derived from L, because those
of the released code climb the penalties and shrink all weights to zero. The mode "reinit" has no forward sweep, because
the next forward pass replaces its variables.
"""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from pt_flows.bounds import Count, NonNegative, Positive
from pt_flows.contracts import Batch, PredictorNet, RecurrentNet, Terms
from pt_flows.contracts import Weights as WeightsName
from pt_flows.errors import UserError
from pt_flows.functional.admm import Unfolded, Variables, Weights, mean_cross_entropy, unfolded
from pt_flows.loop.method import Method
from pt_flows.training.distributed import world
from pt_flows.training.player import in_evaluation
from pt_flows.training.predictor import check_targets

KEPT = ("x", "y", "a", "s", "o", "lambda1", "lambda2", "lambda3")


class ADMMRNN(Method):
    """Block updates of a recurrent network. They are exact or never increase L, so there is no learning rate.

    Args:
        network: An `ElmanRNN`. The loss is at the steps at which it has outputs.
        mu: μ, weight of the equations before the last step.
        rho: ρ, that at the last step.
        prox: Weight of ‖θ - θ_old‖² / 2 per sample in the updates of weights. Small minibatches need a larger one.
        mode: "reinit" starts every sweep from a forward pass. "persistent" keeps variables and multipliers, which
            belong to samples: it trains on those of the first minibatch, so data.batch_size should be their number.
        order: "block" updates all s, then all a; "reverse_time" pairs of them from the last step on, so that one
            sweep reaches all steps.
        sweeps: Sweeps per iteration.
    """

    float32_only = True
    training_state = KEPT

    def __init__(
        self,
        network: PredictorNet,
        mu: Positive = 1.0,
        rho: Positive = 1.0,
        prox: NonNegative = 0.01,
        mode: Literal["reinit", "persistent"] = "reinit",
        order: Literal["block", "reverse_time"] = "block",
        sweeps: Count = 1,
    ) -> None:
        super().__init__()
        if not isinstance(network, RecurrentNet):
            got = f"{type(network).__name__}. Train other networks with AdversarialTraining"
            raise UserError(f"model.network: expected an ElmanRNN, for which the updates are derived, got {got}")
        self.network = network.requires_grad_(False)
        self.mu, self.rho, self.prox = mu, rho, prox
        self.mode, self.order, self.sweeps = mode, order, sweeps
        for name in KEPT:
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64 if name == "y" else None))
        self.register_load_state_dict_pre_hook(_make_room)

    @torch.no_grad()
    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Run the sweeps on one minibatch, or on the kept samples."""
        ((x, y),) = minibatches
        theta = Weights(*self.network.matrices())
        num_outputs = x.shape[1] if self.network.outputs == "all" else 1
        if self.mode == "persistent" and len(self.kept("x")):
            x, y, *kept = (self.kept(name) for name in KEPT)
            v = Variables(*kept)
        else:
            v = self.unfold(x, theta, num_outputs)

        problem = Unfolded(x, y, theta, v, self.mu, self.rho, self.prox)
        for _ in range(self.sweeps):
            if self.mode == "reinit":
                problem.v = v = self.unfold(x, theta, num_outputs)
            for update in problem.backward(self.order == "reverse_time"):
                update()
            if self.mode == "persistent":
                for update in problem.forward():
                    update()
                problem.update_multipliers()

        self.network.take(theta.U, theta.W, theta.b, theta.V, theta.c)
        if self.mode == "persistent":
            for name, value in zip(KEPT, (x, y, v.a, v.s, v.o, v.lambda1, v.lambda2, v.lambda3), strict=True):
                setattr(self, name, value)
        terms = {f"residual_{k}": r.norm() for k, r in enumerate(problem.residuals(), 1)}
        true = self.unfold(x, theta, num_outputs).o
        return {"loss": mean_cross_entropy(true, y), "lagrangian": problem.value() / len(x)} | terms

    def unfold(self, x: Tensor, theta: Weights, num_outputs: int) -> Variables:
        """The variables of a true forward pass, which counts as an evaluation of the network."""
        self.cost.count("network", len(x))
        return unfolded(x, theta, num_outputs)

    def kept(self, name: str) -> Tensor:
        """A kept variable, empty before the first sweep of the mode "persistent"."""
        return cast(Tensor, getattr(self, name))

    def predict(self, x: Tensor, weights: WeightsName = "ema") -> Tensor:
        """Logits for sequences (B, T, F) of a true forward pass. There is no average of the weights."""
        with in_evaluation(self.network):
            return torch.cat([self.network(part) for part in x.split(500)])

    def setup(self, stage: str) -> None:
        """Check that the data have labels at the steps of the outputs.

        Raises:
            UserError: They have not, or there are several processes.
        """
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and world()[1] > 1:
            raise UserError(
                f"trainer.devices: expected one for ADMMRNN, got {world()[1]}. Least squares need all samples"
            )
        if data is None:
            return
        check_targets(data, cast(Any, self.network))
        shape, name = self.network.event_shape, type(data).__name__
        if tuple(data.event_shape) != shape:
            wanted = f"expected event_shape {tuple(data.event_shape)}, as {name} has, got {shape}"
            raise UserError(f"model.network: {wanted}. Set it")
        if (outputs := "all" if data.target_shape else "last") != self.network.outputs:
            wanted = f"expected {outputs}, as {name} has labels there, got {self.network.outputs}"
            raise UserError(f"model.network.outputs: {wanted}. Set it")


def _make_room(method: ADMMRNN, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Make room for the variables of a checkpoint."""
    for name in KEPT:
        if (saved := state.get(f"{prefix}{name}")) is not None:
            setattr(method, name, method.kept(name).new_zeros(saved.shape))
