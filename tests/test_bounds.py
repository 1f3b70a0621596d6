"""Bounds in annotations: the values they reject, the words of the error, and the arguments of all data and metrics."""

import copy
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from torch import Tensor

import pt_flows.data
import pt_flows.metrics
from pt_flows.bounds import (
    Bound,
    Count,
    CountOrZero,
    DecayRate,
    Fraction,
    NonNegative,
    Positive,
    check_arguments,
    hints_of,
)
from pt_flows.cli.main import main
from pt_flows.construction import Constructed
from pt_flows.data import Shapes32, Toy2D, TwoDomains
from pt_flows.data.base import FlowData
from pt_flows.errors import UserError
from pt_flows.methods import W1FE
from pt_flows.metrics import GridKL, ModeCoverage
from pt_flows.metrics.base import RealData, SampleMetric
from pt_flows.nets import MLPCritic, MLPGenerator
from pt_flows.training.players import Critic, Generator

Penalty = Literal["one_sided", "two_sided"]


@dataclass(frozen=True)
class Schedule:
    """A class beside a number in a union."""


def told(hint: Any, value: Any) -> str:
    """The words after the name of the argument; empty if the value is accepted."""
    try:
        check_arguments("It.", {"x": hint}, {"x": value})
    except UserError as error:
        return str(error).removeprefix("It.x: ")
    return ""


@pytest.mark.parametrize(
    ("hint", "value", "words"),
    [
        (Positive, 0, "expected a number above 0, got 0"),
        (Positive, math.nan, "expected a number above 0, got nan"),
        (NonNegative, -0.5, "expected at least 0, got -0.5"),
        (Fraction, 1.5, "expected a number in [0, 1], got 1.5"),
        (Fraction, math.nan, "expected a number in [0, 1], got nan"),
        (DecayRate, 1.0, "expected a number in [0, 1), got 1.0"),
        (Count, 0, "expected at least 1, got 0"),
        (CountOrZero, -1, "expected at least 0, got -1"),
        (Count, np.int64(0), "expected at least 1, got np.int64(0)"),
        (Count, 2.5, "expected a whole number, got 2.5"),
        (Count, "one", "expected at least 1, got 'one'"),
        (Count, None, "expected at least 1, got None"),
        (DecayRate | Literal["auto"], None, "expected a number in [0, 1) or one of auto, got None"),
        (Annotated[int, Bound(high=8)], 9, "expected at most 8, got 9"),
        (Annotated[float, Bound(high=8, open_high=True)], 8.0, "expected a number below 8, got 8.0"),
        (Annotated[float, Bound(0, 1, open_low=True)], 0.0, "expected a number in (0, 1], got 0.0"),
        (Annotated[Count, Bound(high=8)], 9, "expected at most 8, got 9"),
        (Count | None, 0, "expected at least 1, got 0"),
        (Positive | Schedule, -1.0, "expected a number above 0, got -1.0"),
        (Schedule, 0.5, "expected a Schedule, got 0.5"),
        (Schedule, None, "expected a Schedule, got None"),
        (Schedule | None, "cosine", "expected a Schedule or null, got 'cosine'"),
        (Literal["auto"] | Count, 0, "expected at least 1, got 0"),
        (Literal["auto"] | Count, "all", "expected one of auto, got 'all'"),
        (Annotated[int, Bound(high=-1)] | Count, 0, "expected at most -1 or at least 1, got 0"),
        (Penalty, "none", "expected one of one_sided, two_sided, got 'none'"),
        (Penalty | None, "none", "expected one of one_sided, two_sided, got 'none'"),
        (Literal[16, 28, 32], 20, "expected one of 16, 28, 32, got 20"),
        (Sequence[Count], [8, 0], "expected every item to be at least 1, got [8, 0]"),
        (Sequence[Count] | None, (0,), "expected every item to be at least 1, got (0,)"),
        (tuple[Count, ...], (1, 2, 0), "expected every item to be at least 1, got (1, 2, 0)"),
        (tuple[Count, Fraction], (1, 2), "expected every item to be a number in [0, 1], got (1, 2)"),
        (list[Sequence[Count]], [[1], [0]], "expected every item to be at least 1, got [[1], [0]]"),
    ],
)
def test_values_outside_are_named(hint: Any, value: Any, words: str) -> None:
    assert told(hint, value) == words


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Positive, math.inf),
        (DecayRate, 0),
        (Fraction, True),
        (Count | None, None),
        (Positive | Schedule, Schedule()),
        (Positive | Sequence[float], [-1.0]),
        (Literal["auto"] | str, "all"),
        (Literal["auto"] | int, 0),
        (Annotated[int, Bound(high=-1)] | Count, -1),
        (Sequence[Count], []),
        (Sequence[Count], torch.zeros(2)),
        (Sequence, [0]),
        (Any, -1),
        (int, -1),
    ],
)
def test_other_values_are_accepted(hint: Any, value: Any) -> None:
    assert told(hint, value) == ""


# -------------------------------------------------------------------------------------------------- classes of users


def pair() -> tuple[Any, Any]:
    return Generator(MLPGenerator()), Critic(MLPCritic())


class Base(Constructed):
    def __init__(self, size: Count, rate: Fraction = 0.5, kind: Penalty = "one_sided") -> None:
        self.size = size


class Tower(Base):
    def __init__(self, *args: Any, floor: NonNegative = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class Repeats(Base):
    def __init__(self, size: int = 3, rate: "Annotated[float, Bound(-1, 1)]" = 0.0, kind: str = "any") -> None:
        super().__init__(size)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Base(0), "Base.size: expected at least 1, got 0"),
        (lambda: Base(None), "Base.size: expected at least 1, got None"),  # type: ignore[arg-type]
        (lambda: Base(1, "0.1"), r"Base.rate: expected a number in \[0, 1\], got '0.1'"),  # type: ignore[arg-type]
        (lambda: W1FE(*pair(), step_size="0.1"), r"W1FE.step_size: expected a number above 0 or a Schedule, got '0.1'"),
        (lambda: W1FE(*pair(), persistence=None), "W1FE.persistence: expected at least 1 or a Schedule, got None"),
        (lambda: Generator(MLPGenerator(), ema_decay="a"), r"Generator.ema_decay: expected a number in \[0, 1\) or .*"),
        (lambda: Tower(0), "Tower.size: expected at least 1, got 0"),
        (lambda: Tower(1, 2), r"Tower.rate: expected a number in \[0, 1\], got 2"),
        (lambda: Tower(1, floor=-1), "Tower.floor: expected at least 0, got -1"),
        (lambda: Tower(1, kind="none"), "Tower.kind: expected one of one_sided, two_sided, got 'none'"),
        (lambda: Repeats(0), "Repeats.size: expected at least 1, got 0"),  # the plain type keeps the bound
        (lambda: Repeats(1, rate=-2), r"Repeats.rate: expected a number in \[-1, 1\], got -2"),
    ],
)
def test_bounds_hold_in_subclasses(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        make()


def test_subclasses_may_widen_their_bounds() -> None:
    assert Repeats(2, rate=-0.5, kind="none").size == 2
    assert hints_of(Repeats)["kind"] is str


# --------------------------------------------------------------------------------------------------- data and metrics


def outside(hint: Any) -> list[Any]:
    """Values just outside of the bounds of an argument."""
    if get_origin(hint) is not Annotated:
        return [value for inner in get_args(hint) for value in outside(inner)]
    step = 1 if get_args(hint)[0] is int else 0.01
    values = [bound.low - (0 if bound.open_low else step) for bound in get_args(hint)[1:]]
    values += [bound.high + (0 if bound.open_high else step) for bound in get_args(hint)[1:]]
    return [*(value for value in values if math.isfinite(value)), math.nan]


PUBLIC = [getattr(room, name) for room in (pt_flows.data, pt_flows.metrics) for name in room.__all__]
BOUNDED = [
    pytest.param(cls, name, value, id=f"{cls.__name__}.{name}={value:g}")
    for cls in PUBLIC
    for name, hint in hints_of(cls).items()
    for value in outside(hint)
    if name != "return"
]


def test_every_public_class_of_data_and_metrics_checks_its_arguments() -> None:
    assert all(issubclass(cls, Constructed) for cls in PUBLIC)
    assert len({case.values[0] for case in BOUNDED}) >= 12
    numbers = {"batch_size", "iterations_per_block", "image_size", "num_reference", "size", "num_points", "num_std"}
    for cls in PUBLIC:
        plain = {name for name in numbers & set(hints_of(cls)) if hints_of(cls)[name] in (int, float, int | None)}
        assert not plain, f"{cls.__name__} has numbers without a bound: {plain}"


@pytest.mark.parametrize(("cls", "name", "value"), BOUNDED)
def test_numbers_outside_are_refused_by_their_names(cls: type, name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"^{cls.__name__}\.{name}: expected .*, got {value}"):
        cls(**{name: value})


class Mine(FlowData):
    """Data that pass a computed number to their base."""

    event_shape = (2,)

    def __init__(self, num: int) -> None:
        super().__init__(batch_size=num // 2, iterations_per_block=1)

    def draw(self, iteration: int, num_minibatches: int) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def reference(self, split: Any, num: int | None = None) -> Tensor:
        return torch.zeros(num or 4, 2)


class Own(SampleMetric):
    key = "own"

    def __init__(self, power: Positive = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.power = power
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Prepare nothing."""

    def update(self, x: Tensor) -> None:
        self.total += x.sum()

    def compute(self) -> dict[str, float]:
        return {self.key: float(self.total) ** self.power}


def test_own_data_are_checked_where_they_call_their_base() -> None:
    assert Mine(4).batch_size == 2
    with pytest.raises(UserError, match=r"Mine.batch_size: expected at least 1, got 0"):
        Mine(1)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_data_and_metrics_can_be_copied_and_pickled(again: Any) -> None:
    toy, images = Toy2D("gaussian", batch_size=4), Shapes32(4, style="sketch")
    assert torch.equal(again(toy).draw(3, 1)[0], toy.draw(3, 1)[0])
    assert torch.equal(again(images).draw(3, 1)[0], images.draw(3, 1)[0])
    pair = again(TwoDomains(toy, Toy2D(batch_size=4)))
    assert (pair.source.batch_size, pair.init_args["source"]["init_args"]) == (4, toy.init_args)
    own = Own(power=3.0, dist_sync_on_step=False)
    own.update(torch.ones(2))
    copied = again(own)
    copied.update(torch.zeros(1))
    assert (copied.compute(), copied.init_args["power"]) == ({"own": 8.0}, 3.0)
    assert again(ModeCoverage(4)).key == "modes_4std"
    with pytest.raises(UserError, match=r"Own.power: expected a number above 0, got 0"):
        Own(power=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "Toy2D", "--data.batch_size", "0"], "data.batch_size: expected at least 1, got 0"),
        (["--data", "Toy2D", "--data.target", "ring9"], "data.target: expected one of"),
        (["--data", "MNIST", "--data.image_size", "20"], "data.image_size: expected one of 16, 28, 32, got '20'"),
        (
            ["--evaluation.metrics", "[{class_path: GridKL, init_args: {num_points: 1}}]"],
            "evaluation.metrics.num_points: expected",
        ),
    ],
)
def test_the_command_line_says_the_same(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Path(__file__).resolve().parent.parent / "configs/toy2d/w1_fe.yaml"
    assert main(["fit", "--config", str(recipe), "--run.wandb", "disabled", "--trainer.max_steps", "1", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_metrics_keep_the_arguments_of_torchmetrics() -> None:
    assert Own(compute_on_cpu=True).compute_on_cpu
    assert GridKL(num_points=np.int64(9)).key == "kl_grid9"  # pyright: ignore[reportArgumentType]
