"""The state of Markov chains between iterations: a replay buffer of points, and a step size for every label.

Every process holds the whole buffer and writes the points of all processes. That takes one gather per iteration, which
costs little compared with the Langevin steps. So a run on two processes has the chains of a run on one, a checkpoint of
one process holds all chains, and a run can continue on another number of processes.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pt_flows.bounds import Count, Fraction
from pt_flows.construction import Constructed
from pt_flows.contracts import Shape
from pt_flows.errors import UserError
from pt_flows.functional.langevin import Rng, uniform_like
from pt_flows.training.distributed import all_ranks, mean_over_ranks, world
from pt_flows.training.noise import NoiseStream, generator_at, run_seed

Storage = Literal["float", "uint8"]
Fresh = Callable[[int], tuple[Tensor, Tensor]]
"""Makes points (num, *event) and labels (num,) from which new chains of this process start."""


class Drawn(NamedTuple):
    """Points x (B, *event) and labels (B,) of this process, and their `slots` (B of all processes,) in the buffer."""

    slots: Tensor
    x: Tensor
    labels: Tensor


class ReplayBuffer(Constructed, nn.Module):
    """Points that chains start from, with a label each, drawn without replacement.

    `slot`: chains live in fixed slots; they are drawn, moved and written back. `fifo`: the newest points. `reservoir`:
    a uniform sample of all points ever added (Vitter 1985, Algorithm R).

    Args:
        kind: The rule by which points are kept.
        size: Number of points.
        event_shape: Shape of a point.
        storage: "uint8" keeps 256 levels of [-1, 1]; points that are read are uniform within their level.
        reinit_probability: Probability that a drawn point is replaced by a fresh one.
    """

    points: Tensor
    labels: Tensor

    def __init__(
        self,
        kind: Literal["slot", "fifo", "reservoir"],
        size: Count,
        event_shape: Shape,
        storage: Storage = "float",
        reinit_probability: Fraction = 0.0,
    ) -> None:
        super().__init__()
        self.kind, self.size, self.reinit_probability = kind, size, reinit_probability
        self.added = self.draws = 0
        dtype = torch.uint8 if storage == "uint8" else torch.get_default_dtype()
        self.register_buffer("points", torch.zeros(size, *event_shape, dtype=dtype))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_check_size)

    def __len__(self) -> int:
        """The number of points in the buffer."""
        return min(self.added, self.size)

    def get_extra_state(self) -> dict[str, int]:
        """The numbers of points added and of draws, which make later draws the same."""
        return {"added": self.added, "draws": self.draws}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore these numbers."""
        self.added, self.draws = state["added"], state["draws"]

    def fill(self, sample: Callable[..., Tensor], labels: Tensor) -> None:
        """Fill every slot with a chain, the same on every process.

        Args:
            sample: Function that makes points of a shape with a generator, such as `torch.randn`.
            labels: Labels (size,).
        """
        rng = generator_at("cpu", run_seed(), "replay")
        self.points.copy_(self._stored(sample(*self.points.shape, generator=rng)))
        self.labels.copy_(labels)
        self.added = self.size

    def draw(self, num: int, noise: NoiseStream, fresh: Fresh | None = None) -> Drawn:
        """Draw different points for every process, or fresh ones while there are too few for all.

        Args:
            num: Number of points for this process.
            noise: Random numbers that choose the replaced points and dequantise.
            fresh: Makes new points; needed if the buffer is not full or re-initialises.

        Raises:
            UserError: The buffer is smaller than one draw.
        """
        rank, num_ranks = world()
        if num * num_ranks > self.size:
            batch = f"at least {num * num_ranks}, the batch that an iteration draws without replacement"
            raise UserError(f"model.buffer_size: expected {batch}, got {self.size}. Raise it or lower data.batch_size")
        self.draws += 1
        if len(self) < num * num_ranks:
            assert fresh is not None
            return Drawn(torch.zeros(0, dtype=torch.int64), *fresh(num))
        rng = generator_at("cpu", run_seed(), "replay", self.draws)
        slots = torch.randperm(len(self), generator=rng)[: num * num_ranks].to(self.labels.device)
        mine = slots[rank * num : (rank + 1) * num]
        x, labels = self.read(mine, noise), self.labels[mine]
        if self.reinit_probability:
            assert fresh is not None
            renew = noise.uniform(num) < self.reinit_probability
            new_x, new_labels = fresh(num)
            x = torch.where(renew.view(-1, *[1] * (x.dim() - 1)), new_x, x)
            labels = torch.where(renew, new_labels, labels)
        return Drawn(slots, x, labels)

    def peek(self, num: int, rng: torch.Generator) -> Tensor:
        """Read different points (num, *event), the same for every process.

        Args:
            num: Number of points, at most `len(self)`.
            rng: Generator on the buffer's device.
        """
        return self.read(torch.randperm(len(self), generator=rng, device=rng.device)[:num], rng)

    def write(self, drawn: Drawn, x: Tensor, labels: Tensor) -> None:
        """Write moved chains back to their slots.

        Args:
            drawn: The result of `draw`.
            x: Positions of this process's chains.
            labels: Their labels.
        """
        self.points[drawn.slots] = self._stored(all_ranks(x))
        self.labels[drawn.slots] = all_ranks(labels)

    def add(self, x: Tensor, labels: Tensor | None = None) -> None:
        """Add new points of all processes; the buffer's kind decides which older ones they replace."""
        x = all_ranks(x)
        labels = x.new_zeros(len(x), dtype=torch.int64) if labels is None else all_ranks(labels)
        slots = torch.arange(self.added, self.added + len(x))
        if self.kind == "reservoir":  # the i-th point ever goes to a place in 0 ... i - 1, if there is such a slot
            rng = generator_at("cpu", run_seed(), "reservoir", self.added)
            places = (torch.rand(len(x), generator=rng, dtype=torch.float64) * (slots + 1)).long()
            slots = torch.where(slots < self.size, slots, places)
        else:
            slots = slots % self.size
        newest = {slot: i for i, slot in enumerate(slots.tolist()) if slot < self.size}
        rows, kept = (torch.tensor(list(v), device=x.device) for v in (newest.keys(), newest.values()))
        if newest:
            self.points[rows] = self._stored(x[kept])
            self.labels[rows] = labels[kept]
        self.added += len(x)

    def read(self, slots: Tensor, rng: Rng | None = None) -> Tensor:
        """Read the points of some slots. Points in 256 levels are the middle of a level, or uniform within it.

        Args:
            slots: Indices (num,).
            rng: Generator of points within levels; None for the middle.
        """
        points = self.points[slots]
        if points.dtype != torch.uint8:
            return points
        levels = points.to(torch.get_default_dtype())
        return (levels + (0.5 if rng is None else uniform_like(levels, rng))) / 128 - 1

    def _stored(self, x: Tensor) -> Tensor:
        if self.points.dtype != torch.uint8:
            return x.to(self.points.dtype)
        return ((x + 1) * 128).floor().clamp(0, 255).to(torch.uint8)


def _check_size(buffer: ReplayBuffer, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Reject a checkpoint with another number of points, which torch would blame on the networks."""
    saved = state.get(f"{prefix}points", buffer.points)
    if len(saved) != buffer.size and saved.shape[1:] == buffer.points.shape[1:]:
        wanted = f"expected {len(saved)}, the number of chains in the checkpoint"
        raise UserError(f"model.buffer_size: {wanted}, got {buffer.size}. Keep the size, or start a new run")


class StepSizes(nn.Module):
    """A step size for every label, moved towards acceptance rates between 0.6 and 0.8.

    Above the band a step grows by a tenth, and below it a step shrinks by a sixth, as in DA-EBM's released code. A step
    never exceeds its cap, because every step is accepted while an energy is still flat. Labels that no chain had in a
    window keep their step. `acceptance` is that of the last window, for logging only.

    Args:
        initial: First step sizes (L,).
        caps: Largest step sizes (L,).
    """

    LOW, HIGH, GROWTH, SHRINKAGE = 0.6, 0.8, 1.1, 1 / 1.2
    values: Tensor
    caps: Tensor
    accepted: Tensor
    tried: Tensor
    acceptance: Tensor

    def __init__(self, initial: Tensor, caps: Tensor) -> None:
        super().__init__()
        if not bool((initial > 0).all()):
            raise UserError(f"model.step_size: expected numbers above 0 at every label, got {initial.tolist()}")
        self.register_buffer("values", torch.minimum(initial, caps))
        self.register_buffer("caps", caps, persistent=False)
        self.register_buffer("accepted", torch.zeros_like(initial))
        self.register_buffer("tried", torch.zeros_like(initial))
        self.register_buffer("acceptance", torch.full_like(initial, torch.nan), persistent=False)

    def record(self, accepted: Tensor, tried: Tensor) -> None:
        """Add the sums of a transition, each (L,), over all processes."""
        for total, mean in zip((self.accepted, self.tried), mean_over_ranks([accepted, tried]), strict=True):
            total += world()[1] * mean.to(total)

    def adapt(self) -> None:
        """Adapt the steps to the acceptance of the last window, and begin a new window."""
        self.acceptance = self.accepted / self.tried  # NaN for labels without trials, which compares false
        self.values = torch.where(self.acceptance > self.HIGH, self.GROWTH * self.values, self.values)
        self.values = torch.where(self.acceptance < self.LOW, self.SHRINKAGE * self.values, self.values)
        self.values = torch.minimum(self.values, self.caps)
        self.accepted, self.tried = torch.zeros_like(self.accepted), torch.zeros_like(self.tried)
