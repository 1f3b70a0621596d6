"""Samplers: how samples are drawn from every method, and a sampler of a third party from the docs."""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import METHODS, ROOT, build, data, fit
from torch import Tensor, nn

import pt_flows
from pt_flows.cli.main import main
from pt_flows.contracts import Terms, Weights
from pt_flows.data import Shapes32
from pt_flows.errors import UserError
from pt_flows.evaluation import subject as subjects
from pt_flows.evaluation.subject import Subject
from pt_flows.loop.method import Method
from pt_flows.methods import ODEGAN, W1FE
from pt_flows.methods.energies.base import EnergyMethod
from pt_flows.nets import ResNetCritic, ResNetGenerator
from pt_flows.samplers import Chains, Direct, Sampler, default_sampler, sample
from pt_flows.training import distributed

PAGE = (ROOT / "docs/samplers.md").read_text()


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def own_sampler(folder: Path) -> None:
    """Write the module of the page."""
    (code,) = re.findall(r'^```python\n"""my_samplers\.py"""\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
    (folder / "my_samplers.py").write_text(code)


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> Any:
    """Every method, trained a little."""
    found = build(request.param)
    fit(found, data(), max_steps=3)
    return found


@pytest.fixture
def my_samplers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the docs, as a user's file."""
    own_sampler(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_samplers", raising=False)
    yield importlib.import_module("my_samplers")
    sys.modules.pop("my_samplers", None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num": None}, "num: expected at least 1, got None"),
        ({"num": 4.5}, "num: expected a whole number, got 4.5"),
        ({"sampler": "Direct"}, r"sampler: expected a Sampler such as Direct\(\), got 'Direct'"),
        ({"weights": "emma"}, "weights: expected ema, raw or ema@ with a decay, .* got 'emma'"),
    ],
)
def test_arguments_of_another_kind(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        sample(build("W1FE"), **{"num": 4, **arguments})


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more"])
def test_a_damaged_checkpoint_is_told_apart(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=r"last\.ckpt: expected a checkpoint, got a file that cannot be read"):
        W1FE.load_from_checkpoint(tmp_path / "last.ckpt")


# ------------------------------------------------------------------------------------------------------- every method


@pytest.mark.filterwarnings("ignore:.*chains from noise were not at label 0")
def test_every_method_is_drawn_from(method: Any) -> None:
    """Shape and device; noise decides; averaged and raw weights differ; the method stays as it was."""
    assert type(default_sampler(method)) is (Chains if isinstance(method, EnergyMethod) else Direct)
    modes, before = [m.training for m in method.modules()], [p.clone() for p in method.parameters()]
    x = sample(method, 5, rng=rng())
    assert (x.shape, x.dtype, x.device) == ((5, 2), torch.float32, method.device)
    assert bool(x.isfinite().all())
    assert not x.requires_grad
    assert torch.equal(x, sample(method, 5, rng=rng()))
    assert not torch.equal(x, sample(method, 5, rng=rng(1)))
    assert torch.equal(x, sample(method, 5, rng=rng(), weights="raw")) is method.settles
    assert sample(method, 1, rng=rng()).shape == (1, 2)
    torch.manual_seed(7)
    first, second = sample(method, 5), sample(method, 5)
    assert not torch.equal(first, second)
    torch.manual_seed(7)
    assert torch.equal(first, sample(method, 5))
    assert [m.training for m in method.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(before, method.parameters(), strict=True))


def test_every_method_rejects_requests_that_do_not_fit(method: Any) -> None:
    for num in (0, -1):
        with pytest.raises(UserError, match=f"num: expected at least 1, got {num}"):
            sample(method, num)
    with pytest.raises(UserError, match=r"y: expected no labels, as .* is not class-conditional"):
        sample(method, 2, y=torch.tensor([0, 1]))
    wrong = Direct() if isinstance(method, EnergyMethod) else Chains()
    with pytest.raises(UserError, match=rf"sampler: expected .* for {wrong}, got {type(method).__name__}\. Use "):
        sample(method, 2, sampler=wrong)


def test_the_public_function_is_the_one_of_the_package() -> None:
    assert pt_flows.sample is sample


def test_labels_choose_the_samples_of_a_conditional_generator() -> None:
    G = ResNetGenerator(width=4, latent_dim=8, num_classes=10)
    for embedding in (m for m in G.modules() if isinstance(m, nn.Embedding)):
        nn.init.normal_(embedding.weight)  # classes begin alike
    method = ODEGAN(G, ResNetCritic(width=4, num_classes=10), 0.01)
    labels = torch.tensor([3, 3, 7])
    x = sample(method, 3, labels, rng())
    assert x.shape == (3, *Shapes32.event_shape)
    assert torch.equal(x, sample(method, 3, labels, rng()))
    assert not torch.equal(x, sample(method, 3, torch.tensor([4, 4, 8]), rng()))
    assert torch.equal(sample(method, 3, rng=rng()), sample(method, 3, rng=rng()))  # labels are drawn, too
    for wrong in ([0, 1], [0, 1, 10], [-1, 0, 0]):
        with pytest.raises(UserError, match=r"y: expected labels of shape \(3,\) in 0 \.\.\. 9, got shape"):
            sample(method, 3, torch.tensor(wrong), rng())


@pytest.mark.parametrize(("name", "role"), [("W1FE", "generator"), ("ODEGAN", "generator"), ("PCD", "energy")])
def test_averaged_weights_are_refused_where_none_are_kept(name: str, role: str) -> None:
    method = build(name, ema_decay=None)
    with pytest.raises(UserError, match=f"weights: expected raw, got ema, but {role} keeps no average. Choose raw, or"):
        sample(method, 2)
    assert sample(method, 2, weights="raw").shape == (2, 2)


# ---------------------------------------------------------------------------------------------------- methods of users


class Nothing(Method):
    """A method that generates nothing."""

    def iterate(self, minibatches: Any) -> Terms:
        return {}


class Own(Nothing):
    """A method with its own way of drawing."""

    def sample(
        self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None, weights: Weights = "ema"
    ) -> Tensor:
        return torch.randn(num, 3, generator=rng) + (weights == "raw")


def test_a_method_draws_in_its_own_way_or_not_at_all() -> None:
    assert type(default_sampler(Own())) is Direct
    assert torch.equal(sample(Own(), 4, rng=rng(), weights="raw"), torch.randn(4, 3, generator=rng()) + 1)
    with pytest.raises(UserError, match="Nothing: expected a method that generates samples, got one without generator"):
        sample(Nothing(), 4)


# -------------------------------------------------------------------------------------------------------------- chains


@pytest.mark.filterwarnings("ignore:.*chains from noise were not at label 0")
@pytest.mark.parametrize("arguments", [{}, {"data_noise": 0.5, "denoise": True}])
@pytest.mark.parametrize("name", ["DAEBM", "PCD", "ImprovedCD"])
def test_progress_of_chains_ends_with_the_samples(name: str, arguments: dict[str, Any]) -> None:
    """Fractions ascend to one, no stage before the last is whole, and denoising comes last."""
    if arguments and name != "DAEBM":
        arguments = {}
    more = {"num_sampling_steps": 25} if name == "PCD" else {}
    method, sampler = build(name, **arguments, **more), Chains()
    sampler.prepare(method, "raw")
    *stages, (last, x) = sampler.sampling(6, rng())
    fractions = [fraction for fraction, _ in stages]
    assert len(stages) > 1
    assert all(a <= b for a, b in pairwise(fractions))
    assert 0 <= fractions[0] < fractions[-1] < last == 1
    assert torch.equal(x, sample(method, 6, rng=rng(), weights="raw"))
    denoised = method.denoised(stages[-1][1], "raw") if method.denoise else stages[-1][1]
    assert torch.equal(x, denoised)


def test_a_direct_draw_has_one_stage() -> None:
    sampler = Direct()
    sampler.prepare(build("W1FE"), "ema")
    ((fraction, x),) = sampler.sampling(4, rng())
    assert fraction == 1
    assert torch.equal(x, sampler.sample(4, rng=rng()))


def test_chains_that_end_in_another_shape_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build("PCD")
    monkeypatch.setattr(type(method), "sampling", lambda *_: iter([(1.0, torch.zeros(2, 3))]))
    with pytest.raises(UserError, match=r"PCD.sampling: expected 2 samples, .* shape \(2, 2\), got \(2, 3\)"):
        sample(method, 2)


# ------------------------------------------------------------------------------------------------------------ subjects


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
def test_chunks_are_the_same_whatever_the_number_of_ranks(num_ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joined in the order of ranks; every sample costs one evaluation of the generator, on whichever rank."""
    method, parts, evaluations = build("W1FE"), [], 0
    whole = torch.cat(list(Subject(method).chunks(1_234, "here")))
    for rank in range(num_ranks):
        monkeypatch.setattr(distributed, "world", lambda rank=rank: (rank, num_ranks))
        monkeypatch.setattr(subjects, "sum_over_ranks", lambda counts: counts)
        subject = Subject(method)
        parts += list(subject.chunks(1_234, "here"))
        evaluations += 1_234 * subject.evaluations.get("generator", 0)
        assert subject.evaluations.keys() <= {"generator"}
    assert [len(part) for part in parts] == [500, 500, 234]
    assert torch.equal(torch.cat(parts), whole)
    assert evaluations == pytest.approx(1_234)
    assert not torch.equal(whole, torch.cat(list(Subject(method).chunks(1_234, "there"))))
    assert not torch.equal(whole[:500], whole[500:1_000])


def test_drawing_counts_beside_training_and_leaves_no_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "CHUNK", 8)
    method = build("PCD", num_sampling_steps=7, metropolis=False)
    fit(method, data(), max_steps=1)
    trained = dict(method.cost.evaluations)
    for weights in ("ema", "raw"):
        subject = Subject(method, weights)
        assert sum(map(len, subject.chunks(20, "here"))) == 20
        assert subject.evaluations["energy"] >= 7
        assert subject.sampling_cost == {"sampling_energy": subject.evaluations["energy"]}
    before = dict(subject.evaluations)
    sample(method, 3, weights="raw")
    assert subject.evaluations == before
    assert method.cost.evaluations == trained


def test_a_subject_without_a_sampler_takes_the_default_one() -> None:
    subject = Subject(build("PCD"))
    assert type(subject.prepared()) is type(subject.sampler) is Chains
    with pytest.raises(UserError, match="sampler: expected a method with a generator for Direct, got PCD"):
        next(Subject(build("PCD"), sampler=Direct()).chunks(5, "here"))


# ----------------------------------------------------------------------------------------------- a third-party sampler


class Shifted(Sampler):
    """A sampler with arguments of several kinds, the last of which has no text form."""

    def __init__(self, by: float, kinds: tuple[str, ...] = ("a", "b"), law: Any = None) -> None:
        self.by, self.seen = by, []

    def prepare(self, method: Any, weights: Weights, data: Any = None) -> None:
        super().prepare(method, weights, data)
        self.seen.append((method, weights, data))

    def sample(self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None) -> Tensor:
        return sample(self.method, num, y, rng, self.weights) + self.by


def test_samplers_are_named_with_their_arguments() -> None:
    """The text tells samplers apart, and does not depend on whether a default was given."""
    assert (str(Direct()), str(Chains())) == ("Direct", "Chains")
    assert str(Shifted(0.5)) == str(Shifted(law=None, by=0.5)) == "Shifted(by=0.5, kinds=('a', 'b'), law=None)"
    assert str(Shifted(0.5, law=rng())) == "Shifted(by=0.5, kinds=('a', 'b'), law=...)"
    assert str(Shifted(0.5)) != str(Shifted(0.25))


def test_a_sampler_of_a_third_party_serves_a_subject() -> None:
    method, real = build("W1FE"), data()
    subject = Subject(method, "raw", Shifted(10.0), real)
    assert subject.prepared().seen == [(method, "raw", real)]
    x = torch.cat(list(subject.chunks(700, "here")))
    torch.testing.assert_close(x, torch.cat(list(Subject(method, "raw").chunks(700, "here"))) + 10)
    assert subject.evaluations == {"generator": 1.0}


def test_the_sampler_of_the_docs(my_samplers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Rejections follow the critic's density ratio."""
    sampler = my_samplers.Rejection(bound=4.0)
    assert str(sampler) == "Rejection(bound=4.0)"
    assert str(my_samplers.Rejection()) == str(my_samplers.Rejection(2.0)) == "Rejection(bound=2.0)"
    with pytest.raises(UserError, match=r"Rejection.bound: expected a number above 0, got 0.0"):
        my_samplers.Rejection(0.0)
    with pytest.raises(UserError, match="sampler: expected a method with a critic for Rejection, got PCD"):
        sample(build("PCD"), 4, sampler=sampler)
    method = build("JSFlow")
    twice_as_dense = lambda x: torch.where(x[:, 0] > x[:, 0].median(), 2.0, 1.0).log()
    method.critic.network.forward = twice_as_dense
    x, split = sample(method, 4000, rng=rng(), sampler=sampler), sample(method, 4000, rng=rng())[:, 0].median()
    assert torch.equal(x, sample(method, 4000, rng=rng(), sampler=sampler))
    assert float((x[:, 0] > split).float().mean()) == pytest.approx(2 / 3, abs=0.04)
    method.critic.network.forward = lambda x: torch.full((len(x),), -99.0)
    with pytest.raises(UserError, match=r"Rejection.bound: expected one that keeps samples, got 4.0"):
        sample(method, 2, sampler=sampler)


def test_the_python_of_the_docs_runs(my_samplers: Any) -> None:
    _, _, code = PAGE.split("```python\n")
    found: dict[str, Any] = {}
    exec(code.split("```")[0].replace("max_steps=200", "max_steps=4, enable_progress_bar=False"), found)
    assert found["x"].shape == (64, 2)
    line = next(line for line in PAGE.splitlines() if line.startswith("    x = "))
    exec(line.strip(), {"pt_flows": pt_flows, "torch": torch, "method": found["method"]})


@pytest.mark.usefixtures("my_samplers")
def test_the_command_of_the_docs_measures_through_the_sampler(capsys: pytest.CaptureFixture[str]) -> None:
    """The passport names it, and the mistake of a user is one sentence."""
    words = ["fit", "--config", str(ROOT / "configs/toy2d/js_flow.yaml"), "--trainer.max_steps", "2"]
    words += ["--trainer.accelerator", "cpu", "--data.batch_size", "32", "--evaluation.metrics", "[]"]
    assert main(words) == 0
    (run,) = map(str, Path("runs").glob("*/*"))
    (command,) = re.findall(r"^    PYTHONPATH=. pt-flows (evaluate .+)$", PAGE, re.MULTILINE)
    few = ["--n", "50", "--metrics", "[{class_path: ExactWasserstein}]", "--device", "cpu"]
    assert main([run if word == "RUN" else word for word in command.split()] + few) == 0
    (record,) = Path(run, "evaluations").glob("*.json")
    assert json.loads(record.read_text())["passport"]["sampler"] == "Rejection(bound=2.0)"
    assert main(["evaluate", run, "--sampler", "my_samplers.Rejection", "--sampler.bound", "0", *few]) == 2
    assert "sampler.bound: expected a number above 0, got 0" in capsys.readouterr().err
