"""The base of energy-based models: an energy U, the chains that sample exp(-U), and what keeps watch over both.

Training lowers U on data and raises it on samples: the gradient of mean U(x⁺) - mean U(x⁻) is that of the negative
log-likelihood where x⁻ follows exp(-U). A method says where x⁻ come from (`iterate`) and how to sample after training
(`sampling`). The value of that difference is no sign of convergence; it stays near zero while all is well.

A transition leaves parameters, their gradients and the network's mode as they were, and works in validation,
`inference_mode` and on averaged weights alike.
"""

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pt_flows.contracts import Batch, EnergyNet, Shape, Weights
from pt_flows.errors import DivergenceError, UserError
from pt_flows.functional.langevin import Chain, Energy, Rng, chain_at, normal_like
from pt_flows.loop.base import GenerativeModule, Terms, at_least, evaluation_mode, one_of, one_valued, positive
from pt_flows.loop.requirements import check_factory, check_network, check_samples
from pt_flows.training.distributed import mean_over_ranks
from pt_flows.training.ema import EMA
from pt_flows.training.replay import ReplayBuffer
from pt_flows.training.schedules import Decay

OnDivergence = Literal["stop", "roll_back"]

LONGEST_STEP = 0.1
"""Root mean square of step times gradient per pixel of [-1, 1] above which a sampler oversteps; 0.05 works."""


def adam(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """The optimizer where none is chosen: Adam with rate 5e-4 and betas 0 and 0.9, as in the recipes for toys."""
    return torch.optim.Adam(parameters, lr=5e-4, betas=(0.0, 0.9))


class EnergyModule(GenerativeModule):
    """Base of energy-based models.

    Args:
        energy: U, low on data: one value per sample.
        optimizer: Makes the energy's optimizer from its parameters.
        buffer: Where chains wait between iterations.
        lr_decay: How the learning rate falls over the run.
        warmup: Iterations over which the learning rate first rises from zero, in equal steps.
        clip_norm: Longest gradient; a longer one is scaled down. None for no bound.
        max_energy_gap: Largest |mean U(x⁺) - mean U(x⁻)| of a run that is not lost.
        on_divergence: "stop" with the reason, or "roll_back": take up the state of the last row of the log (weights,
            optimizer, chains and their steps) and go on with fresh noise.
        ema_decay: Decay of the average of U's weights.
    """

    float32_only = True
    data_noise: float = 0.0
    """Standard deviation of noise on the data, which the model is one of, in data units."""
    denoise: bool = False
    """Whether samples leave without that noise."""

    def __init__(
        self,
        energy: EnergyNet,
        optimizer: OptimizerCallable,
        buffer: ReplayBuffer,
        lr_decay: Decay = "constant",
        warmup: int = 0,
        clip_norm: float | None = None,
        max_energy_gap: float = 1e8,
        on_divergence: OnDivergence = "stop",
        ema_decay: float = 0.999,
    ) -> None:
        check_network("model.energy", energy, EnergyNet)
        check_factory("model.optimizer", optimizer)
        super().__init__(ema_decay)
        at_least("model.warmup", warmup, 0)
        positive("model.max_energy_gap", max_energy_gap)
        one_of("model.on_divergence", on_divergence, get_args(OnDivergence))
        if clip_norm is not None:
            positive("model.clip_norm", clip_norm)
        for path, layer in energy.named_modules():
            if isinstance(layer, _BatchNorm):
                raise UserError(
                    f"model.energy has batch norm ({path}): a sample's energy would depend on the batch around it; use "
                    "another normalisation, or none"
                )
        self.energy = one_valued(energy)
        self.ema = EMA(energy, self.ema_decay)
        self.buffer = buffer
        self.optimizer = optimizer
        self.lr_decay: Decay = lr_decay
        self.warmup, self.clip_norm = warmup, clip_norm
        self.max_energy_gap, self.rolls_back = max_energy_gap, on_divergence == "roll_back"
        self.rollbacks = 0
        self._overstepped = False
        self._good: dict[str, Any] | None = None
        # all processes hold the same chains, so nothing has to be sent around before a step
        self._ddp_params_and_buffers_to_ignore = [f"buffer.{name}" for name, _ in buffer.named_buffers()]

    # ------------------------------------------------------------------------------------- what a method provides

    @abstractmethod
    def sampling(self, num: int, rng: Rng, weights: Weights) -> Iterator[tuple[float, Tensor]]:
        """Run chains from noise to samples: yields the share of the work done and the points so far, samples last.

        Args:
            num: How many samples.
            rng: On this module's device.
            weights: The averaged weights, or the raw ones.
        """

    @abstractmethod
    def walk(self, x: Tensor, num_steps: int, rng: Rng, weights: Weights = "ema") -> tuple[Chain, Tensor]:
        """Steps of chains from data, as in training but without other jumps: chains, and mean acceptance (B,).

        Args:
            x: Where chains start (B, *event).
            num_steps: How many steps.
            rng: On this module's device.
            weights: The averaged weights, or the raw ones.
        """

    # ----------------------------------------------------------------------------------------------- energy and chains

    @property
    def averaged_network(self) -> EnergyNet:
        """U: what the moving average follows."""
        return self.energy

    @property
    def event_shape(self) -> Shape:
        """Shape of one sample."""
        return self.energy.event_shape

    @contextmanager
    def fixed(self, weights: Weights = "raw") -> Iterator[EnergyNet]:
        """The energy as one function of its arguments, for the time of a transition: in evaluation mode."""
        network: EnergyNet = self.ema.network if weights == "ema" else self.energy
        with evaluation_mode(network):
            yield network

    def clean_energy(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """U of data (B,), without gradients, in chunks; the density is proportional to exp(-U)."""
        with self.fixed(weights) as U, torch.no_grad():
            return torch.cat([U(part) for part in x.split(self.chunk)])

    def of_data(self, network: EnergyNet) -> Energy:
        """The energy of data: a function of points alone."""
        return network

    @property
    def tests_steps(self) -> bool:
        """Whether a test refuses steps that are too long."""
        return False

    @property
    def chunk(self) -> int:
        """Points of one call of the energy where there are many: 500 images, more of what is small."""
        return max(500, 20_000 // math.prod(self.event_shape))

    @torch.no_grad()
    def sample(
        self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None, weights: Weights = "ema"
    ) -> Tensor:
        """Samples (num, *event) of chains that start from noise.

        Raises:
            UserError: Class labels are given.
        """
        at_least("num", num, 1)
        if y is not None:
            raise UserError(f"{type(self).__name__} is not class-conditional: call sample without labels")
        seed = torch.randint(2**62, (), generator=rng, device=rng.device if rng else None)
        steps = self.sampling(num, torch.Generator(self.device).manual_seed(int(seed)), weights)
        _, x = deque(steps, maxlen=1).pop()
        check_samples(f"{type(self).__name__}.sampling", x, num, self.event_shape)
        return self.finished(x, weights)

    # ---------------------------------------------------------------------------------------------- noise on the data

    def with_data_noise(self, x: Tensor, rng: Rng) -> Tensor:
        """Data (B, *event) with the noise that is a part of the model."""
        return x + self.data_noise * normal_like(x, rng) if self.data_noise else x

    @property
    def sample_noise(self) -> float:
        """Standard deviation of the noise on samples of a perfect model."""
        return 0.0 if self.denoise else self.data_noise

    def finished(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """Samples as they leave: denoised if wanted."""
        return self.denoised(x, weights) if self.denoise else x

    def denoised(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """The mean of clean data given noisy points (B, *event): x - σ² ∇U(x) (Tweedie), σ the data noise."""
        with self.fixed(weights) as U:
            slopes = [chain_at(self.of_data(U), part).gradient for part in x.split(self.chunk)]
        return x - self.data_noise**2 * torch.cat(slopes)

    def check_samples(self) -> None:
        """Nothing before training: chains take long, and `sample` looks at what they end in."""

    # ------------------------------------------------------------------------------------------------------ training

    def descend(self, loss: Tensor) -> Terms:
        """One optimizer step of the energy's parameters; the norm of the gradient, before it is cut to `clip_norm`."""
        optimizer: Any = self.optimizers()
        parameters = self.set_gradients(loss, optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, self.clip_norm or float("inf"))
        optimizer.step()
        return {"gradient_norm": norm.detach()}

    def watched(self, u_data: Tensor, u_model: Tensor, x_model: Tensor) -> Terms:
        """What shows how training fares: both mean energies, their gap, and how much of the images is saturated."""
        terms = {"energy_data": u_data.detach().mean(), "energy_model": u_model.detach().mean()}
        terms["energy_gap"] = terms["energy_data"] - terms["energy_model"]
        if len(self.event_shape) == 3:
            terms["saturated"] = (x_model.abs() >= 1).float().mean()
        return terms

    def step_length(self, step: Tensor | float, gradient: Tensor) -> Terms:
        """Root mean square per coordinate of the last step of chains along the gradient.

        Args:
            step: What gradients are multiplied by, one for all or (B,).
            gradient: ∇U (B, *event).
        """
        step = torch.as_tensor(step, device=gradient.device).reshape(-1, *[1] * (gradient.dim() - 1))
        return {"step_rms": (step * gradient.detach()).square().mean().sqrt()}

    def warn_of_long_steps(self, iteration: int, rms: float) -> None:
        """Warn, once, where steps along the gradient are long for pixels and no test refuses them."""
        if rms > LONGEST_STEP and len(self.event_shape) == 3 and not self.tests_steps and not self._overstepped:
            self._overstepped = True
            rank_zero_warn(
                f"model.step_size: expected step times gradient of at most {LONGEST_STEP:g} per pixel, got {rms:.2g} "
                f"at iteration {iteration} (train/step_rms; pixels lie in [-1, 1]). Lower it, 0.05 works"
            )

    def configure_optimizers(self) -> Any:
        """The energy's optimizer and its schedule, stepped once per iteration."""
        self.needs_an_end("lr_decay", self.lr_decay)
        optimizer = self.optimizer(self.energy.parameters())
        return [optimizer], [self.decayed(optimizer, self.lr_decay, self.warmup)]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Look at the first images of a run before anything is trained on them."""
        if self.iteration == 0 and len(self.event_shape) == 3:
            low, high = float(batch[0].min()), float(batch[0].max())
            if low < -1.001 or high > 1.001 or not low < high:
                raise UserError(
                    f"the data serve pixels from {low:.4g} to {high:.4g}; an energy-based model takes images in "
                    "[-1, 1]: scale bytes by 1 / 127.5 and subtract 1"
                )
        super().training_step(batch, batch_idx)

    # ------------------------------------------------------------------------------------------ the divergence guard

    def check_terms(self, iteration: int, terms: dict[str, float]) -> None:
        """Also refuse energies of data and samples that drift apart, and chains without an energy.

        Raises:
            DivergenceError: Says what is wrong, and since which iteration.
        """
        if (lost := terms.get("_lost_chains", 0)) > 0:
            where = f" at label {terms['_lost_label']:.0f}" if "_lost_label" in terms else ""
            raise DivergenceError(
                f"{lost:.0f} chains have energies that are not finite{where} at iteration {iteration}. Lower "
                "model.step_size or the learning rate"
            )
        super().check_terms(iteration, terms)
        self.warn_of_long_steps(iteration, terms.get("step_rms", 0.0))
        if abs(gap := terms.get("energy_gap", 0.0)) > self.max_energy_gap:
            raise DivergenceError(
                f"energy_gap is {gap:.4g} at iteration {iteration}, beyond model.max_energy_gap "
                f"{self.max_energy_gap:.4g}: the chains no longer sample the energy. Lower the learning rate, or raise "
                "the number of Langevin steps"
            )

    def flush_terms(self) -> None:
        """Log; where the run is lost, stop or take up the last good state."""
        if not self.rolls_back:
            super().flush_terms()
            return
        reason: DivergenceError | None = None
        try:
            super().flush_terms()
        except DivergenceError as error:
            reason = error
        lost = torch.tensor(float(reason is not None), device=self.device)
        if float(mean_over_ranks([lost])[0]) == 0:
            self.remember()
        elif self._good is None:
            raise reason or DivergenceError("another process diverged before there was a state to go back to")
        else:
            self.roll_back(reason)

    def remember(self) -> None:
        """Keep a copy of everything that training changes."""
        optimizer: Any = self.optimizers()
        self._good = {
            "module": _copied(self.state_dict()),
            "optimizer": _copied(optimizer.optimizer.state_dict()),
            "iteration": self.iteration,
        }

    def roll_back(self, reason: DivergenceError | None) -> None:
        """Take up the last good state, chains included; iterations, seconds and noise go on, or it would happen again.

        Args:
            reason: What went wrong, if it went wrong on this process.
        """
        assert self._good is not None
        iteration, seconds, good = self.iteration, self.seconds, _copied(self._good)
        self.rollbacks += 1
        self.load_state_dict(good["module"])
        optimizer: Any = self.optimizers()
        optimizer.optimizer.load_state_dict(good["optimizer"])
        self.iteration, self.seconds = iteration, seconds
        rank_zero_warn(f"{reason} -- rolled back to the state of iteration {good['iteration']}")
        self.write({"train/rollbacks": float(self.rollbacks), "train/rolled_back_to": float(good["iteration"])})

    def get_extra_state(self) -> dict[str, Any]:
        """Also how often the run was rolled back."""
        return super().get_extra_state() | {"rollbacks": self.rollbacks}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Also how often the run was rolled back."""
        super().set_extra_state(state)
        self.rollbacks = max(self.rollbacks, int(state.get("rollbacks", 0)))


def _copied(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return type(state)((key, _copied(value)) for key, value in state.items())
    if isinstance(state, list | tuple):
        return type(state)(map(_copied, state))
    return state
