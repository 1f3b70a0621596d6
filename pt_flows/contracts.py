"""The contracts between the parts of a run.

Networks, data and methods never import one another. They meet in the configuration file, and these types make them
fit: the shapes that a network declares, the batch that a method receives, and the capabilities of methods.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pt_flows.bounds import Form
from pt_flows.construction import Constructed

Shape = tuple[int, ...]
Batch = tuple[Tensor, Tensor]
"""Data and targets `(x, y)`: x float (B, *event), images in [-1, 1], toys in data units. Targets are labels int64 (B,),
zeros if there are none; data for predictions may also have float values (B,), or labels of every step (B, T)."""

Terms = dict[str, Tensor]
"""The report of one iteration: detached scalars on the device. A term may be missing in some iterations. If its name
begins with an underscore, it must be finite but is not logged."""

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
"""Maker of an optimizer from parameters: a class, or a partial one such as `partial(torch.optim.Adam, lr=1e-3)`."""

POWER = "power@"
Weights = Annotated[
    str,
    Form(
        r"ema|raw|ema@0\.(0|\d*[1-9])|power@0\.\d*[1-9]",
        "ema, raw or ema@ with a decay, such as ema@0.9999, or power@ with a width, such as power@0.08",
    ),
]
"""The weights of a method: their average, those of the last iteration, the average with one of several decays, or the
power-function average of a width that is chosen after training."""
Split = Literal["train", "test"]


class Source(Protocol):
    """Data that a generator may map instead of noise."""

    event_shape: Shape

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Draw independent samples (num, *event) on the device of `rng`."""
        ...


class Maps(Protocol):
    """A trained map from latents to samples."""

    event_shape: Shape
    num_classes: int
    """Number of classes that it is conditioned on; 0 for none."""
    latent_std: float
    """Standard deviation of its latents, if they are noise."""
    moves_data: bool
    """Whether it maps data instead of noise."""

    def start_from(self, source: Source | None) -> None:
        """Take the starting points from data instead of noise."""
        ...

    def sample(
        self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None, weights: Weights = "ema"
    ) -> Tensor:
        """Draw samples (num, *event)."""
        ...

    def starting_points(self, num: int, rng: torch.Generator) -> Tensor:
        """Draw starting points (num, *latent_shape): noise, or samples of the data's source."""
        ...

    def inputs(self, num: int, y: Tensor | None, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw starting points and labels on its device; those of row i are the same for any number of rows."""
        ...

    def weighted(self, weights: Weights) -> nn.Module:
        """Return the network with the averaged or the raw weights."""
        ...

    def fixed(self, weights: Weights) -> AbstractContextManager[nn.Module]:
        """Return the network in evaluation mode, inside a `with` block."""
        ...

    def push(self, z: Tensor, weights: Weights = "ema", y: Tensor | None = None) -> Tensor:
        """Map latents (num, *latent_shape) to samples (num, *event)."""
        ...


class Scores(Protocol):
    """A trained critic."""

    num_classes: int
    """Number of classes that it is conditioned on; 0 for none."""

    def keeps(self, weights: Weights) -> bool:
        """Whether there are such weights."""
        ...

    def fixed(self, weights: Weights) -> AbstractContextManager[nn.Module]:
        """Return the network in evaluation mode, inside a `with` block."""
        ...


# The capabilities of methods. Callbacks, samplers and evaluation ask for these, and never for a class.


@runtime_checkable
class MapsLatents(Protocol):
    """A method with a generator."""

    generator: Maps


@runtime_checkable
class HasCritic(Protocol):
    """A method with a critic, which is high on data."""

    critic: Scores


@runtime_checkable
class Samples(Protocol):
    """A method that draws samples in its own way."""

    def sample(
        self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None, weights: Weights = "ema"
    ) -> Tensor:
        """Draw samples (num, *event) on the method's device.

        Args:
            num: Number of samples.
            y: Labels (num,) for a class-conditional method.
            rng: Random generator on any device; None for the global one.
            weights: The averaged weights, or the raw ones of the last iteration.
        """
        ...


@runtime_checkable
class HasEnergy(Protocol):
    """A method with an energy U: the density of data is proportional to exp(-U)."""

    data_noise: float
    """Standard deviation, in data units, of the noise on the data that is a part of the model."""

    def clean_energy(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """Return U of data (B,), without gradients."""
        ...


@runtime_checkable
class RunsChains(HasEnergy, Protocol):
    """A method whose samples are ends of Markov chains under its energy."""

    event_shape: Shape
    buffer: Any
    """The chains between iterations: points and labels."""
    denoise: bool
    """Whether samples are returned without the noise on the data."""

    def sampling(self, num: int, rng: torch.Generator, weights: Weights) -> Iterator[tuple[float, Tensor]]:
        """Run chains from noise: yield the fraction of the work done and the points so far, samples last."""
        ...

    def with_data_noise(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Add the noise that is a part of the model to data (B, *event)."""
        ...

    def finished(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """Turn the ends of chains (B, *event) into samples, denoised if `denoise` is true."""
        ...

    def walk(self, x: Tensor, num_steps: int, rng: torch.Generator, weights: Weights = "ema") -> tuple[Any, Tensor]:
        """Move chains from data (B, *event) as in training, and return them with their mean acceptance (B,)."""
        ...


@runtime_checkable
class HasLevels(RunsChains, Protocol):
    """A method whose energy takes a noise level: U(x, t) for t in 0 (data) to num_labels - 1."""

    num_labels: int
    num_langevin_steps: int
    step_sizes: Any
    """Langevin steps of every level, with their acceptance."""
    jumps: Tensor
    """Counts of jumps of chains from level to level."""
    noising: Any
    """The noise schedule a_t, b_t."""

    def log_levels(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """Return -U(x, t) for all levels (B, num_labels)."""
        ...

    def transition(self, x: Tensor, t: Tensor, rng: torch.Generator, weights: Weights = "raw") -> Any:
        """Move chains at points (B, *event) and levels (B,) by one transition."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """A method that finds latents of data."""

    def encode(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """Return latents (B, *latent_shape) of data (B, *event), such as the mean of q(z | x), without gradients."""
        ...


@runtime_checkable
class Predicts(Protocol):
    """A method that predicts the targets of data."""

    def predict(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """Return predictions for data (B, *event): logits (B, C), logits of every step (B, T, C), or values (B,).

        They are differentiable in x, because attacks follow gradients, unless the caller turns gradients off.
        """
        ...


@runtime_checkable
class BoundsLikelihood(Protocol):
    """A method that bounds the log-likelihood of data from below."""

    def likelihood_bound(
        self, x: Tensor, num_importance_samples: int, rng: torch.Generator, weights: Weights = "ema"
    ) -> Tensor:
        """Return unbiased estimates (B,) of a lower bound of log p(x) in nats, without gradients.

        Args:
            x: Data (B, *event) on the method's device.
            num_importance_samples: Importance samples of every x.
            rng: Source of randomness, on the method's device.
            weights: The averaged weights, or the raw ones.
        """
        ...


@runtime_checkable
class HasPotential(Protocol):
    """A method that moves particles along the gradient of a function."""

    def values(self, y: Tensor) -> Tensor:
        """Return the function, which is high on data: (B, *event) to (B,)."""
        ...


@runtime_checkable
class ShortensPaths(Protocol):
    """A flow whose exact step moves particles a fraction of the way to the data, which shortens W2 by this fraction."""

    fraction_of_the_way: float


@runtime_checkable
class AddsNoise(Protocol):
    """A layer of a generator that adds noise, which is a part of the generator's latent."""

    num_units: int
    """Number of entries of the latent that are this layer's noise."""

    @property
    def sigma(self) -> Tensor:
        """Standard deviations of the noise (C,)."""
        ...


@runtime_checkable
class HasMatrix(Protocol):
    """A generator x = φ(A z) of one layer."""

    A: nn.Parameter
    """The matrix (d, k)."""


class Consumer(Protocol):
    """The view that data have of a method: its progress and its demand."""

    @property
    def iteration(self) -> int:
        """Number of finished iterations."""
        ...

    @property
    def minibatches_per_iteration(self) -> int:
        """Number of minibatches of one iteration."""
        ...


class GeneratorNet(Constructed, nn.Module):
    """Base of generators: maps latents (B, *latent_shape) to samples (B, *event_shape).

    Latents are drawn from N(0, latent_std² I). If `num_classes` is above zero, forward also takes labels (B,).
    """

    latent_shape: Shape
    event_shape: Shape
    latent_std: float = 1.0
    num_classes: int = 0


class FlowNet(GeneratorNet):
    """Base of flows: generators that move latents along a velocity v(x, t) from t = 0 to 1.

    Latents have the shape of samples. `flow(x, t)` returns the velocity (B, *event_shape) at times (B,). `flow(z)`
    returns samples, the ends of the paths from latents, and evaluates `flow(x, t)` for it. Costs count velocities.
    """

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """Return the velocity at times (B,), or samples from latents."""
        raise NotImplementedError


class DecoderNet(GeneratorNet):
    """Base of decoders: generators whose samples are means of a distribution p(x | z).

    `decoder(z)` returns the mean (B, *event_shape) in data units, so that a decoder is a generator everywhere.
    `decoder(z, x)` returns log p(x | z) in nats, (B,), in the precision of x.
    """

    def forward(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """Return the mean of p(x | z), or log p(x | z) of given data."""
        raise NotImplementedError

    def draw(self, mean: Tensor, noise: Tensor) -> Tensor:
        """Draw data from p(x | z), given its mean and standard normal noise, both (B, *event_shape)."""
        raise NotImplementedError

    def supports(self, x: Tensor) -> Tensor:
        """Whether p(x | z) is defined at every value of the data (B, *event_shape): booleans of the same shape."""
        return x.isfinite()


class EncoderNet(Constructed, nn.Module):
    """Base of encoders: maps (B, *event_shape) to a Gaussian with independent coordinates over latents.

    `encoder(x)` returns its means and its positive standard deviations, (B, 2, *latent_shape).
    """

    event_shape: Shape
    latent_shape: Shape


class CriticNet(Constructed, nn.Module):
    """Base of critics and discriminators: maps (B, *event_shape) to one unbounded value per sample, (B,).

    If `num_classes` is above zero, forward also takes labels (B,).
    """

    event_shape: Shape
    num_classes: int = 0


class EnergyNet(Constructed, nn.Module):
    """Base of energies U, with p(x) proportional to exp(-U(x)): maps (B, *event_shape) to one value per sample, (B,).

    U is low on data. If `takes_labels` is true, forward also takes labels (B,): U(x, t). A network in which much
    depends on labels alone overrides `conditions` and `at`, so that a chain at fixed labels computes it once. One in
    which much depends on points alone overrides `every` as well, for exact draws of labels. Chains of a subclass that
    overrides `forward` alone call that.

    Attributes:
        conditioned: Whether chains call `at` and `every`.
    """

    event_shape: Shape
    takes_labels: bool = False
    conditioned: bool = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Tell chains which of the methods describe the energy of this class."""
        super().__init_subclass__(**arguments)
        own = vars(cls)
        if "forward" in own or "at" in own:
            cls.conditioned = "at" in own
        if "at" in own and "every" not in own:
            cls.every = EnergyNet.every

    def conditions(self, t: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors that depend on labels (B,) alone; by default the labels."""
        return (t,)

    def at(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """Return U(x, t) (B,), given `conditions(t)`."""
        return self(x, *conditions)

    def every(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return U(x, t) (B, L) at each of the labels (L,)."""
        rows = self.conditions(labels.repeat(len(x)))
        return self.at(x.repeat_interleave(len(labels), 0), *rows).view(-1, len(labels))

    def parts(self, x: Tensor) -> Tensor:
        """Return energies (B, S) whose sum is U(x); one column unless the energy is a product of experts."""
        return self(x)[:, None]


class PredictorNet(Constructed, nn.Module):
    """Base of classifiers and regressors: maps (B, *event_shape) to logits (B, num_classes).

    A network with a prediction at every step of a sequence returns logits (B, T, num_classes). If `num_classes` is
    zero, it returns values (B,).
    """

    event_shape: Shape
    num_classes: int = 0


class RecurrentNet(PredictorNet):
    """Base of networks with one recurrent layer: s_t = tanh(U x_t + W s_{t-1} + b), logits V s_t + c.

    Sequences are (B, T, F). Logits are (B, C) after the last step if `outputs` is "last", or (B, T, C) if it is "all".
    """

    outputs: Literal["last", "all"] = "last"

    def matrices(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return U (H, F), W (H, H), b (H,), V (C, H) and c (C,)."""
        raise NotImplementedError

    def take(self, U: Tensor, W: Tensor, b: Tensor, V: Tensor, c: Tensor) -> None:
        """Set them."""
        raise NotImplementedError
