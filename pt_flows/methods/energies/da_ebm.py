r"""Diffusion-assisted EBM (DA-EBM): one energy for data at every noise level, trained by persistent, exact sampling.

    q(x, t): t uniform on 0 ... T, x = a_t x_0 + b_t ε         the data, diffused to a random level; t = 0 is clean
    p(x, t) ∝ exp(-U(x, t))                                     one network, one constant for all levels
    (x⁻, t⁻): a chain of the buffer after K steps of MALA in x at its level, then an exact draw of t given x
    descend mean U(x⁺, t⁺) - mean U(x⁻, t⁻);  put (x⁻, t⁻) back

At the optimum U(x, t) = -log q_t(x) + const with the same constant at every level. So labels of the buffer are uniform,
log Z_t = log ∫ exp(-U(x, t)) dx is the same for all t, and softmax_t(-U(x, t)) tells how noisy x is. No regulariser, no
clipping and no re-initialisation keep this stable, but sampling that leaves exp(-U) invariant.

Zhang, Tan and Ou 2023, Persistently Trained, Diffusion-assisted Energy-based Models, arXiv:2304.10707.

Departures: written from the abstract and the authors' released code; the body of the paper was not available. The
acceptance ratio is the exact one (`acceptance_ratio: released` has the released code's, which samples another
distribution). Chains are drawn from the buffer without replacement; acceptance is summed with its counts; step sizes
are capped; one schedule moves the learning rate; the average of weights is an addition.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from pt_flows.bounds import Count, CountOrZero, NonNegative, Positive
from pt_flows.contracts import Batch, Terms, Weights
from pt_flows.errors import UserError, warn
from pt_flows.functional.gibbs import Transition, label_logits, mgms
from pt_flows.functional.harvesting import harvest
from pt_flows.functional.langevin import Chain, Ratio, Rng, langevin, normal_like
from pt_flows.functional.langevin import Energy as EnergyFunction
from pt_flows.functional.noising import Noising, squared_cumulative
from pt_flows.methods.energies.base import EnergyMethod, OnDivergence, check_denoise
from pt_flows.methods.energies.gaussian_base import GaussianBase
from pt_flows.methods.energies.moments import check_levels, moments
from pt_flows.methods.energies.watch import step_length, watched
from pt_flows.training.distributed import all_ranks
from pt_flows.training.players import Energy, check_takes_labels
from pt_flows.training.replay import ReplayBuffer, StepSizes

Base = Literal["none", "gaussian"]

PATIENCE = 4
"""Multiple of the transitions of a random walk over the labels after which sampling stops waiting for a chain."""


class DAEBM(EnergyMethod):
    """Diffusion-assisted energy-based model.

    Args:
        energy: U(x, t), from points and labels to one value each.
        base: "gaussian": U is the network plus -log of the Gaussian of the data at every level (`GaussianBase`), whose
            mean and covariance are computed at the start of training and stored in the checkpoint.
        data_noise: Standard deviation of noise on the data, in data units: a part of the model at every level.
        denoise: Whether to remove that noise from samples, by one step along the score (Tweedie).
        num_levels: T; labels are 0 (data) to T.
        first_increment: u_1 of the noise schedule (`functional.noising.squared_cumulative`).
        last_increment: u_T of the noise schedule.
        num_langevin_steps: K.
        step_size: s of the first iteration, in units of each level's scale.
        data_scale: σ, the finest detail of data: level t has scale √(a_t² σ² + b_t²). None gives all levels scale 1.
        max_step_size: Cap of s, in the same units.
        metropolis_from: Iteration from which proposals are accepted or rejected, and steps adapted. Earlier proposals
            are all accepted.
        adapt_every: Iterations between two adaptations of the steps; 0 keeps them.
        acceptance_ratio: "exact", or "released", the ratio of the authors' code.
        buffer_size: Number of chains.
        num_visits: Number of visits at label 0 after which a chain from noise becomes a sample.
        max_energy_gap: Largest |mean U(x⁺) - mean U(x⁻)|; a run beyond it has diverged.
        on_divergence: "stop" with the reason, or "roll_back" to the state of the last row of the log.
    """

    a: Tensor
    b: Tensor
    jumps: Tensor
    differentiated_once = ("energy",)

    def __init__(
        self,
        energy: Energy,
        base: Base = "none",
        data_noise: NonNegative = 0.0,
        denoise: bool = False,
        num_levels: Count = 6,
        first_increment: float = 1e-2,
        last_increment: float = 3e-1,
        num_langevin_steps: Count = 40,
        step_size: Positive = 0.1,
        data_scale: Positive | None = None,
        max_step_size: Positive = 1.0,
        metropolis_from: CountOrZero = 0,
        adapt_every: CountOrZero = 100,
        acceptance_ratio: Ratio = "exact",
        buffer_size: Count = 10_000,
        num_visits: Count = 5,
        max_energy_gap: Positive = 1e8,
        on_divergence: OnDivergence = "stop",
    ) -> None:
        check_denoise(denoise, data_noise)
        check_takes_labels(energy, True)
        super().__init__(energy, ReplayBuffer("slot", buffer_size, energy.event_shape), max_energy_gap, on_divergence)
        noising = squared_cumulative(num_levels, first_increment, last_increment)
        if base == "gaussian":
            energy.replace_network(GaussianBase(energy.network, noising))
        self.data_noise, self.denoise = data_noise, denoise
        self.increments = first_increment, last_increment
        self.num_labels, self.num_langevin_steps = num_levels + 1, num_langevin_steps
        self.metropolis_from, self.adapt_every, self.num_visits = metropolis_from, adapt_every, num_visits
        self.ratio: Ratio = acceptance_ratio
        a, b = noising
        self.register_buffer("a", a, persistent=False)
        self.register_buffer("b", b, persistent=False)
        scale = torch.ones_like(a) if data_scale is None else (a * data_scale).square().add(b.square()).sqrt()
        self.step_sizes = StepSizes(step_size * scale, max_step_size * scale)
        self.register_buffer("jumps", torch.zeros(self.num_labels, self.num_labels))
        every_label_equally_often = torch.arange(buffer_size) * self.num_labels // buffer_size
        self.buffer.fill(torch.randn, every_label_equally_often)

    def setup(self, stage: str) -> None:
        """Measure the data before training, and let chains start from the base if there is one.

        When a run resumes, the checkpoint's moments and chains replace these.
        """
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        network = self.energy.network
        based = isinstance(network, GaussianBase)
        if stage != "fit" or (gaussian := moments(data, self.data_noise, self.event_shape, based)) is None:
            return
        check_levels(gaussian, self.noising, self.increments)
        if isinstance(network, GaussianBase):
            network.take(gaussian)
            for average in self.energy.averages:
                cast(GaussianBase, average.network).take(gaussian)
            if self.iteration == 0:
                self.buffer.points.copy_(network.points(self.buffer.points, self.buffer.labels))

    # ----------------------------------------------------------------------------------------------------- the method

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Diffuse data, move chains, descend the difference of energies, put the chains back."""
        x_0 = self.with_data_noise(minibatches[0][0], self.noise)
        t_data = self.noise.draw(self.uniform_labels, len(x_0))
        x_data = self.noising.diffuse(x_0, t_data, normal_like(x_0, self.noise))  # (x⁺, t⁺)

        drawn = self.buffer.draw(len(x_0), self.noise)
        moved = self.transition(drawn.x, drawn.labels, self.noise, metropolis=self.tests_steps)  # (x⁻, t⁻)
        self.buffer.write(drawn, moved.x, moved.t)

        u = self.energy(torch.cat(self.attacked(x_data, moved.x, t_data, moved.t)), torch.cat([t_data, moved.t]))
        u_data, u_model = u.split(len(x_0))
        norm = self.descend(u_data.mean() - u_model.mean())

        return norm | watched(u_data, u_model, moved.x) | self.follow(drawn.labels, moved)

    def transition(
        self, x: Tensor, t: Tensor, rng: Rng, weights: Weights = "raw", metropolis: bool = True
    ) -> Transition:
        """Take K Langevin steps at each chain's level, with or without Metropolis' test, then jump to another level."""
        with self.energy.fixed(weights) as U:
            s, K, chunk = self.step_sizes.values, self.num_langevin_steps, self.label_chunk
            return mgms(U, x, t, s, K, rng, metropolis, ratio=self.ratio, chunk=chunk)

    def follow(self, t: Tensor, moved: Transition) -> Terms:
        """Count acceptances and jumps, adapt the steps if it is time, and return terms for the log and the guard."""
        if self.tests_steps:
            self.step_sizes.record(moved.accepted, moved.tried)
            if self.adapt_every and (self.iteration + 1) % self.adapt_every == 0:
                self.step_sizes.adapt()
                self.jumps *= 0.9
        self.jumps.index_put_((all_ranks(t), all_ranks(moved.t)), self.jumps.new_ones(()), accumulate=True)
        lost = ~moved.energy.isfinite()
        return {
            "acceptance": moved.accepted.sum() / moved.tried.sum(),
            "label_0": (self.buffer.labels == 0).float().mean() * self.num_labels,
            "_lost_chains": lost.sum().float(),
            "_lost_label": torch.where(lost, t, self.num_labels).amin().float(),
        } | step_length(0.5 * self.step_sizes.values[t].square(), moved.gradient)

    @property
    def tests_steps(self) -> bool:
        """Whether Metropolis' test is on."""
        return self.age >= self.metropolis_from

    @property
    def label_chunk(self) -> int:
        """Largest number of rows in one call of the energy for labels; on a CPU as many as its cache holds."""
        fitting = max(self.num_labels, 2**16 // math.prod(self.event_shape))
        return min(4096, fitting) if self.device.type == "cpu" else 4096

    def uniform_labels(self, num: int, rng: torch.Generator) -> Tensor:
        """Labels (num,), each level equally likely."""
        return torch.randint(self.num_labels, (num,), generator=rng, device=rng.device)

    @property
    def noising(self) -> Noising:
        """The noise schedule a_t, b_t."""
        return Noising(self.a, self.b)

    # ------------------------------------------------------------------------------------------------------- energies

    def energies(self, x: Tensor, t: Tensor, weights: Weights = "ema") -> Tensor:
        """U(x, t) (B,), without gradients.

        Raises:
            UserError: There are not as many labels as points, or one is outside 0 ... T.
        """
        if t.shape != x.shape[:1] or bool(((t < 0) | (t >= self.num_labels)).any()):
            got = f"shape {tuple(t.shape)} from {int(t.min())} to {int(t.max())}"
            raise UserError(f"t: expected labels of shape ({len(x)},) in 0 ... {self.num_labels - 1}, got {got}")
        with self.energy.fixed(weights) as U, torch.no_grad():
            return U(x, t)

    def log_levels(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """-U(x, t) for all levels (B, T + 1): its softmax is p(t | x), its logsumexp log p(x) up to a constant."""
        with self.energy.fixed(weights) as U:
            return label_logits(U, x, self.num_labels)

    # ------------------------------------------------------------------------------------------------------- sampling

    def sampling(self, num: int, rng: Rng, weights: Weights) -> Iterator[tuple[float, Tensor]]:
        """Run chains from noise at level T; each ends when it is at label 0 for the `num_visits`-th time."""
        x = normal_like(torch.empty(num, *self.event_shape, device=self.device), rng)
        t = torch.full((num,), self.num_labels - 1, device=self.device)
        move: Callable[[Tensor, Tensor], Transition] = lambda x, t: self.transition(x, t, rng, weights)
        limit, left = PATIENCE * self.num_visits * self.num_labels**2, num
        for left, taken in harvest(move, x, t, self.num_visits, limit):
            yield 1 - left / num, taken
        if left:
            warn(
                f"{left} of {num} chains from noise were not at label 0 for {self.num_visits} times within {limit} "
                "transitions, so their last points are returned. Train longer, or use more noise levels"
            )

    def walk(self, x: Tensor, num_steps: int, rng: Rng, weights: Weights = "ema") -> tuple[Chain, Tensor]:
        """Run MALA at label 0 with its trained step size."""
        with self.energy.fixed(weights) as U:
            at_0, s = self.of_data(U), self.step_sizes.values[0]
            return langevin(at_0, x, s, num_steps, rng, metropolis=True, ratio=self.ratio)

    def of_data(self, network: Any) -> EnergyFunction:
        """U(x, 0)."""
        return lambda x: network(x, torch.zeros(len(x), dtype=torch.int64, device=x.device))
