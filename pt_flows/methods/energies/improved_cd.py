r"""Improved contrastive divergence (ICD): two more terms keep the sampler of a short-run energy-based model effective.

    x ← noise, or an augmented sample of the history
    K times:   z = x + σ ξ;   x ← bound(z - λ ∇U(z));   x⁻ = x, and the last time also x̂(θ) = bound(z - λ ∇U_θ(z))
    L_CD  = mean E(x⁺) - mean E(x⁻)                         E: mean of the energies whose sum is U
    L_reg = c (mean E² on x⁺ + mean E² on x⁻)
    L_opt = mean E_stop(θ)(x̂(θ))                            the last step should go to low energies
    L_ent = -w mean_i log min_j ‖x̂_i(θ) - b_j‖              and to where samples have not been; b: history

Du, Li, Tenenbaum and Mordatch 2021, Improved Contrastive Divergence Training of Energy-Based Models, arXiv:2012.01316.
The noise σ and the step λ are independent numbers; as Langevin dynamics they have temperature σ²/2λ, next to zero: a
short-run sampler, not a calibrated density. L_opt and L_ent are best seen as regularisers that keep energy gradients
useful: reading them as the missing term of contrastive divergence is disputed (Gagnon and Lajoie, arXiv:2202.12176).

Departures: written from the abstract and the authors' released code; the body of the paper was not available. Images
lie in [-1, 1] (λ and σ of the released code times 4 and 2). The b_j are drawn before x⁻ joins the history, so that no
sample meets itself. The history never exceeds its size. Not class-conditional.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from pt_flows.bounds import Count, CountOrZero, Fraction, NonNegative, Positive
from pt_flows.contracts import Batch, EnergyNet, Terms, Weights
from pt_flows.errors import UserError
from pt_flows.functional.langevin import Chain, Rng, chain_at, normal_like, uniform_like
from pt_flows.functional.objectives import nearest_log_distance
from pt_flows.methods.energies.base import EnergyMethod, OnDivergence
from pt_flows.methods.energies.watch import step_length, watched
from pt_flows.training.noise import generator_at, run_seed
from pt_flows.training.players import Energy, check_takes_labels
from pt_flows.training.replay import ReplayBuffer


class ImprovedCD(EnergyMethod):
    """Improved contrastive divergence.

    Second derivatives of the energy are needed, so its attention must not be a fused kernel.

    Args:
        energy: U, low on data; a sum of energies (`parts`) for several scales.
        num_langevin_steps: K.
        step_size: λ, in data units squared per unit of energy.
        noise_std: σ, in data units.
        opt_weight: Weight of L_opt.
        entropy_weight: w.
        energy_l2: c.
        num_references: Number of the b_j.
        min_history: Number of samples in the history from which L_ent counts.
        kept_every: Interval of the samples of a minibatch that L_opt and L_ent use; 1 for all.
        augmentation: Maps chains to other views of their samples: images (B, C, H, W) in [-1, 1], and a seed for each.
        bounds: Box that samples are kept in, and noise is drawn from.
        buffer_size: Number of samples in the history.
        reinit_probability: Fraction of chains that start from noise.
        num_sampling_rounds: Rounds of augmentation and K steps after training; the first and the last have no
            augmentation.
        max_energy_gap: Largest |mean U(x⁺) - mean U(x⁻)|; a run beyond it has diverged.
        on_divergence: "stop" with the reason, or "roll_back" to the state of the last row of the log.
    """

    def __init__(
        self,
        energy: Energy,
        num_langevin_steps: Count = 40,
        step_size: Positive = 400.0,
        noise_std: NonNegative = 0.002,
        opt_weight: NonNegative = 1.0,
        entropy_weight: NonNegative = 0.3,
        energy_l2: NonNegative = 1.0,
        num_references: Count = 100,
        min_history: CountOrZero = 1_000,
        kept_every: Count = 1,
        augmentation: nn.Module | None = None,
        bounds: tuple[float, float] = (-1.0, 1.0),
        buffer_size: Count = 10_000,
        reinit_probability: Fraction = 0.001,
        num_sampling_rounds: Count = 5,
        max_energy_gap: Positive = 1e8,
        on_divergence: OnDivergence = "stop",
    ) -> None:
        check_takes_labels(energy, False)
        if not bounds[0] < bounds[1]:
            raise UserError(f"model.bounds: expected a lower and a higher number, got {list(bounds)}")
        if num_references > max(min_history, 1):
            wanted = f"at most model.min_history ({min_history})"
            raise UserError(f"model.num_references: expected {wanted}, got {num_references}")
        images = len(energy.event_shape) == 3
        if images and tuple(bounds) != (-1.0, 1.0):
            raise UserError(f"model.bounds: expected [-1, 1] for images, got {list(bounds)}")
        storage = "uint8" if images else "float"
        history = ReplayBuffer("reservoir", buffer_size, energy.event_shape, storage, reinit_probability)
        super().__init__(energy, history, max_energy_gap, on_divergence)
        self.num_langevin_steps, self.step_size, self.noise_std = num_langevin_steps, step_size, noise_std
        self.opt_weight, self.entropy_weight, self.energy_l2 = opt_weight, entropy_weight, energy_l2
        self.num_references, self.min_history, self.kept_every = num_references, min_history, kept_every
        self.bounds, self.num_sampling_rounds = bounds, num_sampling_rounds
        self.augmentation = augmentation

    # ----------------------------------------------------------------------------------------------------- the method

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        """Sample, with the last step differentiable; descend the four terms; add the samples to the history."""
        x_data = self.dequantised(minibatches[0][0])
        z = self.before_last_step(self.starts(len(x_data)))
        slope = self.slope(z[:: self.kept_every])
        x_hat = self.moved(z[:: self.kept_every], slope)  # x̂(θ)
        x_model = x_hat.detach() if self.kept_every == 1 else self.step(z)

        E_data, E_model = self.parts(torch.cat(self.attacked(x_data, x_model))).split(len(x_data))  # (B, scales)
        cd = E_data.mean() - E_model.mean()
        reg = E_data.square().mean() + E_model.square().mean()
        opt, ent = self.opt_loss(x_hat), self.entropy_loss(x_hat)
        norm = self.descend(cd + self.energy_l2 * reg + self.opt_weight * opt + self.entropy_weight * ent)
        self.buffer.add(x_model)

        lost = (~E_model.sum(1).isfinite()).sum().float()
        terms = {"loss_opt": opt.detach(), "loss_entropy": ent.detach(), "_lost_chains": lost}
        terms |= step_length(self.step_size, slope)
        return norm | terms | watched(E_data.mean(1), E_model.mean(1), x_model)

    def opt_loss(self, x_hat: Tensor) -> Tensor:
        """L_opt: its value, and its gradient by the parameters inside x̂ alone, from v = ∇E(x̂) held constant."""
        if not self.opt_weight:
            return torch.zeros((), device=x_hat.device)
        E, v = self.mean_energy_at(x_hat)
        surrogate = (v * x_hat).flatten(1).sum(1).mean()
        return surrogate - surrogate.detach() + E.mean()

    def entropy_loss(self, x_hat: Tensor) -> Tensor:
        """L_ent / w, zero while the history is short."""
        if len(self.buffer) <= self.min_history or not self.entropy_weight:
            return torch.zeros((), device=x_hat.device)
        rng = generator_at(self.device, run_seed(), "references", self.iteration)  # the same for every process
        b = self.views(self.buffer.peek(self.num_references, rng), rng)
        return -nearest_log_distance(x_hat, b).mean()

    def mean_energy_at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E (B,) and its gradient (B, *event), constants."""
        with self.energy.fixed():
            chain = chain_at(lambda points: self.parts(points).mean(1), x)
        return chain.energy, chain.gradient

    def parts(self, x: Tensor) -> Tensor:
        """The energies (B, scales) whose sum is U."""
        if type(self.energy.network).parts is not EnergyNet.parts:  # the base's `parts` calls the network, which counts
            self.cost.count("energy", len(x))
        return self.energy.network.parts(x)

    # ------------------------------------------------------------------------------------------------------ the sampler

    def starts(self, num: int) -> Tensor:
        """Augmented samples of the history, or noise."""
        drawn = self.buffer.draw(num, self.noise, self.fresh)
        return self.views(drawn.x, self.noise) if len(drawn.slots) else drawn.x

    def fresh(self, num: int) -> tuple[Tensor, Tensor]:
        """Uniform noise in the box, and labels 0, which are not used here."""
        x = self.box_noise(torch.empty(num, *self.event_shape, device=self.device), self.noise)
        return x, torch.zeros(num, dtype=torch.int64, device=x.device)

    def box_noise(self, like: Tensor, rng: Rng) -> Tensor:
        """Uniform noise in the box."""
        low, high = self.bounds
        return low + (high - low) * uniform_like(like, rng)

    def noised(self, x: Tensor, rng: Rng) -> Tensor:
        """Points moved by noise: z = x + σ ξ."""
        return x + self.noise_std * normal_like(x, rng)

    def step(self, z: Tensor, weights: Weights = "raw") -> Tensor:
        """A step along the energy's gradient: bound(z - λ ∇U(z))."""
        with self.energy.fixed(weights) as U:
            return self.moved(z, chain_at(U, z).gradient)

    def moved(self, z: Tensor, slope: Tensor) -> Tensor:
        """A step along a given gradient: bound(z - λ slope)."""
        return (z - self.step_size * slope).clamp(*self.bounds)

    def before_last_step(self, x: Tensor) -> Tensor:
        """Take K - 1 steps, and add the noise of the last one."""
        for _ in range(self.num_langevin_steps - 1):
            x = self.step(self.noised(x, self.noise))
        return self.noised(x, self.noise)

    def slope(self, z: Tensor) -> Tensor:
        """∇U_θ(z), with a graph to the parameters."""
        z = z.detach().requires_grad_(True)
        with self.energy.fixed() as U:
            needed = bool(self.opt_weight or self.entropy_weight)
            (gradient,) = torch.autograd.grad(U(z).sum(), z, create_graph=needed)
        return gradient

    def views(self, x: Tensor, rng: Rng) -> Tensor:
        """Another view of every sample; the sample itself without an augmentation."""
        if self.augmentation is None:
            return x
        seeds = uniform_like(x.new_empty(len(x), dtype=torch.float64), rng) * 2**53
        return self.augmentation(x, seeds.long().tolist())

    def dequantised(self, x: Tensor) -> Tensor:
        """Images with uniform noise within each of their 256 levels; other data unchanged."""
        if not self.on_images:
            return x
        levels = ((x + 1) * 127.5).round()
        return (levels + uniform_like(x, self.noise)) / 128 - 1

    # ------------------------------------------------------------------------------------------------- after training

    def add(self, other: EnergyNet, averaged: EnergyNet) -> None:
        """Add another energy, and halve the step, as the authors do."""
        super().add(other, averaged)
        self.step_size /= 2

    def walk(self, x: Tensor, num_steps: int, rng: Rng, weights: Weights = "ema") -> tuple[Chain, Tensor]:
        """Take steps as in training, without rejecting any."""
        for _ in range(num_steps):
            x = self.step(self.noised(x, rng), weights)
        with self.energy.fixed(weights) as U:
            return chain_at(U, x), torch.ones(len(x), device=x.device)

    def sampling(self, num: int, rng: Rng, weights: Weights) -> Iterator[tuple[float, Tensor]]:
        """Run chains from noise: rounds of augmentation and K steps; the first and the last have no augmentation."""
        x = self.box_noise(torch.empty(num, *self.event_shape, device=self.device), rng)
        for done in range(1, self.num_sampling_rounds + 1):
            if 1 < done < self.num_sampling_rounds:
                x = self.views(x, rng)
            for _ in range(self.num_langevin_steps):
                x = self.step(self.noised(x, rng), weights)
            yield done / self.num_sampling_rounds, x
