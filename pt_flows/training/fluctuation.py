r"""Fluctuation-dissipation relations: a monitor of stationarity, and rates that fall when a run has become stationary.

    step of a player     x' = x - η d             d the direction that its optimizer really takes
    identity             x·d - (η/2)‖d‖² = (‖x‖² - ‖x'‖²) / (2 η)              exact, for every step
    stationary           E[x·d] = (η/2) E‖d‖²
    O_L (dissipation)    (1 - μ) x·d + μ η ‖d‖²                                μ the optimizer's momentum
    O_R (fluctuation)    (1 + μ) (η/2) ‖d‖²
    every `window` iterations since the last drop:  ratio = mean O_L / mean O_R over the later half of them
    |ratio - 1| < tolerance for every player that moves  →  all rates × drop, and a new record

Yaida 2019, Fluctuation-dissipation relations for stochastic gradient descent, ICLR, arXiv:1810.00004, has the relation
of one player, the later half and the drop. Cao and Guo 2020, Approximation and convergence of GANs training: an SDE
approach, arXiv:2006.02047, have relations of both players of a game. A critic of this package descends its loss, so its
relation has the sign of the generator's.

Departures: written from a description of Yaida's released code and a derivation of the relations; the body of Cao and
Guo was not available. Joint drops are ours. Without momentum the relation is that of the actual step, as in the SASA
tests, and for SGD it is Yaida's. With momentum, sums over steps are Yaida's, with d_t - μ d_{t-1} in the place of his
gradient, up to one step at either end. So a tolerance means the same with and without momentum: (1 + μ) / (1 - μ) ‖d‖²
is the squared length of the slow motion that noise causes.
"""

import math
from typing import Any

import torch
from torch import Tensor

from pt_flows.bounds import AtLeastTwo, Positive, PositiveFraction
from pt_flows.training.rates import RateControl, Step, momentum, numbers


class Record:
    """O_L and O_R of one player: sums on the device for the present, numbers for the past.

    Attributes:
        totals: Sums of O_L and O_R from the start of the record to every end of a half window, beginning with zeros.
        age: Iterations since the start of the record.
        factor: Factor of the player's learning rate.
        stationary: Whether the last check found the player stationary.
        known: The last ratio at an end of a half window.
    """

    def __init__(self) -> None:
        self.factor, self.stationary = 1.0, False
        self.known: float | None = None
        self.half: Tensor | None = None
        self.row: Tensor | None = None
        self.restart()

    def restart(self) -> None:
        """Begin the record anew."""
        self.totals, self.age, self.half = [(0.0, 0.0)], 0, None

    def add(self, left: Tensor, right: Tensor) -> None:
        """Add O_L and O_R of a step, two scalars."""
        wide = torch.float32 if left.device.type == "mps" else torch.float64
        now = torch.stack([left, right, torch.ones_like(left)]).to(wide)  # the last one counts steps
        self.half = now if self.half is None else self.half.to(now.device) + now
        self.row = now if self.row is None else self.row.to(now.device) + now

    def close(self) -> bool:
        """End a half window, and return whether all of its steps were finite."""
        left, right, _ = (0.0, 0.0, 0.0) if self.half is None else numbers(self.half)
        if not (math.isfinite(left) and math.isfinite(right)):
            return False
        self.totals.append((self.totals[-1][0] + left, self.totals[-1][1] + right))
        self.half = None
        self.known = self.known if self.ratio is None else self.ratio
        return True

    @property
    def ratio(self) -> float | None:
        """Mean O_L over mean O_R over the later half of the record; None if the player has not moved there."""
        first, last = self.totals[(len(self.totals) - 1) // 2], self.totals[-1]
        left, right = last[0] - first[0], last[1] - first[1]
        return left / right if right > 0 else None

    def report(self) -> dict[str, float]:
        """Means of O_L and O_R since the last report, and what the record says."""
        found = {"fdr_stationary": float(self.stationary)}
        if self.row is not None:
            left, right, num = self.row.tolist()
            found |= {"fdr_left": left / num, "fdr_right": right / num}
            self.row = None
        return found if self.known is None else found | {"fdr_ratio": self.known}

    def state_dict(self) -> dict[str, Any]:
        """The record as tensors and plain values."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the record."""
        vars(self).update(state)
        self.totals = [(float(left), float(right)) for left, right in self.totals]


class FluctuationDissipation(RateControl):
    """Monitors stationarity by fluctuation-dissipation relations, and lowers learning rates at it.

    The ratio compares how much the norm of the parameters changes over the later half of the record with the length of
    the path. Weight decay helps: without it, parameters may drift along directions that no loss bounds, and such a
    player is never stationary.

    Args:
        window: Iterations between two checks; an odd number is rounded down.
        tolerance: Largest |ratio - 1| at stationarity.
        drop: Factor of the learning rate at stationarity; 1 only monitors.
        per_player: Let each player's rate fall by its own relation, instead of all together when all are stationary.
    """

    def __init__(
        self,
        window: AtLeastTwo = 1000,
        tolerance: Positive = 0.01,
        drop: PositiveFraction = 0.1,
        per_player: bool = False,
    ) -> None:
        super().__init__(per_player)
        self.half_window, self.tolerance, self.drop = window // 2, tolerance, drop
        self.records: dict[str, Record] = {}

    def watch(self, optimizers: Any) -> None:
        """Observe every step of these optimizers from now on."""
        super().watch(optimizers)
        self.records = {player: self.records.get(player) or Record() for player in optimizers}

    def observe(self, player: str, step: Step) -> None:
        """Add O_L and O_R of a step."""
        left, right = step.x @ step.change / -step.lr, step.change @ step.change / (2 * step.lr)
        mu = momentum(self.optimizers[player])
        self.records[player].add((1 - mu) * left + 2 * mu * right, (1 + mu) * right)

    def advance(self) -> None:
        """Check the relations at the end of a window, and drop the rates. Steps that are not finite are forgotten."""
        records = list(self.records.values())
        for record in records:
            record.age += 1
        lost = [record for record in records if record.age % self.half_window == 0 and not record.close()]
        for record in lost if self.per_player or not lost else records:
            record.restart()
        due = [record for record in records if record.age and record.age % (2 * self.half_window) == 0]
        for record in due:
            ratio = record.ratio
            record.stationary = ratio is not None and abs(ratio - 1) < self.tolerance
        moving = [record for record in due if record.ratio is not None]
        stationary = [record for record in moving if record.stationary]
        if self.per_player:
            self.lower(stationary)
        elif moving == stationary and moving:
            self.lower(records)

    def lower(self, records: list[Record]) -> None:
        """Lower rates, and begin their records anew."""
        for record in records if self.drop < 1 else []:
            record.factor *= self.drop
            record.restart()

    def factor(self, player: str) -> float:
        """The product of the drops."""
        return self.records[player].factor

    def report(self) -> dict[str, float]:
        """O_L, O_R, their ratio and the verdict of every player, beside the factors."""
        told = {f"train/{k}_{player}": v for player, record in self.records.items() for k, v in record.report().items()}
        return super().report() | told

    def state_dict(self) -> dict[str, Any]:
        """The records."""
        return {player: record.state_dict() for player, record in self.records.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the records."""
        for player, saved in state.items():
            self.records.setdefault(player, Record()).load_state_dict(saved)
