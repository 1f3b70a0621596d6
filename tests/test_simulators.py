"""Simulators as data: closed forms, invariances, batches as a function of (seed, iteration), and what is rejected."""

import math
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from problems import bend, simulated
from torch import Tensor

from pt_flows.data import Simulated
from pt_flows.data.simulators import (
    BoxPlot,
    FourierPlot,
    FourPointPolygon,
    FunctionSimulator,
    RLCCircuit,
    Simulator,
    Sprites,
)
from pt_flows.errors import UserError
from pt_flows.functional.information import information_gap, information_matrix, mutual_information

ALL: dict[str, Simulator] = {
    "fourier": FourierPlot(),
    "box": BoxPlot(),
    "polygon": FourPointPolygon(),
    "sprites": Sprites(),
    "circuit": RLCCircuit(),
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(simulator: Simulator, num: int = 32) -> Tensor:
    """Parameters of the prior."""
    return simulator.parameters(torch.rand(num, len(simulator.names), generator=rng()))


@pytest.mark.parametrize("name", ALL)
def test_equivalent_parameters_stay_in_the_prior_and_give_the_same_observation(name: str) -> None:
    simulator = ALL[name]
    parameters = drawn(simulator).double()
    others = simulator.equivalent(parameters, rng(1))
    torch.testing.assert_close(simulator(others), simulator(parameters), rtol=1e-6, atol=1e-6)
    assert bool((others != parameters).any()) is not simulator.identifiable
    ends = simulator.parameters(torch.tensor([[0.0], [1.0]]).expand(-1, len(simulator.names))).double()
    if name != "box":  # whose positions depend on the size
        assert bool((others >= ends[0] * (1 - 1e-5)).all() and (others <= ends[1] * (1 + 1e-5)).all())
    for key, value in simulator.invariants(others).items():
        torch.testing.assert_close(value, simulator.invariants(parameters)[key], rtol=1e-6, atol=1e-9)


def test_circuit_is_the_closed_form_of_its_impedance() -> None:
    simulator = RLCCircuit(num_frequencies=5)
    parameters = drawn(simulator).double()
    R, L, C = parameters.T[..., None]
    w = 2 * math.pi * torch.tensor([100.0, 100 * 10**0.75, 100 * 10**1.5, 100 * 10**2.25, 1e5], dtype=torch.float64)
    H = R / (R + 1j * w * L + 1 / (1j * w * C))
    wanted = torch.cat([20 * H.abs().log10() / 20, H.angle()], 1)
    torch.testing.assert_close(simulator(parameters), wanted)
    for a in (0.2, 3.0):
        same = parameters * torch.tensor([1 / a, 1 / a, a], dtype=torch.float64)
        torch.testing.assert_close(simulator(same), simulator(parameters), rtol=1e-12, atol=1e-12)
    invariants = simulator.invariants(drawn(simulator, 10_000))
    assert float(invariants["f0"].max()) < 1e4
    assert float(invariants["Q"].max()) < 4


@pytest.mark.parametrize("num", [32, 64])
def test_areas_of_drawings(num: int) -> None:
    """The mean of antialiased pixels is the area: of boxes exactly, of polygons and sprites up to their corners."""
    white = lambda simulator, p: (simulator(p).mean((1, 2, 3)) + 1) / 2
    boxes = drawn(BoxPlot())
    torch.testing.assert_close(white(BoxPlot(num), boxes), boxes[:, 2] * boxes[:, 3], rtol=0, atol=0.02)
    polygons, simulator = drawn(FourPointPolygon()), FourPointPolygon(num)
    area = simulator.invariants(polygons)["area"]
    torch.testing.assert_close(white(simulator, polygons), area, rtol=0, atol=0.01)
    middle = lambda shape: torch.tensor([[shape, 1.0, 0.7, 0.5, 0.5]])
    radius = 0.22
    for shape, area in ((0.0, 2 * radius**2), (1.0, math.pi * radius**2 / 2)):
        assert float(white(Sprites(num), middle(shape))) == pytest.approx(area, abs=2e-3)


def test_the_curve_is_its_series() -> None:
    """The brightest pixel of a column is at the height of the curve."""
    coefficients = torch.zeros(1, 11)
    coefficients[0, [0, 1, 7]] = torch.tensor([0.5, 0.4, -0.6])  # a0, a1, b2
    image = FourierPlot()(coefficients)[0, 0]
    t = (torch.arange(64) + 0.5) / 64
    f = 0.5 + 0.4 * (2 * math.pi * t).cos() - 0.6 * (4 * math.pi * t).sin()
    weights = (image + 1) / 2
    rows = (weights * (torch.arange(64) + 0.5)[:, None]).sum(0) / weights.sum(0)
    torch.testing.assert_close((32 - rows) / 8, f, rtol=0, atol=0.05)


def test_sprites_take_the_values_of_the_grid() -> None:
    parameters = drawn(Sprites(), 20_000)
    assert [len(column.unique()) for column in parameters.T] == [3, 6, 40, 32, 32]
    corners, middle = parameters[:300].clone(), parameters[:300].clone()
    corners[:, 3:], middle[:, 3:] = corners[:, 3:].round(), 0.5
    areas = [Sprites()(part).mean((1, 2, 3)) for part in (corners, middle)]
    torch.testing.assert_close(*areas, rtol=0, atol=2e-3)  # no shape leaves the frame


# --------------------------------------------------------------------------------------------------------- as data


def test_batches_are_a_function_of_seed_and_iteration() -> None:
    L.seed_everything(0, verbose=False)
    data = simulated()
    x, y, z = data.draw(3, 2)
    assert (x.shape, y.shape, z.shape) == ((2, 16, 2), (2, 16), (2, 16, 2))
    torch.testing.assert_close(x[1], bend(2 * torch.special.ndtr(z[1]) - 1))
    assert all(torch.equal(a, b) for a, b in zip(simulated().draw(3, 2), (x, y, z), strict=True))
    assert not torch.equal(data.draw(4, 2)[0], x)
    data.rank, data.num_ranks = 1, 2
    assert all(torch.equal(a, b[:, 8:]) for a, b in zip(data.draw(3, 2), (x, y, z), strict=True))
    L.seed_everything(1, verbose=False)
    assert not torch.equal(simulated().draw(3, 2)[0], x)


def test_references_are_fixed_and_splits_differ() -> None:
    data = Simulated(BoxPlot(16), num_reference=10)
    assert data.reference("test").dtype == torch.uint8
    assert torch.equal(data.reference("test"), data.reference("test", 10))
    assert not torch.equal(data.reference("train"), data.reference("test"))
    x, z = data.pairs("test", 10)
    torch.testing.assert_close(x, data.observe(z))
    torch.testing.assert_close(data.reference("test").float() / 127.5 - 1, x, rtol=0, atol=0.004)
    assert data.sample(3, rng()).shape == (3, 1, 16, 16)


def simulating(function: Callable[[Tensor], Any]) -> Simulated:
    return Simulated(FunctionSimulator(function, {"a": (0.0, 1.0), "b": (2.0, 3.0)}), batch_size=4)


def test_a_function_of_numpy_arrays_simulates() -> None:
    data = simulating(lambda p: np.sin(np.asarray(p, np.float64) @ np.ones((2, 5))))
    x, _, z = data.draw(0, 1)
    assert (x.dtype, data.event_shape) == (torch.float32, (5,))
    torch.testing.assert_close(x[0], (torch.special.ndtr(z[0]).sum(1, keepdim=True) + 2).sin().expand(-1, 5))


class Changing:
    """Another result from the second call on."""

    def __init__(self, second: Callable[[Tensor], Any]) -> None:
        self.second, self.calls = second, 0

    def __call__(self, parameters: Tensor) -> Any:
        self.calls += 1
        return parameters if self.calls == 1 else self.second(parameters)


def failing(parameters: Tensor) -> Tensor:
    raise ValueError("no solution")


BAD: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "an error": (failing, r"got ValueError at line \d+ of .*test_simulators\.py \(no solution\)\. Correct"),
    "integers": (lambda p: np.ones((len(p), 3), np.int64), r"float32 or float64, got int64\. Convert"),
    "objects": (lambda p: np.ones((len(p), 3), object), r"float32 or float64, got object\."),
    "a list": (lambda p: p.tolist(), r"float32 or float64, got list\."),
    "one row": (lambda p: p[:1], r"result of shape \(2, \.\.\.\) for parameters of shape \(2, 2\), got \(1, 2\)\."),
    "numbers": (lambda p: p[:, 0], r"result of shape \(2, \.\.\.\) .*, got \(2,\)\. Return one row"),
    "not a number": (lambda p: p.log() / 0, r"finite values, got -inf at a 0\.\d+, b 2\.\d+\. Correct"),
    "bytes": (lambda p: 255 * p[:, :1, None, None].expand(-1, 1, 8, 8), r"images in \[-1, 1\], got \d.* at a 0\."),
    "another shape": (Changing(lambda p: p[:, :1]), r"shape \(2,\) .*as in its first call, got \(1,\) and float32\."),
    "another type": (Changing(lambda p: p.double()), r"type float32, as in its first call, got \(2,\) and float64\."),
    "not a number later": (Changing(lambda p: p / 0 * 0), r"finite values, got nan at a 0\."),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_simulators_are_rejected(name: str) -> None:
    function, why = BAD[name]
    with pytest.raises(UserError, match=rf"^data\.simulator: expected .*{why}"):
        simulating(function).draw(0, 1)


def test_wrong_ranges_are_rejected() -> None:
    for ends in ((1.0, 1.0), (0.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(UserError, match=r"FunctionSimulator\.ranges\.a: expected a finite range .* got \["):
            FunctionSimulator(bend, {"a": ends})
    with pytest.raises(UserError, match="expected at least one parameter, got none"):
        FunctionSimulator(bend, {})


# ------------------------------------------------------------------------------------------------------ information


def test_information_of_uniform_factors() -> None:
    v = torch.rand(20_000, 2, generator=rng())
    same, matrix = information_matrix(v, v, 20), mutual_information(v, v.square(), 20)
    assert information_gap(same) == pytest.approx(0.999, abs=5e-3)
    torch.testing.assert_close(same.diagonal(), torch.ones(2, dtype=torch.float64))
    assert bool((matrix >= 0).all())
    torch.testing.assert_close(matrix, mutual_information(v.square(), v, 20).T)
    torch.testing.assert_close(matrix, mutual_information(v, v, 20))  # bins do not depend on the scale
    assert matrix[0, 0] == pytest.approx(math.log(20), abs=1e-3)
    assert information_gap(information_matrix(v[:, [1, 0]], v, 20)) == pytest.approx(information_gap(same))


def test_information_of_mixed_factors_has_a_small_gap() -> None:
    v = torch.rand(20_000, 2, generator=rng())
    angle = math.radians(30)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    assert information_gap(information_matrix((v - 0.5) @ turn, v, 20)) < 0.25


def test_information_of_discrete_factors() -> None:
    """A fair coin has log 2 nats, and a copy with a tenth of flips has log 2 minus the entropy of the flips."""
    coin, flip = (torch.rand(100_000, 2, generator=rng()) < torch.tensor([0.5, 0.1])).float().T
    v, z = coin[:, None], (coin != flip).float()[:, None]
    assert mutual_information(v, v, 20).item() == pytest.approx(math.log(2), abs=1e-3)
    flips = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    assert mutual_information(z, v, 20).item() == pytest.approx(math.log(2) - flips, abs=5e-3)
