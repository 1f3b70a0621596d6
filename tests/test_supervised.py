"""Methods that predict, their data and their metrics: the contract, numbers with passports, and bad input."""

import json
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import LINEAR, ROOT, fit, write_digits

from pt_flows.cli.main import main
from pt_flows.contracts import Predicts
from pt_flows.data import MNIST, ImageRows, Kink, LinearRegression, Text, Toy2D
from pt_flows.data.supervised import Supervised
from pt_flows.errors import UserError
from pt_flows.functional.attacks import PGD, Ascent, FastGradient
from pt_flows.methods import AdversarialTraining
from pt_flows.metrics import Accuracy, ExactWasserstein, Risk
from pt_flows.nets import LeNet5, LinearPredictor, MLPPredictor
from pt_flows.testing import METHOD_CHECKS, Case, result_of
from pt_flows.training.predictor import Predictor

SGD = partial(torch.optim.SGD, lr=0.05)
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"optimizer": partial(torch.optim.SGD, lr=0.05, momentum=0.9)}, {}),
    "attacked": ({"l1_weight": 0.01, "lr_schedule": LINEAR}, {"attack": FastGradient(0.3, smoothing=0.1)}),
    "penalised": ({"clip_norm": 1.0}, {"input_gradient_weight": 0.1, "attack": Ascent(2, 0.1)}),
}


def regressor(name: str) -> AdversarialTraining:
    own, arguments = VARIANTS[name]
    network = MLPPredictor(event_shape=[10], width=8)
    return AdversarialTraining(Predictor(network, **{"optimizer": SGD, "ema_decay": 0.9, **own}), **arguments)


def regression() -> LinearRegression:
    return LinearRegression(num_train=40, num_test=100, batch_size=16, iterations_per_block=2)


@cache
def case_of(name: str) -> Case:
    return Case(partial(regressor, name), regression)


@pytest.mark.parametrize("check", METHOD_CHECKS)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_keeps_the_contract(name: str, check: str) -> None:
    result = result_of(check, METHOD_CHECKS[check], case_of(name))
    assert result.outcome == ("skipped" if check.startswith("samples") else "ok"), result.why


def test_plain_training_is_least_squares() -> None:
    network = LinearPredictor(event_shape=[10], bias=False)
    method = AdversarialTraining(Predictor(network, partial(torch.optim.SGD, lr=0.1)))
    data = LinearRegression(num_train=50, num_test=50, batch_size=50)
    fit(method, data, max_steps=600)
    x, y = data.labelled("train")
    torch.testing.assert_close(network.net.weight[0], torch.linalg.lstsq(x, y).solution, rtol=0, atol=1e-4)
    assert isinstance(method, Predicts)


def test_an_l1_weight_is_a_threshold_of_weights_alone() -> None:
    method = regressor("attacked")
    method.predictor.l1_weight = 1e6
    fit(method, regression(), max_steps=1)
    sizes = {p.dim(): bool(p.any()) for p in method.predictor.network.parameters()}
    assert sizes == {2: False, 1: True}


@pytest.mark.parametrize(
    "optimizer", [torch.optim.Adam, partial(torch.optim.SGD, lr=0.1, momentum=0.9)], ids=["Adam", "momentum"]
)
def test_an_l1_weight_needs_plain_sgd(optimizer: Any) -> None:
    method = AdversarialTraining(Predictor(LinearPredictor(event_shape=[10]), optimizer, l1_weight=0.1))
    with pytest.raises(UserError, match=r"predictor.optimizer: expected SGD without momentum .* Use torch.optim.SGD"):
        fit(method, regression(), max_steps=1)


# ------------------------------------------------------------------------------------------------------------- data


def test_regression_has_a_sparse_truth_and_fixed_samples() -> None:
    data = LinearRegression(num_train=4000, dim=6, sparsity=3, batch_size=10)
    (x, y), again = data.labelled("train"), LinearRegression(num_train=4000, dim=6, sparsity=3)
    assert torch.equal(again.labelled("train")[0], x)
    assert not torch.equal(LinearRegression(4000, 6, 3, data_seed=1).labelled("train")[0], x)
    assert (data.truth != 0).sum() == 3
    assert float((y - x @ data.truth).std()) == pytest.approx(0.5, rel=0.05)
    assert data.draw(0, 2)[1].shape == (2, 10)


def test_the_kink_has_101_points() -> None:
    x, y = Kink().labelled("train")
    assert (len(x), float(y.min()), len(Kink().labelled("test")[0])) == (101, 0.0, 100)


def test_rows_of_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_digits(tmp_path)
    data = ImageRows(root=str(tmp_path), num_train=30, batch_size=4)
    images = MNIST(root=str(tmp_path), image_size=28).labelled("train")[0]
    x, _y = data.labelled("train")
    torch.testing.assert_close(x, (images[:30, 0] + 1) / 2)
    with pytest.raises(UserError, match=r"ImageRows.num_train: expected at most 40, the number of images, got 50"):
        ImageRows(root=str(tmp_path), num_train=50).labelled("train")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"expected scikit-learn for its digits, got no such package. Run pip install"):
        ImageRows("digits").labelled("train")


def test_text_predicts_the_next_symbol(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcab" * 20)
    data = Text(str(tmp_path / "a.txt"), length=10, batch_size=2)
    x, y = data.labelled("train")
    assert (data.num_classes, tuple(x.shape[1:]), tuple(y.shape[1:])) == (3, (10, 3), (10,))
    assert torch.equal(x.argmax(2)[:, 1:], y[:, :-1])
    assert data.draw(0, 3)[1].shape == (3, 2, 10)
    assert len(data.labelled("test")[0]) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a text with two different characters or more, got 0 in 0 characters"),
        ("aaaa" * 50, "expected a text with two different characters or more, got 1 in 200 characters"),
        ("abc", "expected more than 50 characters, for two samples of length 25, got 3"),
        (None, "expected a text file in UTF-8, got no such file or directory"),
    ],
)
def test_bad_texts_are_one_sentence(text: str | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "a.txt").write_text(text)
    with pytest.raises(UserError, match=said):
        Text(str(tmp_path / "a.txt"))


class Ragged(Supervised):
    event_shape = (3, 2)
    num_classes = 2

    def load(self, split: Any) -> Any:
        return [torch.zeros(3, 2), torch.zeros(4, 2)], torch.tensor([0, 1])


def test_sequences_of_unequal_length_are_rejected() -> None:
    with pytest.raises(UserError, match=r"expected sequences of one length, got lengths from 3 to 4. Cut them"):
        Ragged(1, 1).labelled("train")


@pytest.mark.parametrize(
    ("network", "data", "said"),
    [
        (MLPPredictor(), Toy2D(), "data: expected samples with targets, such as MNIST or LinearRegression, got Toy2D"),
        (MLPPredictor([10], 3), regression(), "num_classes 0, as LinearRegression has"),
    ],
)
def test_data_without_fitting_targets_are_rejected(network: Any, data: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        fit(AdversarialTraining(Predictor(network, SGD)), data, max_steps=1)


# ---------------------------------------------------------------------------------------------------------- metrics


def test_metrics_have_floors_directions_and_attacks(tmp_path: Path) -> None:
    write_digits(tmp_path)
    data = MNIST(root=str(tmp_path), image_size=28)
    network = LeNet5()
    numbers: dict[str, float] = {}
    for metric in (Accuracy(), Accuracy(PGD(0.2), num_real=20), Risk(), Risk(PGD(0.2))):
        metric.prepare(data, 0)
        metric.update_predictor(network)
        numbers |= metric.compute()
        own = "higher" if isinstance(metric, Accuracy) else "lower"
        assert metric.directions() == {metric.key: own, f"{metric.key}_floor": ""}
    assert numbers["accuracy_all_test_floor"] == pytest.approx(0.1)
    assert numbers["risk_all_test_floor"] == pytest.approx(2.302585)
    assert numbers["robust_accuracy_linf_0.2_pgd10_20_test"] <= numbers["accuracy_all_test"]
    assert numbers["robust_risk_linf_0.2_pgd10_all_test"] > numbers["risk_all_test"]


def test_metrics_reject_what_they_cannot_measure() -> None:
    with pytest.raises(UserError, match="Accuracy: expected data with classes, got LinearRegression"):
        Accuracy().prepare(regression(), 0)
    with pytest.raises(UserError, match="Risk: expected data with targets"):
        Risk().prepare(Toy2D(), 0)
    from pt_flows.evaluation.engine import prepare_metrics

    with pytest.raises(UserError, match="expected a metric of predictions, such as Accuracy or Risk"):
        prepare_metrics([ExactWasserstein()], regression(), 0, torch.device("cpu"), regressor("plain"))


@pytest.mark.slow
def test_runs_are_trained_measured_and_compared(capsys: pytest.CaptureFixture[str]) -> None:
    """Fit, evaluate and compare, as for methods that draw samples."""
    recipe = str(ROOT / "configs/regression/linear.yaml")
    for seed in ("0", "1"):
        words = ["--trainer.max_steps", "10", "--evaluation.every_n_iterations", "5", "--run.wandb", "disabled"]
        assert main(["fit", "--config", recipe, "--seed_everything", seed, *words]) == 0
    assert main(["evaluate", "last"]) == 0
    (folder, *_) = sorted(Path("runs").glob("*/*/evaluations"))
    record = json.loads(next(folder.glob("*.json")).read_text())
    assert record["passport"]["sampler"] == ""
    assert record["passport"]["num_samples"] == 0
    assert record["passport"]["directions"]["risk_all_test"] == "lower"
    (group,) = Path("runs").glob("*")
    capsys.readouterr()
    assert main(["compare", str(group)]) == 0
    assert "risk_all_test" in capsys.readouterr().out
    assert main(["report", str(group)]) == 0
