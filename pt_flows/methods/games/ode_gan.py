r"""ODE-GAN: both players follow one ordinary differential equation, integrated by a Runge-Kutta method.

    y = (θ, φ)                                  parameters of the discriminator D and of the generator G
    v(y) = (-∇_θ l_D, -∇_φ l_G)                 each player goes down its own loss; both move in every stage
    r = ∇_θ ‖∇_φ l_G‖²                          the regulariser's gradient, at the start point, for D alone
    (θ', φ') = one Runge-Kutta step of v with step size h;   θ ← θ' - h λ r,   φ ← φ'

Qin, Wu, Springenberg, Brock, Donahue, Lillicrap, Kohli 2020, Training Generative Adversarial Networks by Solving
Ordinary Differential Equations, Algorithm 1, arXiv:2010.15040.

Departures: written from the abstract and the authors' released code; the body of the paper was not available. The
released toy notebook integrates each player with the other one frozen, which is first order whatever the integrator;
this is the joint field. The average of G's weights is an addition (`evaluation.weights: raw` does without).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD

from pt_flows.bounds import DecayRates, NonNegative, Positive
from pt_flows.contracts import Batch, CriticNet, GeneratorNet, Terms
from pt_flows.errors import UserError
from pt_flows.functional.integrators import TABLEAUS, Integrator, combine, rk_stages, step_error
from pt_flows.functional.objectives import Objective, discriminator_loss, generator_loss
from pt_flows.loop.method import Method
from pt_flows.training.distributed import mean_over_ranks
from pt_flows.training.flat import FlatNetwork, check_steady_layers, joined
from pt_flows.training.players import Critic, Generator, check_pair
from pt_flows.training.rounds import penalty_gradients
from pt_flows.training.schedules import Schedule, scheduled

StageBatches = Literal["shared", "fresh"]
PenaltyPlacement = Literal["after_step", "first_stage"]
PLAYERS = ("discriminator", "generator")
grad = partial(torch.autograd.grad, materialize_grads=True)
"""Gradients, zero by parameters on which a loss does not depend."""
Buffers = dict[str, Tensor]
"""Buffers of both players by name."""


class Draw(NamedTuple):
    """The sample that the field is an average over: data, their labels (none if unconditional), latents."""

    x: Tensor
    labels: tuple[Tensor, ...]
    z: Tensor


class Duel(nn.Module):
    """Both players as one network, whose parameters are y.

    Args:
        D: The discriminator.
        G: The generator.
    """

    def __init__(self, D: CriticNet, G: GeneratorNet) -> None:
        super().__init__()
        self.D, self.G = D, G

    def forward(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Logits of generated samples and of data, (B,) each."""
        x, labels, z = draw
        return self.D(self.G(z, *labels), *labels), self.D(x, *labels)


class ODEGAN(Method):
    """GAN training as an ordinary differential equation.

    Batch norm uses the batch in every stage; its running statistics are updated once per iteration, by the first stage.
    Everything is computed outside autocast. There are no optimizers to choose: h is the learning rate.

    Args:
        generator: G, latents to samples.
        critic: D, samples to one logit each, high on data. It must be deterministic.
        step_size: h, for both players.
        integrator: Runge-Kutta method: 1, 2, 4 or 3 evaluations of the field per iteration, in the order of the names.
        penalty_weight: λ.
        objective: The two losses.
        stage_batches: "shared": every stage sees one minibatch, and the step is one of a deterministic field. "fresh":
            every stage has data and latents of its own (released CIFAR-10 code).
        penalty_placement: "after_step": θ ← θ' - h λ r. "first_stage": λ r / b_1 is added to D's first stage, which
            moves θ by the same -h λ r and shifts the points of the later stages too (released CIFAR-10 code).
        ema_decay: Decay of the average of G's weights, or a list for several averages.
    """

    alive: Tensor
    float32_only = one_rate = True
    channels_last = False  # networks are evaluated at pieces of flat vectors
    pure = ("field", "first_stage")

    def __init__(
        self,
        generator: GeneratorNet,
        critic: CriticNet,
        step_size: Positive | Schedule,
        integrator: Integrator = "rk4",
        penalty_weight: NonNegative = 0.01,
        objective: Objective = "non_saturating",
        stage_batches: StageBatches = "shared",
        penalty_placement: PenaltyPlacement = "after_step",
        ema_decay: DecayRates = 0.999,
    ) -> None:
        super().__init__()
        self.step_size, self.penalty_weight, self.tableau = scheduled(step_size), penalty_weight, TABLEAUS[integrator]
        descent = partial(SGD, lr=1.0)  # it follows the combined slope; the schedule of its rate is h
        self.generator = Generator(generator, descent, self.step_size, ema_decay)
        self.critic = Critic(critic, descent, self.step_size, steps=1)
        check_pair(self.generator, self.critic)
        self.objective: Objective = objective
        self.fresh, self.penalise_first_stage = stage_batches == "fresh", penalty_placement == "first_stage"
        self.minibatches_per_iteration = self.tableau.num_stages if self.fresh else 1
        self.duel = FlatNetwork(Duel(critic, generator))
        theta = [p for p in critic.parameters() if p.requires_grad]
        self.num_tensors, self.num_theta = len(theta), sum(p.numel() for p in theta)  # θ comes first in y
        self.register_buffer("alive", torch.tensor(True), persistent=False)

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Take one Runge-Kutta step of both players, then the regulariser's step of D."""
        lam, tableau = self.penalty_weight, self.tableau
        draws = self.draws(minibatches)
        first = next(draws)

        y = self.duel.vector()  # y = (θ, φ)
        k1, r, losses, buffers = self.first_stage(y, first, self.regulariser)  # v(y), and r = ∇_θ ‖∇_φ l_G‖²
        k = rk_stages(lambda t, y: self.field(y, next(draws)), 0.0, y, self.h, tableau, first=[k1])
        slope = combine(tableau.b, k)  # (θ', φ') = y + h Σ b_i k_i
        if r is not None:
            self.of_D(slope).sub_(lam * r)  # θ ← θ' - h λ r
        for player, part in ((self.critic, self.of_D(slope)), (self.generator, self.of_G(slope))):
            if (repelled := penalty_gradients(player)) is not None:
                part.sub_(joined(repelled))
        self.follow(slope, buffers)

        guards = {
            f"_field of the {player} in stage {i}": part.norm()
            for i, stage in enumerate(k, 1)
            for player, part in zip(PLAYERS, (self.of_D(stage), self.of_G(stage)), strict=True)
        }
        guards |= {} if r is None else {"_gradient of the regulariser": r.norm()}
        return guards | losses | (self.diagnostics(y, k, r, first) if self.at_log_point else {})

    # ---------------------------------------------------------------------------------------------------- the field

    def losses(self, y: Sequence[Tensor], draw: Draw) -> tuple[Tensor, Tensor, Buffers]:
        """l_D and l_G at any parameters, and copies of the buffers that the evaluation has updated."""
        buffers = self.duel.buffers()
        a_fake, a_real = self.duel(y, buffers, draw)
        l_D, l_G = discriminator_loss(a_real, a_fake, self.objective), generator_loss(a_fake, self.objective)
        return l_D, l_G, buffers

    def field(self, y: Tensor, draw: Draw) -> Tensor:
        """v(y) = (-∇_θ l_D, -∇_φ l_G) as one vector, averaged over ranks; first-order work only."""
        theta, phi = self.split(leaves := self.duel.leaves(y))
        l_D, l_G, _ = self.losses(leaves, draw)
        g_G = grad(l_G, phi, retain_graph=True)
        g_D = grad(l_D, theta)
        return average(joined([*g_D, *g_G]).neg_())

    def first_stage(
        self, y: Tensor, draw: Draw, regulariser: Literal["none", "inside", "apart"]
    ) -> tuple[Tensor, Tensor | None, Terms, Buffers]:
        """v(y) and the regulariser's gradient from one graph, the losses, and the buffers after this evaluation.

        r is None without a regulariser, and if it is inside: one backward pass then adds λ r / b_1 to D's part of the
        field.
        """
        theta, phi = self.split(leaves := self.duel.leaves(y))
        l_D, l_G, buffers = self.losses(leaves, draw)
        g_G = joined(grad(l_G, phi, retain_graph=True, create_graph=regulariser != "none"))
        g, r = average(g_G.detach()), None
        if regulariser == "inside":  # ∇_θ ‖g‖² = 2 gᵀ ∂g_G/∂θ, with g the mean over ranks
            g_D = grad([l_D, g_G], theta, grad_outputs=[None, 2 * self.penalty_weight / self.tableau.b[0] * g])
        else:
            g_D = grad(l_D, theta, retain_graph=regulariser == "apart")
        if regulariser == "apart":
            r = average(joined(grad(g_G, theta, grad_outputs=2 * g)))
        k1 = torch.cat([average(joined(g_D)), g]).neg_()
        return k1, r, {"loss_D": l_D.detach(), "loss_G": l_G.detach()}, buffers

    @property
    def regulariser(self) -> Literal["none", "inside", "apart"]:
        """The place of r: inside the first stage or apart. With one stage both are the same."""
        if not self.penalty_weight:
            return "none"
        return "inside" if self.penalise_first_stage or self.tableau.num_stages == 1 else "apart"

    def draws(self, minibatches: Sequence[Batch]) -> Iterator[Draw]:
        """Data and latents of every stage: the same for all, or fresh ones."""
        G, conditional = self.generator, self.generator.num_classes > 0
        drawn = [Draw(x, (y,) if conditional else (), G.latents(len(x), self.noise)) for x, y in minibatches]
        return iter(drawn) if self.fresh else repeat(drawn[0])

    # -------------------------------------------------------------------------------------------------- the players

    def split(self, pieces: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The pieces of θ and those of φ."""
        return pieces[: self.num_tensors], pieces[self.num_tensors :]

    def of_D(self, y: Tensor) -> Tensor:
        """θ's part of a joint vector."""
        return y[: self.num_theta]

    def of_G(self, y: Tensor) -> Tensor:
        """φ's part of a joint vector."""
        return y[self.num_theta :]

    @property
    def h(self) -> float:
        """Step size of this iteration."""
        return self.critic.lr  # one with the rate of the optimizer, whatever else scales it

    @torch.no_grad()
    def follow(self, slope: Tensor, buffers: Buffers) -> None:
        """Move y to y + h slope. After the first slope whose norm is not finite, keep the last good state."""
        self.alive &= slope.norm().isfinite()
        descent = torch.where(self.alive, -slope, 0.0)
        for player, part in zip((self.critic, self.generator), self.split(self.duel.pieces(descent)), strict=True):
            player.apply_gradients(part)
        self.duel.commit(buffers, self.alive)

    def on_fit_start(self) -> None:
        """Assume that the first state is good."""
        super().on_fit_start()
        self.alive.fill_(True)

    # ---------------------------------------------------------------------------------------------------- diagnostics

    @property
    def at_log_point(self) -> bool:
        """Whether the current iteration ends an interval of the log."""
        return (self.iteration + 1) % self.log_interval == 0

    def diagnostics(self, y: Tensor, k: list[Tensor], r: Tensor | None, draw: Draw) -> Terms:
        """Norms of the field of both players, and measures of how well the step resolves it on one minibatch.

        `local_error` is the norm of the difference to the tableau's companion, in units of the parameters. `rotation`
        is the cosine between the field at the start and at the end of the step. The companion's stages, and the
        regulariser apart from the field, are computed here if the step has not computed them.
        """
        if r is None:
            k1, r, _, _ = self.first_stage(y, draw, "apart")
            k = [k1]
            assert r is not None
        known = k[:1] if self.fresh else k
        k = rk_stages(lambda t, y: self.field(y, draw), 0.0, y, self.h, self.tableau, len(self.tableau.a), known)
        return {
            "field_D": self.of_D(k[0]).norm(),
            "field_G": self.of_G(k[0]).norm(),
            "penalty": self.of_G(k[0]).square().sum(),
            "penalty_gradient": r.norm(),
            "local_error": step_error(k, self.h, self.tableau).norm(),
            "rotation": torch.cosine_similarity(k[0], k[-1], dim=0),
        }

    # -------------------------------------------------------------------------------------------------------- checks

    def setup(self, stage: str) -> None:
        """Check that the field is the same function in all stages of a step."""
        super().setup(stage)
        if stage == "fit":
            for name, network in self.networks.items():
                check_steady_layers(f"model.{name}", network)
            self._probe()

    @torch.no_grad()
    def _probe(self) -> None:
        """Check that both networks return the same values for the same input."""
        with torch.random.fork_rng(devices=[]):
            G, num_classes = self.generator.network, self.generator.num_classes
            z, x = (torch.randn(4, *shape).to(next(G.parameters())) for shape in (G.latent_shape, G.event_shape))
            labels = (torch.arange(4, device=z.device) % num_classes,) if num_classes else ()
            draw, parameters = Draw(x, labels, z), self.duel.parameters
            values = [self.duel(parameters, self.duel.buffers(), draw) for _ in range(2)]
        for name, i in (("critic", 1), ("generator", 0)):  # on data the critic is alone
            first, second = (logits[i] for logits in values)
            if not torch.allclose(first, second, rtol=1e-3, atol=1e-5, equal_nan=True):
                wanted = "expected the same values for the same input in training mode, got others"
                raise UserError(f"model.{name}: {wanted}. Remove layers that are random or keep a state")


def average(vector: Tensor) -> Tensor:
    """Mean over ranks, in one all-reduce."""
    return mean_over_ranks([vector])[0]
