"""The base of energy-based models: an energy U, the chains that sample exp(-U), and what keeps watch over both.

Training lowers U on data and raises it on samples: the gradient of mean U(x⁺) - mean U(x⁻) is that of the negative
log-likelihood where x⁻ follows exp(-U). A method says where x⁻ come from (`iterate`) and how to sample after training
(`sampling`). The value of that difference is no sign of convergence; it stays near zero while all is well.

A transition leaves parameters, their gradients and the network's mode as they were, and works in validation,
`inference_mode` and on averaged weights alike.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from pt_flows.bounds import Positive
from pt_flows.contracts import Batch, EnergyNet, Shape, Terms, Weights
from pt_flows.errors import DivergenceError, UserError
from pt_flows.functional.langevin import Chain, Rng, chain_at, normal_like
from pt_flows.functional.langevin import Energy as EnergyFunction
from pt_flows.loop.method import Method
from pt_flows.methods.energies.rollback import Rollback
from pt_flows.methods.energies.sums import SumEnergy
from pt_flows.training.distributed import mean_over_ranks
from pt_flows.training.players import Energy
from pt_flows.training.replay import ReplayBuffer

OnDivergence = Literal["stop", "roll_back"]

LONGEST_STEP = 0.1
"""Root mean square of step times gradient per pixel of [-1, 1] above which a sampler oversteps; 0.05 works."""


class EnergyMethod(Method):
    """Base of energy-based models.

    Args:
        energy: U, low on data: one value per sample.
        buffer: Keeps the chains between iterations.
        max_energy_gap: Largest |mean U(x⁺) - mean U(x⁻)| of a run that is not lost.
        on_divergence: "stop" with the reason, or "roll_back": restore the state of the last row of the log (weights,
            optimizer, chains and their steps) and continue with fresh noise.
    """

    float32_only = True
    data_noise: float = 0.0
    """Standard deviation of noise on the data that is a part of the model, in data units."""
    denoise: bool = False
    """Whether samples leave without that noise."""

    def __init__(
        self,
        energy: Energy,
        buffer: ReplayBuffer,
        max_energy_gap: Positive = 1e8,
        on_divergence: OnDivergence = "stop",
    ) -> None:
        super().__init__()
        self.energy, self.buffer = energy, buffer
        self.max_energy_gap = max_energy_gap
        self.rollback = Rollback() if on_divergence == "roll_back" else None
        self._overstepped = False
        # all processes hold the same chains, so nothing has to be sent around before a step
        self._ddp_params_and_buffers_to_ignore = [f"buffer.{name}" for name, _ in buffer.named_buffers()]

    # -------------------------------------------------------------------------------------- for a method to override

    @abstractmethod
    def sampling(self, num: int, rng: Rng, weights: Weights) -> Iterator[tuple[float, Tensor]]:
        """Run chains from noise to samples: yield the fraction of the work done and the points so far, samples last.

        Args:
            num: Number of samples.
            rng: On this method's device.
            weights: The averaged weights, or the raw ones.
        """

    @abstractmethod
    def walk(self, x: Tensor, num_steps: int, rng: Rng, weights: Weights = "ema") -> tuple[Chain, Tensor]:
        """Move chains from data, as in training but without other jumps: the chains, and mean acceptance (B,).

        Args:
            x: Starting points (B, *event).
            num_steps: Number of steps.
            rng: On this method's device.
            weights: The averaged weights, or the raw ones.
        """

    def of_data(self, network: Any) -> EnergyFunction:
        """The energy of data, a function of points alone."""
        return network

    @property
    def tests_steps(self) -> bool:
        """Whether a test rejects steps that are too long."""
        return False

    # ----------------------------------------------------------------------------------------------- energy and chains

    @property
    def event_shape(self) -> Shape:
        """Shape of one sample."""
        return self.energy.event_shape

    @property
    def on_images(self) -> bool:
        """Whether samples are images."""
        return len(self.event_shape) == 3

    @property
    def chunk(self) -> int:
        """Points of one call of the energy where there are many: 500 images, more of small events."""
        return max(500, 20_000 // math.prod(self.event_shape))

    def clean_energy(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """U of data (B,), without gradients, in chunks; the density is proportional to exp(-U)."""
        with self.energy.fixed(weights) as U, torch.no_grad():
            return torch.cat([U(part) for part in x.split(self.chunk)])

    def with_data_noise(self, x: Tensor, rng: Rng) -> Tensor:
        """Data (B, *event) with the noise that is a part of the model."""
        return x + self.data_noise * normal_like(x, rng) if self.data_noise else x

    def finished(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """Points at the ends of chains as samples: denoised if wanted."""
        return self.denoised(x, weights) if self.denoise else x

    def denoised(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """The mean of clean data given noisy points (B, *event): x - σ² ∇U(x) (Tweedie), σ the data noise."""
        with self.energy.fixed(weights) as U:
            slopes = [chain_at(self.of_data(U), part).gradient for part in x.split(self.chunk)]
        return x - self.data_noise**2 * torch.cat(slopes)

    def add(self, other: EnergyNet, averaged: EnergyNet) -> None:
        """Sample the sum of this energy and another one, a product of densities, from now on.

        Args:
            other: Raw weights of the other energy, of the same points and labels.
            averaged: Its averaged weights.
        """
        energy = self.energy
        energy.network = SumEnergy(energy.network, other)
        if energy.ema is not None:
            energy.ema.network = SumEnergy(energy.ema.network, averaged)

    # ------------------------------------------------------------------------------------------------------ training

    def descend(self, loss: Tensor) -> Terms:
        """Take one optimizer step of the energy; the norm of the gradient, before it is clipped."""
        self.energy.step(loss)
        assert self.energy.gradient_norm is not None
        return {"gradient_norm": self.energy.gradient_norm}

    def watched(self, u_data: Tensor, u_model: Tensor, x_model: Tensor) -> Terms:
        """Both mean energies, their gap, and the saturated fraction of images."""
        terms = {"energy_data": u_data.detach().mean(), "energy_model": u_model.detach().mean()}
        terms["energy_gap"] = terms["energy_data"] - terms["energy_model"]
        if self.on_images:
            terms["saturated"] = (x_model.abs() >= 1).float().mean()
        return terms

    def step_length(self, step: Tensor | float, gradient: Tensor) -> Terms:
        """Root mean square per coordinate of the last step of chains along the gradient.

        Args:
            step: Factor of the gradients, one for all or (B,).
            gradient: ∇U (B, *event).
        """
        step = torch.as_tensor(step, device=gradient.device).reshape(-1, *[1] * (gradient.dim() - 1))
        return {"step_rms": (step * gradient.detach()).square().mean().sqrt()}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Look at the first images of a run before anything is trained on them."""
        if self.iteration == 0 and self.on_images:
            low, high = float(batch[0].min()), float(batch[0].max())
            if low < -1.001 or high > 1.001 or not low < high:
                raise UserError(
                    f"data: expected images in [-1, 1], got pixels from {low:.4g} to {high:.4g}. Scale bytes by "
                    "1 / 127.5 and subtract 1"
                )
        super().training_step(batch, batch_idx)

    # ------------------------------------------------------------------------------------------ the divergence guard

    def check(self, iteration: int, terms: dict[str, float]) -> None:
        """Also find energies of data and samples that drift apart, and chains without an energy.

        Raises:
            DivergenceError: Says what is wrong, and since which iteration.
        """
        if (lost := terms.get("_lost_chains", 0)) > 0:
            where = f" at label {terms['_lost_label']:.0f}" if "_lost_label" in terms else ""
            raise DivergenceError(
                f"{lost:.0f} chains have energies that are not finite{where} at iteration {iteration}. Lower "
                "model.step_size or the learning rate"
            )
        super().check(iteration, terms)
        self._warn_of_long_steps(iteration, terms.get("step_rms", 0.0))
        if abs(gap := terms.get("energy_gap", 0.0)) > self.max_energy_gap:
            raise DivergenceError(
                f"energy_gap is {gap:.4g} at iteration {iteration}, beyond model.max_energy_gap "
                f"{self.max_energy_gap:.4g}: the chains no longer sample the energy. Lower the learning rate, or raise "
                "the number of Langevin steps"
            )

    def flush(self) -> None:
        """Log; if the run is lost, stop or restore the last good state."""
        if self.rollback is None:
            super().flush()
            return
        reason: DivergenceError | None = None
        try:
            super().flush()
        except DivergenceError as error:
            reason = error
        lost = torch.tensor(float(reason is not None), device=self.device)
        if float(mean_over_ranks([lost])[0]) == 0:
            self.rollback.remember(self)
        else:
            to = self.rollback.restore(self, reason)
            self.journal.write(self, {"train/rollbacks": float(self.rollback.num), "train/rolled_back_to": float(to)})

    def _warn_of_long_steps(self, iteration: int, rms: float) -> None:
        """Warn, once, if steps along the gradient are long for pixels and no test rejects them."""
        if rms > LONGEST_STEP and self.on_images and not self.tests_steps and not self._overstepped:
            self._overstepped = True
            rank_zero_warn(
                f"model.step_size: expected step times gradient of at most {LONGEST_STEP:g} per pixel, got {rms:.2g} "
                f"at iteration {iteration} (train/step_rms; pixels lie in [-1, 1]). Lower it, 0.05 works"
            )

    def get_extra_state(self) -> dict[str, Any]:
        """Also the number of times that the run was rolled back."""
        return super().get_extra_state() | {"rollbacks": self.rollback.num if self.rollback else 0}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Also the number of times that the run was rolled back."""
        super().set_extra_state(state)
        if self.rollback is not None:
            self.rollback.num = max(self.rollback.num, int(state["rollbacks"]))
