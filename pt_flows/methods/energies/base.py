"""The base of energy-based models: an energy U, the chains that sample exp(-U), and a guard against divergence.

Training lowers U on data and raises it on samples: the gradient of mean U(x⁺) - mean U(x⁻) is that of the negative
log-likelihood if x⁻ follows exp(-U). A method defines the x⁻ of training (`iterate`) and the samples after training
(`sampling`). The value of that difference is no sign of convergence; it stays near zero in a healthy run.

A transition changes neither parameters nor their gradients nor the network's mode. It also works in validation, in
`inference_mode` and on averaged weights.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from pt_flows.bounds import Positive
from pt_flows.contracts import Batch, EnergyNet, Shape, Terms, Weights
from pt_flows.errors import DivergenceError, UserError, warn
from pt_flows.functional.langevin import Chain, Rng, chain_at, normal_like
from pt_flows.functional.langevin import Energy as EnergyFunction
from pt_flows.loop.method import Method
from pt_flows.methods.energies.rollback import Rollback
from pt_flows.methods.energies.sums import SumEnergy
from pt_flows.methods.energies.watch import LONGEST_STEP, check_pixels
from pt_flows.training.distributed import mean_over_ranks
from pt_flows.training.players import Energy
from pt_flows.training.replay import ReplayBuffer
from pt_flows.training.steps import attacked

OnDivergence = Literal["stop", "roll_back"]


def check_denoise(denoise: bool, data_noise: float) -> None:
    """Check that there is noise to remove.

    Raises:
        UserError: There is none.
    """
    if denoise and not data_noise:
        raise UserError("model.denoise: expected data_noise above 0, got 0. Set model.data_noise")


class EnergyMethod(Method):
    """Base of energy-based models.

    Args:
        energy: U, low on data: one value per sample.
        buffer: Buffer that keeps the chains between iterations.
        max_energy_gap: Largest |mean U(x⁺) - mean U(x⁻)|; a run beyond it has diverged.
        on_divergence: "stop" with the reason, or "roll_back": restore the state of the last row of the log (weights,
            optimizer, chains and their steps) and continue with fresh noise.
    """

    float32_only = True
    training_state = ("buffer",)
    data_noise: float = 0.0
    """Standard deviation of noise on the data that is a part of the model, in data units."""
    denoise: bool = False
    """Whether that noise is removed from samples."""

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
        # all processes hold the same chains, so DDP need not broadcast them before a step
        self._ddp_params_and_buffers_to_ignore = [f"buffer.{name}" for name, _ in buffer.named_buffers()]

    # -------------------------------------------------------------------------------------- for a method to override

    @abstractmethod
    def sampling(self, num: int, rng: Rng, weights: Weights) -> Iterator[tuple[float, Tensor]]:
        """Run chains from noise to samples: yield the fraction of the work done and the points so far, samples last.

        Args:
            num: Number of samples.
            rng: Generator on this method's device.
            weights: The averaged weights, or the raw ones.
        """

    @abstractmethod
    def walk(self, x: Tensor, num_steps: int, rng: Rng, weights: Weights = "ema") -> tuple[Chain, Tensor]:
        """Move chains from data, as in training but without other jumps: the chains, and mean acceptance (B,).

        Args:
            x: Starting points (B, *event).
            num_steps: Number of steps.
            rng: Generator on this method's device.
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
        """Largest number of points in one call of the energy: 500 images, or more small events."""
        return max(500, 20_000 // math.prod(self.event_shape))

    def clean_energy(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """U of data (B,), without gradients, in chunks; the density is proportional to exp(-U)."""
        with self.energy.fixed(weights) as U, torch.no_grad():
            energy = self.of_data(U)
            return torch.cat([energy(part) for part in x.split(self.chunk)])

    def with_data_noise(self, x: Tensor, rng: Rng) -> Tensor:
        """Data (B, *event) with the noise that is a part of the model."""
        return x + self.data_noise * normal_like(x, rng) if self.data_noise else x

    def finished(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """Samples from the ends of chains: denoised if `denoise` is set."""
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
        for average in energy.averages:
            average.network = SumEnergy(average.network, averaged)

    # ------------------------------------------------------------------------------------------------------ training

    def descend(self, loss: Tensor) -> Terms:
        """Take one optimizer step of the energy, and return the norm of its gradient before clipping."""
        self.energy.step(loss)
        assert self.energy.gradient_norm is not None
        return {"gradient_norm": self.energy.gradient_norm}

    def attacked(self, x: Tensor, y: Tensor, *labels: Tensor) -> tuple[Tensor, Tensor]:
        """Data and ends of chains (B, *event), moved against the energy by its attack, if it has one.

        Args:
            x: Data.
            y: Ends of chains.
            labels: Labels of data and of chains, each (B,), for U(x, t).
        """
        if self.energy.attack is None:
            return x, y
        with self.energy.fixed() as U:
            own = [[t] for t in labels] or [[], []]
            of_data, of_chains = (lambda u, t=t: -U(u, *t) for t in own)
            return attacked(self.energy.attack, of_data, x, y, of_chains)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Check the first images of a run before anything is trained on them."""
        if self.iteration == 0 and self.on_images:
            check_pixels(batch[0])
        super().training_step(batch, batch_idx)

    # ------------------------------------------------------------------------------------------ the divergence guard

    def check(self, iteration: int, terms: dict[str, float]) -> None:
        """Check also that energies of chains are finite, and that those of data and samples stay close.

        Raises:
            DivergenceError: They do not, or a term is not finite.
        """
        if (lost := terms.get("_lost_chains", 0)) > 0:
            where = f" at label {terms['_lost_label']:.0f}" if "_lost_label" in terms else ""
            fault = f"{lost:.0f} chains have energies that are not finite{where} at iteration {iteration}"
            raise DivergenceError(f"{fault}. Lower model.step_size or the learning rate")
        super().check(iteration, terms)
        self._warn_of_long_steps(iteration, terms.get("step_rms", 0.0))
        if abs(gap := terms.get("energy_gap", 0.0)) > self.max_energy_gap:
            limit = f"beyond model.max_energy_gap {self.max_energy_gap:.4g}"
            advice = "Lower the learning rate, or raise the number of Langevin steps"
            raise DivergenceError(f"energy_gap is {gap:.4g} at iteration {iteration}, {limit}. {advice}")

    def flush(self) -> None:
        """Write the terms since the last row of the log; if the run diverges, stop or restore the last good state."""
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
        """Warn once if steps along the gradient are long for pixels and no test rejects them."""
        if rms > LONGEST_STEP and self.on_images and not self.tests_steps and not self._overstepped:
            self._overstepped = True
            warn(
                f"model.step_size: expected step times gradient of at most {LONGEST_STEP:g} per pixel, got {rms:.2g} "
                f"at iteration {iteration} (train/step_rms; pixels lie in [-1, 1]). Lower it, 0.05 works"
            )

    def get_extra_state(self) -> dict[str, Any]:
        """The state of a method, and the number of rollbacks."""
        return super().get_extra_state() | {"rollbacks": self.rollback.num if self.rollback else 0}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state of a method, and the number of rollbacks."""
        super().set_extra_state(state)
        if self.rollback is not None:
            self.rollback.num = max(self.rollback.num, int(state["rollbacks"]))
