"""Metrics of inverses of simulators: parameters that an encoder infers from fixed observations."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pt_flows.bounds import AtLeastTwo
from pt_flows.contracts import Split
from pt_flows.errors import UserError
from pt_flows.functional.information import information_gap, information_matrix
from pt_flows.metrics.base import Direction, RealData, SampleMetric, count_name, full_precision
from pt_flows.training.noise import generator_at


class InverseMetric(SampleMetric):
    """Base of metrics that compare true parameters with inferred ones. Every process measures all observations.

    Args:
        num_real: Number of fixed observations.
    """

    held_out = True
    split: Split = "test"

    def __init__(self, num_real: AtLeastTwo) -> None:
        super().__init__()
        self.num_real = num_real
        self.inferred: Tensor | None = None

    @property
    def protocol(self) -> str:
        """The end of every name: the number of observations and their split."""
        return f"{count_name(self.num_real)}_{self.split}"

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Simulate the observations."""
        simulator: Any = getattr(data, "simulator", None)
        if simulator is None:
            wanted = "data of a simulator, such as Simulated"
            raise UserError(f"{type(self).__name__}: expected {wanted}, got {type(data).__name__}. Use other metrics")
        self.simulator: Any = simulator
        self.x, self.z = data.pairs(self.split, self.num_real)  # pyright: ignore[reportAttributeAccessIssue]
        self.true = simulator.from_latents(self.z)

    def update_encoder(self, encode: Callable[[Tensor], Tensor]) -> None:
        """Infer the parameters of all observations."""
        with full_precision(self.device):
            self.inferred = self.simulator.from_latents(encode(self.x.to(self.device)).float().cpu())

    def update(self, x: Tensor) -> None:
        """Ignore generated samples."""

    def compute(self) -> dict[str, float]:
        """All numbers; empty for methods that infer no parameters."""
        return {} if self.inferred is None else self.compare(self.true, self.inferred)

    def compare(self, true: Tensor, inferred: Tensor) -> dict[str, float]:
        """Numbers of true and inferred parameters (num_real, K)."""
        raise NotImplementedError


class MutualInformation(InverseMetric):
    """Mutual information gap and matrix of true and inferred parameters.

    `mig_...` is the gap. `mig_..._truth` is that of a perfect inverse: true parameters against themselves, or against
    other parameters with the same observations where the simulator has such. It is below 1 if parameters depend on each
    other or cannot be identified. `mi_<name>_...` is the information about a parameter in its inferred value, in
    fractions of the parameter's entropy. The whole matrix is the attribute `matrix`: inferred parameters in rows, true
    ones in columns. Numbers depend on bins and samples, so the names have both.

    Args:
        num_bins: Number of bins of a parameter, which hold equally many observations.
        num_real: Number of fixed observations.
        names: Parameters to measure; by default all of the simulator. At least two.
    """

    higher_is_better = True

    def __init__(
        self, num_bins: AtLeastTwo = 20, num_real: AtLeastTwo = 5_000, names: Sequence[str] | None = None
    ) -> None:
        super().__init__(num_real)
        self.num_bins, self.names = num_bins, names
        self.matrix = torch.empty(0, 0)

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Measure the gap of a perfect inverse."""
        super().prepare(data, num_samples)
        known = list(self.simulator.names)
        chosen = list(self.names or known)
        if len(chosen) < 2 or not set(chosen) <= set(known):
            wanted = f"at least two of {', '.join(known)}"
            raise UserError(f"MutualInformation.names: expected {wanted}, got {', '.join(chosen)}. Name parameters")
        self.chosen, self.columns = chosen, [known.index(name) for name in chosen]
        rng = generator_at("cpu", "equivalent parameters")
        perfect = self.matrix_of(self.simulator.equivalent(self.true, rng), self.true)
        self.truth = information_gap(perfect)

    def details(self) -> dict[str, str]:
        """The parameters between which the gap lies."""
        return dict.fromkeys((self.key, f"{self.key}_truth"), ", ".join(self.chosen))

    def matrix_of(self, inferred: Tensor, true: Tensor) -> Tensor:
        """Information matrix of the chosen parameters."""
        return information_matrix(inferred[:, self.columns], true[:, self.columns], self.num_bins)

    @property
    def key(self) -> str:
        """Name of the gap, such as `mig_20bins_5k_test`."""
        return f"mig_{self.protocol}"

    @property
    def protocol(self) -> str:
        """Bins, observations and their split."""
        return f"{self.num_bins}bins_{super().protocol}"

    def compare(self, true: Tensor, inferred: Tensor) -> dict[str, float]:
        """The gap, that of a perfect inverse, and the diagonal of the matrix."""
        self.matrix = self.matrix_of(inferred, true)
        own = zip(self.chosen, self.matrix.diagonal().tolist(), strict=True)
        numbers = {self.key: information_gap(self.matrix), f"{self.key}_truth": self.truth}
        return numbers | {f"mi_{name}_{self.protocol}": value for name, value in own}

    def directions(self) -> dict[str, Direction]:
        """The gap of a perfect inverse depends on the simulator alone. Gaps of ambiguous parameters rank nothing."""
        directions = super().directions()
        ranks: Direction = "higher" if self.simulator.identifiable else ""
        return {key: "" if key.endswith("_truth") else ranks for key in directions}


def r_squared(true: Float[Tensor, " n"], inferred: Float[Tensor, " n"]) -> float:
    """Fraction of the variance that is explained: 1 - Σ (v - v̂)² / Σ (v - mean v)², in float64.

    Example:
        >>> r_squared(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0]))
        1.0
    """
    v, found = true.double(), inferred.double()
    return 1 - float((v - found).square().sum() / (v - v.mean()).square().sum())


def slope(true: Float[Tensor, " n"], inferred: Float[Tensor, " n"]) -> float:
    """Slope of the line of inferred values over true ones by least squares, in float64; 1 for a perfect inverse."""
    v, found = true.double() - true.double().mean(), inferred.double() - inferred.double().mean()
    return float((v * found).sum() / v.square().sum())


class InvariantR2(InverseMetric):
    """R² and slope of named quantities that an observation determines, computed from inferred parameters.

    `r2_<name>_...` is the explained fraction of the variance, at most 1, and negative for values worse than the mean.
    `slope_<name>_...` is the slope of inferred over true values. `r2_...` is the mean R² of the simulator's invariants.
    If `with_parameters` is true, parameters that are no invariants are measured too, to show that they cannot be
    inferred.

    Args:
        num_real: Number of fixed observations.
        with_parameters: Whether to measure parameters in addition to invariants.
    """

    higher_is_better = True

    def __init__(self, num_real: AtLeastTwo = 5_000, with_parameters: bool = True) -> None:
        super().__init__(num_real)
        self.with_parameters = with_parameters

    @property
    def key(self) -> str:
        """Name of the mean, such as `r2_5k_test`."""
        return f"r2_{self.protocol}"

    def compare(self, true: Tensor, inferred: Tensor) -> dict[str, float]:
        """The mean, then R² and slope of every quantity."""
        quantities, others = (self.simulator.invariants(part) for part in (true, inferred))
        invariant = list(quantities)
        if self.with_parameters:
            columns = zip(self.simulator.names, true.T, inferred.T, strict=True)
            extra = [(name, a, b) for name, a, b in columns if name not in quantities]
            quantities |= {name: a for name, a, _ in extra}
            others |= {name: b for name, _, b in extra}
        r2 = {name: r_squared(value, others[name]) for name, value in quantities.items()}
        numbers = {self.key: sum(r2[name] for name in invariant) / len(invariant)}
        for name, value in quantities.items():
            numbers |= {f"r2_{name}_{self.protocol}": r2[name]}
            numbers |= {f"slope_{name}_{self.protocol}": slope(value, others[name])}
        return numbers

    def directions(self) -> dict[str, Direction]:
        """A high R² of an invariant is better. Slopes and quantities that cannot be inferred have no direction."""
        ranked = {self.key, *(f"r2_{name}_{self.protocol}" for name in self.simulator.invariants(self.true))}
        return {key: "higher" if key in ranked else "" for key in self.compute()}


class SimulationError(InverseMetric):
    """Errors of observations in fractions of their variance; 0 is perfect, 1 is that of the mean observation.

    `resimulated_error_...` compares observations with the simulator's output at inferred parameters, which no ambiguity
    of parameters raises. `emulated_error_...` compares the decoder's output with the simulator's at true parameters.

    Args:
        num_real: Number of fixed observations.
    """

    def __init__(self, num_real: AtLeastTwo = 1_000) -> None:
        super().__init__(num_real)
        self.push: Callable[[Tensor], Tensor] | None = None
        self.emulated: Tensor | None = None

    @property
    def key(self) -> str:
        """Name of the error of the inverse, such as `resimulated_error_1k_test`."""
        return f"resimulated_error_{self.protocol}"

    def update_map(self, push: Callable[[Tensor], Tensor]) -> None:
        """Keep the decoder, whose latents may be others."""
        self.push = push

    def update_encoder(self, encode: Callable[[Tensor], Tensor]) -> None:
        """Infer the parameters, and decode the true latents."""
        super().update_encoder(encode)
        if self.push is not None:
            with full_precision(self.device):
                parts = [self.push(part.to(self.device)).float().cpu() for part in self.z.split(500)]
            self.emulated, self.push = torch.cat(parts), None

    def compare(self, true: Tensor, inferred: Tensor) -> dict[str, float]:
        """Both errors; that of the decoder only for methods that have one."""
        variance = (self.x - self.x.mean(0)).square().sum()
        again = torch.cat([self.simulator(part) for part in inferred.split(500)])
        numbers = {self.key: float((self.x - again).square().sum() / variance)}
        if self.emulated is not None:
            error = float((self.x - self.emulated).square().sum() / variance)
            numbers[f"emulated_error_{self.protocol}"] = error
        return numbers
