"""ADMMiRNN: every block update against the Lagrangian, known solutions, both modes, and bad input."""

from pathlib import Path
from typing import Any

import pytest
import torch
from problems import fit, weights
from torch import Tensor, nn

from pt_flows.contracts import Split
from pt_flows.data.supervised import ImageRows, Supervised
from pt_flows.errors import UserError
from pt_flows.functional.admm import Unfolded, Weights, unfolded
from pt_flows.methods import ADMMRNN
from pt_flows.nets import ElmanRNN, LinearPredictor

N, T, F, H, C = 30, 6, 3, 8, 4


class Sequences(Supervised):
    """Random sequences whose labels depend on the first step."""

    num_classes, event_shape = C, (T, F)

    def __init__(self, batch_size: int = N, steps: bool = False) -> None:
        super().__init__(batch_size, 1)
        self.target_shape = (T,) if steps else ()

    def load(self, split: Split) -> tuple[Tensor, Tensor]:
        x, y = problem()[:2]
        return x.float(), y[:, None].expand(-1, T).clone() if self.target_shape else y


def problem(gain: float = 0.9) -> tuple[Tensor, Tensor, Weights]:
    rng = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)
    x = draw(N, T, F)
    W = gain * torch.linalg.qr(draw(H, H))[0]
    return x, (x[:, 0] @ draw(F, C)).argmax(-1), Weights(draw(H, F) / 2, W, draw(H) / 9, draw(C, H) / 4, draw(C) / 9)


@pytest.mark.parametrize("everywhere", [False, True])
def test_no_block_update_increases_the_lagrangian(everywhere: bool) -> None:
    """Fifteen iterations at fixed multipliers, which are not zero."""
    x, y, theta = problem()
    y = y[:, None].expand(-1, T) if everywhere else y
    p = Unfolded(x, y, theta, unfolded(x, theta, T if everywhere else 1), 0.7, 1.3, 1e-3)
    for update in p.backward() + p.forward():
        update()
    p.update_multipliers()
    assert p.v.lambda3.abs().max() > 0
    value = float(p.value())
    for i in range(15):
        for update in p.backward(reverse_time=i % 2 == 1) + p.forward():
            update()
            assert float(p.value()) <= value + 1e-9
            value = float(p.value())


def test_the_multiplier_of_the_output_is_the_gradient_of_the_loss() -> None:
    x, y, theta = problem()
    p = Unfolded(x, y, theta, unfolded(x, theta, 1), 1.0, 1.0, 1e-3)
    p.update_o(200)
    p.update_multipliers()
    torch.testing.assert_close(p.v.lambda3, (p.v.o.softmax(-1) - p.targets)[:, 0], rtol=0, atol=1e-12)


def test_a_strongly_proximal_sweep_follows_the_gradient() -> None:
    """Residuals of a forward pass are zero; then V moves down the gradient, U and W with orders as derived.

    Blocks carry the error of the output to the last step alone, so U and W follow the gradient that passes through it.
    Pairs in reverse time reach the others, too.
    """
    x, y, theta = problem()
    leaves = [part.clone().requires_grad_() for part in (theta.U, theta.W, theta.V)]
    model = Weights(leaves[0], leaves[1], theta.b, leaves[2], theta.c)
    loss = nn.functional.cross_entropy(unfolded(x, model, 1).o[:, 0], y, reduction="sum")
    gradients = torch.autograd.grad(loss, leaves)
    before_last = unfolded(x, theta, 1).s[:, -2]
    last = (x[:, -1] @ model.U.T + before_last @ model.W.T + model.b).tanh() @ theta.V.T + model.c
    short = torch.autograd.grad(nn.functional.cross_entropy(last, y, reduction="sum"), leaves[:2])
    cosines, cosines_last = {}, []
    for reverse in (False, True):
        old = (theta.U, theta.W, theta.V)
        p = Unfolded(x, y, Weights(*vars(theta).values()), unfolded(x, theta, 1), 1.0, 1.0, 50.0)
        assert max(float(r.abs().max()) for r in p.residuals()) < 1e-14
        for update in p.backward(reverse):
            update()
        moved = [new - before for new, before in zip((p.theta.U, p.theta.W, p.theta.V), old, strict=True)]
        cosine = lambda g, d: float(nn.functional.cosine_similarity(-g.flatten(), d.flatten(), 0))
        cosines[reverse] = [cosine(g, d) for g, d in zip(gradients, moved, strict=True)]
        if not reverse:
            cosines_last = [cosine(g, d) for g, d in zip(short, moved, strict=False)]
    assert cosines[False][2] > 0.999
    assert min(cosines_last) > 0.98
    assert min(cosines[True][:2]) > min(cosines[False][:2]) > 0


def sweep(x: Tensor, y: Tensor, theta: Weights, prox: float) -> None:
    p = Unfolded(x, y, theta, unfolded(x, theta, 1), 1.0, 1.0, prox)
    for update in p.backward():
        update()


@pytest.mark.parametrize("gain", [0.3, 3.0])
def test_updates_stay_finite_at_any_scale_of_w(gain: float) -> None:
    x, y, theta = problem(gain)
    old = [part.clone() for part in vars(theta).values()]
    sweep(x, y, theta, 0.01)
    moves = [float((new - before).norm()) for new, before in zip(vars(theta).values(), old, strict=True)]
    assert all(0 < move < 10 for move in moves)


def test_weights_neither_vanish_nor_explode() -> None:
    """Those of the released code are divided by ten several times in a sweep."""
    x, y, theta = problem()
    before = {name: float(part.norm()) for name, part in vars(theta).items()}
    for _ in range(50):
        sweep(x, y, theta, 0.1)
    assert all(0.1 < float(vars(theta)[name].norm()) / before[name] < 10 for name in "UWV")


@pytest.mark.slow
def test_one_step_is_multinomial_regression_on_the_states() -> None:
    """With T = 1 and (U, W, b) at rest, sweeps of o, (V, c) and multipliers reach the convex optimum of V and c."""
    x, y, theta = problem()
    p = Unfolded(x[:, :1], y, theta, unfolded(x[:, :1], theta, 1), 1.0, 1.0, 1e-9)
    for _ in range(1500):
        p.update_o()
        p.update_output()
        p.update_multipliers()
    s = p.v.s[:, 0]
    V, c = p.theta.V.clone().requires_grad_(), p.theta.c.clone().requires_grad_()
    loss = nn.functional.cross_entropy(s @ V.T + c, y)
    assert max(float(g.abs().max()) for g in torch.autograd.grad(loss, (V, c))) < 1e-3


# ---------------------------------------------------------------------------------------------------------- the method


def rnn(outputs: Any = "last") -> ElmanRNN:
    torch.manual_seed(0)
    return ElmanRNN((T, F), C, H, outputs, recurrent_gain=0.9)


@pytest.mark.parametrize("order", ["block", "reverse_time"])
@pytest.mark.parametrize(("mode", "steps"), [("reinit", False), ("reinit", True), ("persistent", False)])
def test_it_learns_and_resumes_bit_for_bit(mode: Any, steps: bool, order: Any, tmp_path: Path) -> None:
    make = lambda: ADMMRNN(rnn("all" if steps else "last"), mode=mode, order=order)
    whole, first, second = make(), make(), make()
    fit(whole, Sequences(steps=steps), 10)
    fit(first, Sequences(steps=steps), 5).save_checkpoint(tmp_path / "a.ckpt")
    fit(second, Sequences(steps=steps), 10, ckpt_path=tmp_path / "a.ckpt")
    assert torch.equal(weights(whole), weights(second))
    x, y = Sequences(steps=steps).load("train")
    start, end = (
        nn.functional.cross_entropy(m(x).movedim(-1, 1), y) for m in (rnn(whole.network.outputs), whole.predict)
    )
    assert float(end) < float(start)


class Kept(ADMMRNN):
    """Keeps the terms of all iterations."""

    def __init__(self, network: Any, **arguments: Any) -> None:
        super().__init__(network, **arguments)
        self.seen: list[dict[str, float]] = []

    def iterate(self, minibatches: Any) -> Any:
        terms = super().iterate(minibatches)
        self.seen.append({name: float(value) for name, value in terms.items()})
        return terms


def digits(**arguments: Any) -> tuple[Kept, dict[Split, float]]:
    """Sixty sweeps over 600 digits of 8x8 pixels, row by row, and the accuracies of a true forward pass."""
    pytest.importorskip("sklearn.datasets")
    data = ImageRows("digits", num_train=600, batch_size=600)
    torch.manual_seed(0)
    method = Kept(ElmanRNN((8, 8), 10, 24, recurrent_gain=0.9), **arguments)
    fit(method, data, 60)
    splits: tuple[Split, ...] = ("train", "test")
    found = {split: data.labelled(split) for split in splits}
    return method, {split: float((method.predict(x).argmax(1) == y).float().mean()) for split, (x, y) in found.items()}


@pytest.mark.slow
def test_sweeps_from_forward_passes_learn_digits() -> None:
    _, accuracy = digits(prox=0.1)
    assert accuracy["train"] > 0.8
    assert accuracy["test"] > 0.7


@pytest.mark.slow
def test_kept_variables_fulfil_the_equations_of_digits() -> None:
    """The Lagrangian falls tenfold twice, which a true forward pass does not repay: its loss rises again."""
    method, accuracy = digits(prox=1e-3, mode="persistent")
    first, tenth, last = (method.seen[i]["lagrangian"] for i in (0, 9, 59))
    assert tenth < first / 8
    assert last < tenth / 5
    residual = sum(method.seen[-1][f"residual_{k}"] ** 2 for k in (1, 2, 3))
    assert (residual / method.a.numel()) ** 0.5 < 6e-3
    assert accuracy["train"] > 0.5
    assert method.seen[59]["loss"] > method.seen[9]["loss"]


@pytest.mark.parametrize(("mode", "passes"), [("reinit", 4), ("persistent", 2)])
def test_forward_passes_count_as_cost(mode: Any, passes: int) -> None:
    """One to begin, one for each of two sweeps that begin afresh, and one for the loss."""
    method = ADMMRNN(rnn(), mode=mode, sweeps=2)
    fit(method, data := Sequences(), 1)
    assert method.cost.evaluations == {"network": passes * data.batch_size}


def test_weights_load_into_a_cell_of_torch() -> None:
    method = ADMMRNN(rnn())
    fit(method, Sequences(), 3)
    cell = nn.RNNCell(F, H)
    cell.load_state_dict({name.removesuffix("_l0"): v for name, v in method.network.rnn.state_dict().items()})
    x = Sequences().load("train")[0]
    s = torch.zeros(N, H)
    for t in range(T):
        s = cell(x[:, t], s)
    torch.testing.assert_close(method.network.readout(s), method.predict(x))


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"model\.network: expected an ElmanRNN.* got LinearPredictor"):
        ADMMRNN(LinearPredictor((T, F), C))
    with pytest.raises(
        UserError, match=r"ElmanRNN\.event_shape: expected length and features of sequences, got \(3, 4, 5\)"
    ):
        ElmanRNN((3, 4, 5))
    with pytest.raises(UserError, match=r"ADMMRNN\.mu: expected a number above 0"):
        ADMMRNN(rnn(), mu=0.0)
    with pytest.raises(UserError, match=r"model\.network\.outputs: expected all, as Sequences has labels there"):
        fit(ADMMRNN(rnn()), Sequences(steps=True), 1)
    with pytest.raises(
        UserError, match=r"model\.network: expected event_shape \(6, 3\), as Sequences has, got \(5, 3\)"
    ):
        fit(ADMMRNN(ElmanRNN((5, F), C, H)), Sequences(), 1)
