"""The kinds of players: generators draw samples, critics score them, energies are densities, encoders find latents."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pt_flows.bounds import Count, DecayRates, Positive
from pt_flows.contracts import (
    AddsNoise,
    CriticNet,
    EncoderNet,
    EnergyNet,
    GeneratorNet,
    OptimizerFactory,
    Shape,
    Source,
    Weights,
)
from pt_flows.errors import UserError
from pt_flows.functional.attacks import Attack
from pt_flows.training.noise import BLOCK, NoiseStream, StartingAt, given_or_new
from pt_flows.training.player import Player, adam
from pt_flows.training.requirements import check_agreement, check_network, check_no_batch_norm
from pt_flows.training.schedules import Schedule

N = TypeVar("N", bound=nn.Module)


def steady_adam(parameters: Iterable[Any]) -> Optimizer:
    """Return the default optimizer of energies: Adam with rate 5e-4 and betas 0 and 0.9."""
    return torch.optim.Adam(parameters, lr=5e-4, betas=(0.0, 0.9))


@final
class Generator(Player[GeneratorNet]):
    """A generator G from latents, or from data of another domain, to samples.

    Args:
        network: G, latents to samples.
        optimizer: Makes the optimizer from the parameters. Its state is kept between iterations.
        lr_schedule: Factor of the learning rate over the run.
        ema_decay: Decay of the average of the weights, or a list for several averages; None keeps no average.
        clip_norm: Longest gradient; None for no bound.
    """

    def __init__(
        self,
        network: GeneratorNet,
        optimizer: OptimizerFactory = adam,
        lr_schedule: Schedule = Schedule(),  # noqa: B008  immutable
        ema_decay: DecayRates = 0.999,
        clip_norm: Positive | None = None,
    ) -> None:
        check_network("model.generator.network", network, GeneratorNet)
        super().__init__(network, optimizer, lr_schedule, ema_decay, clip_norm)
        self.source: Source | None = None
        self.moves_data = False

    @property
    def event_shape(self) -> Shape:
        """Shape of one sample."""
        return self.network.event_shape

    @property
    def num_classes(self) -> int:
        """Number of classes that G is conditioned on; 0 for none."""
        return self.network.num_classes

    @property
    def latent_std(self) -> float:
        """Standard deviation of latents."""
        return self.network.latent_std

    def start_from(self, source: Source | None) -> None:
        """Take the starting points from data instead of noise, or from noise again.

        Raises:
            UserError: The source's samples do not have the shape of latents, or the generator has stochastic layers,
                whose noise is a part of the latent.
        """
        self.source, self.moves_data = source, source is not None
        if source is not None and any(isinstance(layer, AddsNoise) for layer in self.network.modules()):
            wanted = "expected 0, as a generator with stochastic layers cannot start from data"
            raise UserError(f"model.generator.network.noise_std: {wanted}, got noise. Set it to 0")
        latents = tuple(self.network.latent_shape)
        if source is not None and (got := tuple(source.event_shape)) != latents:
            raise UserError(
                f"data.source: expected samples of shape {latents}, as the latents of model.generator, got {got}. "
                "Give the generator the source's shape"
            )

    def latents(self, num: int, noise: NoiseStream) -> Tensor:
        """Fresh latents z (num, *latent_shape) for training: noise, or samples of the data's source."""
        if self.source is not None:
            return noise.draw(self.source.sample, num)
        return self.network.latent_std * noise.normal(num, *self.network.latent_shape)

    @torch.no_grad()
    def sample(
        self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None, weights: Weights = "ema"
    ) -> Tensor:
        """Push latents through the generator. Sample i is the same whatever the batching.

        Args:
            num: Number of samples.
            y: Labels (num,) for a class-conditional generator; drawn uniformly if None.
            rng: Source of randomness, on any device; None for the global one.
            weights: The averaged weights, or the raw ones of the last iteration.

        Returns:
            Samples (num, *event_shape) on the network's device.

        Raises:
            UserError: The labels do not fit, or the generator moves data and has no source.
        """
        rng = given_or_new(rng, next(self.network.parameters()).device)
        return torch.cat([self.push(z, weights, own) for z, own in self.blocks(num, y, rng)])

    def blocks(self, num: int, y: Tensor | None, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Draw inputs of any number of samples, as `inputs` does, in blocks of at most `BLOCK`.

        Raises:
            UserError: There is no sample, or the labels do not fit.
        """
        if num < 1:
            raise UserError(f"num: expected at least 1, got {num}")
        labels = None if y is None else self._checked_labels(y, num)
        for i in range(0, num, BLOCK):
            yield self.inputs(min(BLOCK, num - i), None if labels is None else labels[i : i + BLOCK], rng)

    def inputs(self, num: int, y: Tensor | None, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw inputs of the network, on its device: those of row i are the same for any number of rows.

        Args:
            num: Number of rows, at most `BLOCK`.
            y: Labels (num,) of a class-conditional generator; drawn uniformly if None.
            rng: Source of randomness, on any device.

        Returns:
            Latents (num, *latent_shape), or samples of the source, and labels (num,), None if there are no classes.
        """
        where = next(self.network.parameters())
        z = self.starting_points(BLOCK, rng)[:num].to(where)
        if y is not None:
            return z, self._checked_labels(y, num).to(where.device)
        if not self.num_classes:
            return z, None
        drawn = torch.randint(self.num_classes, (BLOCK,), generator=rng, device=rng.device)[:num]
        return z, drawn.to(where.device)

    def starting_points(self, num: int, rng: torch.Generator) -> Tensor:
        """Starting points (num, *latent_shape) for samples: noise, or samples of the data's source.

        Raises:
            UserError: The generator was trained to move data, and has no source here.
        """
        if self.source is not None:
            return self.source.sample(num, rng)
        if self.moves_data:
            lost = "expected the data set that this generator was trained to move, got none"
            raise UserError(f"generator.source: {lost}. Call start_from(source), or give samples to push(x)")
        shape = self.network.latent_shape
        if isinstance(rng, StartingAt):
            return self.network.latent_std * rng.normal(num, *shape)
        return self.network.latent_std * torch.randn(num, *shape, generator=rng, device=rng.device)

    @torch.no_grad()
    def push(self, z: Tensor, weights: Weights = "ema", y: Tensor | None = None) -> Tensor:
        """Map latents (and labels) to samples with the network in evaluation mode, 500 at a time."""
        inputs = zip(*(part.split(500) for part in (z, y) if part is not None), strict=True)
        with self.fixed(weights) as G:
            return torch.cat([G(*part) for part in inputs])

    def get_extra_state(self) -> dict[str, Any]:
        """Whether the generator starts from data."""
        return {"moves_data": self.moves_data}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore whether the generator starts from data."""
        self.moves_data = bool(state["moves_data"])

    def _checked_labels(self, y: Tensor, num: int) -> Tensor:
        if not self.num_classes:
            raise UserError("y: expected no labels, as the generator is not class-conditional. Omit them")
        if y.shape != (num,) or bool(((y < 0) | (y >= self.num_classes)).any()):
            got = f"shape {tuple(y.shape)} from {int(y.min())} to {int(y.max())}"
            raise UserError(f"y: expected labels of shape ({num},) in 0 ... {self.num_classes - 1}, got {got}")
        return y


@final
class Critic(Player[CriticNet]):
    """A critic or discriminator: samples to one value each.

    Args:
        network: The critic; without batch norm if its gradient is penalised.
        optimizer: Makes the optimizer from the parameters. Its state is kept between iterations.
        lr_schedule: Factor of the learning rate over the run.
        steps: Critic steps per iteration, each on a fresh minibatch.
        ema_decay: Decay of the average of the weights, or a list for several averages; None keeps no average.
        clip_norm: Longest gradient; None for no bound.
        attack: Hardens the critic: it moves data and samples against it before every loss. None for none.
    """

    def __init__(
        self,
        network: CriticNet,
        optimizer: OptimizerFactory = adam,
        lr_schedule: Schedule = Schedule(),  # noqa: B008  immutable
        steps: Count = 5,
        ema_decay: DecayRates = None,
        clip_norm: Positive | None = None,
        attack: Attack | None = None,
    ) -> None:
        check_network("model.critic.network", network, CriticNet)
        super().__init__(one_valued(network), optimizer, lr_schedule, ema_decay, clip_norm)
        self.steps, self.attack = steps, attack

    @property
    def event_shape(self) -> Shape:
        """Shape of one sample."""
        return self.network.event_shape

    @property
    def num_classes(self) -> int:
        """Number of classes that the critic is conditioned on; 0 for none."""
        return self.network.num_classes


@final
class Energy(Player[EnergyNet]):
    """An energy U, low on data: samples to one value each.

    Args:
        network: U, without batch norm: a sample's energy must not depend on the batch.
        optimizer: Makes the optimizer from the parameters. Its state is kept between iterations.
        lr_schedule: Factor of the learning rate over the run.
        ema_decay: Decay of the average of the weights, or a list for several averages; None keeps no average.
        clip_norm: Longest gradient; a longer one is scaled down. None for no bound.
        attack: Hardens the energy: it moves data and samples against it before every loss. None for none.
    """

    measures_gradients = True

    def __init__(
        self,
        network: EnergyNet,
        optimizer: OptimizerFactory = steady_adam,
        lr_schedule: Schedule = Schedule(),  # noqa: B008  immutable
        ema_decay: DecayRates = 0.999,
        clip_norm: Positive | None = None,
        attack: Attack | None = None,
    ) -> None:
        check_network("model.energy.network", network, EnergyNet)
        check_no_batch_norm("model.energy.network", network)
        super().__init__(one_valued(network), optimizer, lr_schedule, ema_decay, clip_norm)
        self.attack = attack

    @property
    def event_shape(self) -> Shape:
        """Shape of one sample."""
        return self.network.event_shape


@final
class Encoder(Player[EncoderNet]):
    """An encoder q(z | x): samples to Gaussians with independent coordinates over latents.

    Args:
        network: The encoder; without batch norm, so that latents of a sample do not depend on the batch.
        optimizer: Makes the optimizer from the parameters. Its state is kept between iterations.
        lr_schedule: Factor of the learning rate over the run.
        ema_decay: Decay of the average of the weights, or a list for several averages; None keeps no average.
        clip_norm: Longest gradient; None for no bound.
    """

    def __init__(
        self,
        network: EncoderNet,
        optimizer: OptimizerFactory = adam,
        lr_schedule: Schedule = Schedule(),  # noqa: B008  immutable
        ema_decay: DecayRates = 0.999,
        clip_norm: Positive | None = None,
    ) -> None:
        check_network("model.encoder.network", network, EncoderNet)
        network.register_forward_hook(_check_codes)
        super().__init__(network, optimizer, lr_schedule, ema_decay, clip_norm)

    @property
    def event_shape(self) -> Shape:
        """Shape of one sample."""
        return self.network.event_shape

    @torch.no_grad()
    def encode(self, x: Tensor, weights: Weights = "ema") -> Tensor:
        """Means (B, *latent_shape) of q(z | x) with the network in evaluation mode, 500 samples at a time."""
        with self.fixed(weights) as network:
            return torch.cat([network(part)[:, 0] for part in x.split(500)])


def check_pair(generator: Generator, critic: Critic) -> None:
    """Check that two players have the same samples and labels.

    Raises:
        UserError: They differ.
    """
    shape, classes = generator.event_shape, generator.num_classes
    check_agreement("model.critic.network", critic.network, "model.generator", shape, classes)


def check_codes(encoder: Encoder, generator: Generator) -> None:
    """Check that an encoder maps the samples of a generator to its latents.

    Raises:
        UserError: Shapes of samples or of latents differ.
    """
    check_agreement("model.encoder.network", encoder.network, "model.generator", generator.event_shape, 0)
    wanted, got = tuple(generator.network.latent_shape), tuple(encoder.network.latent_shape)
    if got != wanted:
        raise UserError(
            f"model.encoder.network: expected latents of shape {wanted}, as model.generator has, got {got}. "
            "Give both the same latent_dim"
        )


def check_unconditional(method: str, players: Sequence[Generator | Critic]) -> None:
    """Check that no network takes class labels.

    Raises:
        UserError: One does.
    """
    for player in players:
        if player.network.num_classes:
            wanted = f"expected num_classes 0, as {method} is not class-conditional"
            raise UserError(f"model.{player.role}.network: {wanted}, got {player.network.num_classes}. Set it to 0")


def check_takes_labels(energy: Energy, expected: bool) -> None:
    """Check that an energy takes noise levels as labels, or that it does not.

    Raises:
        UserError: It is of the other kind.
    """
    if energy.network.takes_labels != expected:
        wanted = "U(x, t), such as TimeMLPEnergy" if expected else "U(x), such as MLPEnergy"
        got = f"{type(energy.network).__name__}, which takes {'no ' if not energy.network.takes_labels else ''}labels"
        raise UserError(f"model.energy.network: expected {wanted}, got {got}. Use another network")


def one_valued(network: N) -> N:
    """Let a network raise from now on if it does not return one value per sample."""
    network.register_forward_hook(_check_values)
    return network


def _check_values(network: nn.Module, inputs: tuple[Tensor, ...], values: Tensor) -> None:
    if values.shape != inputs[0].shape[:1]:
        wanted = f"one value per sample, shape ({len(inputs[0])},)"
        advice = "Squeeze an axis of length one; of two softmax logits take the difference"
        raise UserError(f"{type(network).__name__}: expected {wanted}, got {tuple(values.shape)}. {advice}")


def _check_codes(network: EncoderNet, inputs: tuple[Tensor, ...], codes: Tensor) -> None:
    wanted = (len(inputs[0]), 2, *network.latent_shape)
    if tuple(codes.shape) != wanted:
        what = f"means and standard deviations of latents, shape {wanted}"
        raise UserError(f"{type(network).__name__}: expected {what}, got {tuple(codes.shape)}. Use an EncoderNet")
