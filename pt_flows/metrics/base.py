"""The base of metrics of generated samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.backends import cuda, cudnn
from torchmetrics import Metric

from pt_flows.construction import Constructed
from pt_flows.contracts import Shape, Split
from pt_flows.errors import UserError
from pt_flows.functional.pixels import as_points, as_uint8
from pt_flows.training.noise import generator_at

Direction = Literal["higher", "lower", ""]
"""The better values of a number; empty if no direction makes sense."""

SECOND = "_second"
"""End of the names of numbers that were measured with the next samples of a split, for the choice of a recipe."""


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in float32 without TensorFloat-32 or autocast, so that numbers do not depend on the GPU or the run."""
    before = cudnn.allow_tf32, cuda.matmul.allow_tf32
    cudnn.allow_tf32 = cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        cudnn.allow_tf32, cuda.matmul.allow_tf32 = before


class RealData(Protocol):
    """Data that a metric compares samples with."""

    event_shape: Shape

    def reference(self, split: Split, num: int | None = None) -> Tensor:
        """Fixed real samples: floats (num, 2) for toys, uint8 (num, C, H, W) for images."""
        ...


def real_samples(data: RealData, num: int, split: Split = "test", where: str = "") -> Tensor:
    """The first `num` fixed samples of a split, as methods see them.

    Args:
        data: The data.
        num: Number of samples.
        split: The split.
        where: The argument that says how many, for errors.

    Raises:
        UserError: The split has fewer.
    """
    try:
        return as_points(data.reference(split, num))
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from error


class SampleMetric(Constructed, Metric, ABC):
    """A distance between generated and real samples.

    The callback calls `prepare` once, before training, so that missing weights or data stop the run at its start; then
    `update` with batches of generated samples, the same batches for all metrics; then `compute`. States are summed or
    gathered over ranks by torchmetrics.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    split: Split = "train"
    held_out: ClassVar[bool] = False
    """Whether real samples are those of the test split, unless another one is asked for."""
    needs_samples: ClassVar[bool] = True
    """Whether generated samples are measured. Predictions and their metrics need none."""
    sample_noise: float = 0.0
    """Standard deviation of the noise on samples of a perfect model, in data units. Floors have it too."""
    lacks: str = ""
    """The property that the data lack for any numbers; `prepare` sets it. Empty if there are some."""
    data_noise: float = 0.0
    """Standard deviation of the noise on the data that the model includes, in data units. Energies are of such data."""

    def __getnewargs__(self) -> tuple[()]:
        """A copy is made without the arguments of the constructor, in place of those that torchmetrics gives."""
        return ()

    def floor_samples(self, data: RealData, split: Split, num: int) -> Tensor:
        """Samples of a perfect model: `reference`, with the noise of the model's samples."""
        x = data.reference(split, num)
        if not self.sample_noise:
            return x
        images = x.dtype == torch.uint8
        points = as_points(x)
        noise = torch.randn(points.shape, generator=generator_at("cpu", "floor", split), dtype=points.dtype)
        noisy = points + self.sample_noise * noise
        return as_uint8(noisy) if images else noisy

    @abstractmethod
    def prepare(self, data: RealData, num_samples: int) -> None:
        """Read the reference and reject data that this metric cannot measure.

        Args:
            data: The source of real samples.
            num_samples: The number of generated samples of each evaluation.

        Raises:
            UserError: The metric does not apply, or lacks data or weights.
        """

    def use_other_samples(self) -> None:
        """Measure against real samples that final numbers do not use, from the next `prepare` on.

        Here they are those of the other split. A metric of predictions overrides it: a method has learned the training
        split.
        """
        self.use_split(other_split(self.split))

    def use_split(self, split: Split) -> None:
        """Measure against this split of the data from the next `prepare` on, if the metric has splits."""
        self.split = split

    def update_map(self, push: Callable[[Tensor], Tensor]) -> None:
        """Measure a map between domains. Called once before `update`; most metrics ignore it.

        Args:
            push: Maps source samples (B, *event) on the metric's device; every rank may map all or some.
        """

    def update_energy(self, energy: Callable[[Tensor], Tensor]) -> None:
        """Measure a density. Called once before `update`; most metrics ignore it.

        Args:
            energy: U (B,) of points (B, *event) on the metric's device.
        """

    def update_likelihood(self, bound: Callable[[Tensor, int, torch.Generator], Tensor]) -> None:
        """Measure a bound of the log-likelihood. Called once before `update`; most metrics ignore it.

        Args:
            bound: Lower bounds (B,) in nats of log p at points (B, *event) on the metric's device, given the number of
                importance samples and a source of randomness.
        """

    def update_encoder(self, encode: Callable[[Tensor], Tensor]) -> None:
        """Measure an inverse of a simulator. Called once after `update_map`; most metrics ignore it.

        Args:
            encode: Infers latents (B, K) of simulated data from observations (B, *event) on the metric's device.
        """

    def update_predictor(self, predict: Callable[[Tensor], Tensor]) -> None:
        """Measure predictions. Called once before `update`; most metrics ignore it.

        Args:
            predict: Predictions of data (B, *event) on the metric's device, differentiable in the data.
        """

    @property
    @abstractmethod
    def key(self) -> str:
        """Name of the number that runs are ranked by, which includes the protocol."""

    def details(self) -> dict[str, str]:
        """Details on which numbers depend beyond names, reference and number of samples, after `prepare`."""
        return {}

    def directions(self) -> dict[str, Direction]:
        """The direction of every number of the last `compute`.

        Floors have no direction, and all other numbers have that of `higher_is_better`. A metric whose numbers have
        different directions extends this.
        """
        own = "higher" if self.higher_is_better else "lower"
        return {key: "" if key.endswith("_floor") else own for key in self.compute()}


def other_split(split: Split) -> Split:
    """The split of the data that is not `split`."""
    return "test" if split == "train" else "train"


def count_name(num: int) -> str:
    """Short name of a sample size.

    Example:
        >>> count_name(50_000), count_name(512), count_name(2_500)
        ('50k', '512', '2500')
    """
    return f"{num // 1000}k" if num % 1000 == 0 else str(num)
