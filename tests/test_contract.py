"""The contract of methods, samplers and networks: that all of the package keep it, and that every check can fail."""

import inspect
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import METHODS, ROOT, Adam, build, data_of
from problems import data as problem_data
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

import pt_flows.nets
from pt_flows.cli.main import main
from pt_flows.contracts import CriticNet, EncoderNet, GeneratorNet
from pt_flows.loop.method import Method
from pt_flows.nets import MLPCritic, MLPGenerator, ResidualMLPGenerator
from pt_flows.samplers import Direct, Sampler
from pt_flows.testing import (
    METHOD_CHECKS,
    NETWORK_CHECKS,
    Case,
    Report,
    check_method,
    check_network,
    check_sampler,
    result_of,
)
from pt_flows.training.noise import generator_at, run_seed
from pt_flows.training.players import Critic, Generator

IMAGES_IN_FAST_TESTS = ("W1FE", "ODEGAN")


data = partial(problem_data, iterations_per_block=2)


@cache
def case_of(name: str, images: bool) -> Case:
    return Case(partial(build, name, images, seed=None), partial(data_of, name, images, iterations_per_block=2))  # type: ignore[arg-type]


def kinds(name: str) -> list[Any]:
    slow = () if name in IMAGES_IN_FAST_TESTS else pytest.mark.slow
    return [pytest.param(name, False, id=f"{name}-toys"), pytest.param(name, True, id=f"{name}-images", marks=slow)]


@pytest.mark.parametrize("check", METHOD_CHECKS)
@pytest.mark.parametrize(("name", "images"), [kind for name in METHODS for kind in kinds(name)])
def test_every_method_keeps_the_contract(name: str, images: bool, check: str) -> None:
    result = result_of(check, METHOD_CHECKS[check], case_of(name, images))
    settled = METHODS[name]["cls"].settles and check in ("average", "samples by weights")
    assert result.outcome == ("skipped" if settled else "ok"), result.why


def small(cls: Any, **arguments: Any) -> Callable[[], Any]:
    known = inspect.signature(cls).parameters
    return partial(cls, **{key: value for key, value in {"width": 8, **arguments}.items() if key in known})


NETWORKS = [(name, {}) for name in pt_flows.nets.__all__]
NETWORKS += [
    (name, {"noise_std": 0.3})
    for name in pt_flows.nets.__all__
    if "noise_std" in inspect.signature(getattr(pt_flows.nets, name)).parameters
]


@pytest.mark.parametrize("check", NETWORK_CHECKS)
@pytest.mark.parametrize(
    ("name", "noise"), NETWORKS, ids=[f"{name}{'-noise' * bool(noise)}" for name, noise in NETWORKS]
)
def test_every_network_keeps_the_contract(name: str, noise: dict[str, float], check: str) -> None:
    make = small(getattr(pt_flows.nets, name), image_size=32, attention=False, **noise)
    result = result_of(check, NETWORK_CHECKS[check], make)
    once = check == "second derivatives" and isinstance(make(), GeneratorNet | EncoderNet)
    assert result.outcome == ("skipped" if once else "ok"), result.why


# ------------------------------------------------------------------------------------------------------ broken methods


class Good(Method):
    """A Wasserstein GAN without a penalty."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = Generator(MLPGenerator(width=8), Adam, ema_decay=0.9)
        self.critic = Critic(MLPCritic(width=8), Adam, steps=1)
        self.calls = 0

    def jitter(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.noise.normal(*x.shape)

    def iterate(self, minibatches: Any) -> Any:
        ((x, _),) = minibatches
        G, D = self.generator, self.critic
        z = G.latents(len(x), self.noise)
        loss_D = D(G(z).detach()).mean() - D(self.jitter(x)).mean()
        D.step(loss_D)
        loss_G = -D(G(z)).mean()
        G.step(loss_G)
        self.calls += 1
        return {"loss_D": loss_D.detach(), "loss_G": loss_G.detach()}


class LaterNumbers(Good):
    """The second iteration reads its loss."""

    def iterate(self, minibatches: Any) -> Any:
        terms = super().iterate(minibatches)
        return terms | {"loss_G": terms["loss_G"].item()} if self.iteration else terms


class WithGraph(Good):
    """The second iteration keeps a graph."""

    def iterate(self, minibatches: Any) -> Any:
        terms = super().iterate(minibatches)
        return terms | {"loss_G": self.critic(minibatches[0][0]).mean()} if self.iteration else terms


class Diverging(Good):
    """A loss that is not a number."""

    def jitter(self, x: Tensor) -> Tensor:
        return x * torch.nan


class Mistaken(Good):
    """A mistake of the programmer."""

    def jitter(self, x: Tensor) -> Tensor:
        return x @ x


class Idle(Good):
    """A parameter that no optimizer moves."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def jitter(self, x: Tensor) -> Tensor:
        return self.scale * x


class DeadCritic(Good):
    """A parameter whose gradient is always zero."""

    def __init__(self) -> None:
        super().__init__()
        critic: Any = self.critic.network
        critic.dead = nn.Parameter(torch.ones(1))
        critic.register_forward_hook(lambda net, inputs, values: values + 0 * net.dead)


class Unseeded(Good):
    """Random numbers that no seed decides."""

    def jitter(self, x: Tensor) -> Tensor:
        rng = torch.Generator()
        rng.seed()
        return x + torch.randn(x.shape, generator=rng)


class Seeding(Good):
    """A seed of its own, in place of the run's."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()

    def iterate(self, minibatches: Any) -> Any:
        self.noise.rng.manual_seed(self.iteration)
        return super().iterate([(torch.ones_like(x), y) for x, y in minibatches])


class NotPlain(Good):
    """More than plain values in a checkpoint."""

    def get_extra_state(self) -> Any:
        return super().get_extra_state() | {"folder": Path()}


class LosesCount(Good):
    """A checkpoint without the iteration."""

    def get_extra_state(self) -> Any:
        return {}

    def set_extra_state(self, state: Any) -> None:
        """Restore nothing."""


class Hidden(Good):
    """State that no checkpoint holds."""

    def jitter(self, x: Tensor) -> Tensor:
        return x / (1 + self.calls)


class Global(Good):
    """Random numbers of the global generator, which every process has for itself."""

    def jitter(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class SameNoise(Good):
    """The same random numbers on all processes."""

    def jitter(self, x: Tensor) -> Tensor:
        rng = generator_at("cpu", run_seed(), "mine", self.iteration)
        return x + torch.randn(x.shape, generator=rng)


class WholeBatch(Good):
    """The mean of a process in place of that of the minibatch."""

    def jitter(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class ByHand(Good):
    """Gradients that nobody averages over processes."""

    def iterate(self, minibatches: Any) -> Any:
        terms = super().iterate(minibatches)
        loss = self.critic(minibatches[0][0]).square().mean()
        self.critic.apply_gradients(torch.autograd.grad(loss, self.critic.trained))
        return terms


class NoAverage(Good):
    """An average that is overwritten."""

    def iterate(self, minibatches: Any) -> Any:
        terms = super().iterate(minibatches)
        average: Any = self.generator.ema
        average.network.load_state_dict(self.generator.network.state_dict())
        return terms


BROKEN: list[tuple[type[Good], str, str]] = [
    (LaterNumbers, "trains", r"LaterNumbers.iterate: .*loss_G.* got float"),
    (WithGraph, "trains", r"WithGraph.iterate: .*graph.*detach"),
    (Diverging, "trains", r"loss_D is nan at iteration 1"),
    (Mistaken, "trains", r"RuntimeError: .*mat1 and mat2 .*\(test_contract.py, line \d+\)"),
    (Idle, "moves", r"scale did not move in 3 iterations"),
    (DeadCritic, "moves", r"critic.network.dead did not move in 3 iterations"),
    (Unseeded, "same seed", r"two runs with one seed give different weights \(generator.* differs by"),
    (Seeding, "same seed", r"runs with two seeds give the same weights"),
    (NotPlain, "checkpoint", r"holds more than tensors and plain values \(pathlib\."),
    (LosesCount, "checkpoint", r"a loaded method is at iteration 0, expected 3"),
    (Hidden, "resume", r"resumed from a checkpoint at iteration 4 has other weights at 6 .*generator.* differs by"),
    (Global, "two processes", r"two processes has other weights than a run on one \(.*all_ranks"),
    (SameNoise, "two processes", r"Draw from self.noise, which gives every process its share"),
    (WholeBatch, "two processes", r"two processes has other weights than a run on one \(.*all_ranks"),
    (ByHand, "two processes", r"the two processes have different weights after iteration 2 \(.*mean_over_ranks"),
    (NoAverage, "average", r"the average of generator equals its weights"),
]


def expect(report: Report, check: str, message: str) -> None:
    """One check failed, with this sentence, and no other."""
    failed = {result.name: result.why for result in report.results if result.outcome == "FAILED"}
    assert list(failed) == [check], str(report)
    assert "\n" not in failed[check]
    assert re.search(message, failed[check]), failed[check]


def test_a_good_method_passes_and_a_line_is_printed_for_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    report = check_method(Good, data)
    assert report.passed
    lines = capsys.readouterr().out.splitlines()
    assert lines == str(report).splitlines() == [f"ok      {name}" for name in METHOD_CHECKS]


@pytest.mark.parametrize(("cls", "check", "message"), BROKEN, ids=[cls.__name__ for cls, *_ in BROKEN])
def test_a_broken_method_fails_one_check(cls: type[Good], check: str, message: str) -> None:
    expect(check_method(cls, data), check, message)


def test_what_does_not_apply_is_skipped() -> None:
    class Silent(Good):
        """Without samples or averages."""

        def __init__(self) -> None:
            super().__init__()
            self.push = Generator(MLPGenerator(width=8), Adam, ema_decay=None)
            del self.generator

        @property
        def players(self) -> Any:
            return {"generator": self.push, "critic": self.critic}

        def iterate(self, minibatches: Any) -> Any:
            loss = self.push(minibatches[0][0]).square().mean() + self.critic(minibatches[0][0]).mean() * 0
            self.push.step(loss)
            self.critic.step(self.critic(minibatches[0][0]).square().mean())
            return {"loss": loss.detach()}

    report = check_method(Silent, data)
    assert report.passed, str(report)
    skipped = {result.name: result.why for result in report.results if result.outcome == "skipped"}
    assert skipped["average"] == "no player keeps an average of its weights"
    assert skipped["samples"] == "Silent draws no samples"


def test_batch_norm_is_excused_from_equal_processes_only() -> None:
    class Normalised(Good):
        """With batch norm in the generator."""

        def __init__(self) -> None:
            super().__init__()
            self.generator = Generator(ResidualMLPGenerator(width=8), Adam, ema_decay=0.9)

    report = check_method(Normalised, data)
    assert report.passed, str(report)
    (skipped,) = [str(result) for result in report.results if result.outcome == "skipped"]
    assert skipped.startswith("skipped two processes: batch norm normalises the part")


def test_checks_leave_the_caller_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check_method(Global, data)
    assert run_seed() == 7
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32


# ----------------------------------------------------------------------------------------------------- broken samplers


class Cut(Direct):
    """One coordinate too few."""

    def sample(self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None) -> Tensor:
        return super().sample(num, y, rng)[:, :1]


class OwnNoise(Direct):
    """The global generator."""

    def sample(self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None) -> Tensor:
        return super().sample(num, y, rng) + torch.randn(num, 2)


class Fixed(Direct):
    """The same samples always."""

    def sample(self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None) -> Tensor:
        return super().sample(num, y, torch.Generator().manual_seed(0))


class OfAllRows(Direct):
    """Noise that changes with the number of samples."""

    def sample(self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None) -> Tensor:
        return super().sample(num, y, rng) + torch.randn(num, 2, generator=rng)


class AlwaysRaw(Direct):
    """The raw weights whatever is asked."""

    def prepare(self, method: Any, weights: Any, data: Any = None) -> None:
        super().prepare(method, "raw", data)


class LeavesMode(Direct):
    """Evaluation mode for ever."""

    def prepare(self, method: Any, weights: Any, data: Any = None) -> None:
        super().prepare(method, weights, data)
        method.critic.network.eval()


class Tunes(Direct):
    """Changes the method."""

    def prepare(self, method: Any, weights: Any, data: Any = None) -> None:
        super().prepare(method, weights, data)
        next(method.critic.parameters()).data += 1


SAMPLERS: list[tuple[type[Sampler], str, str]] = [
    (Cut, "samples", r"expected 7 samples of the data's shape, \(7, 2\), got \(7, 1\)"),
    (OwnNoise, "samples by rng", r"generators of one seed differ"),
    (Fixed, "samples by rng", r"generators of two seeds are the same"),
    (OfAllRows, "samples by number", r"the first 3 of 23 samples differ"),
    (AlwaysRaw, "samples by weights", r"averaged and raw weights give the same samples"),
    (LeavesMode, "samples leave no trace", r"drawing leaves critic.network in another mode"),
    (Tunes, "samples leave no trace", r"drawing changes the method's weights \(critic.network"),
]


def test_a_good_sampler_passes() -> None:
    assert check_sampler(Direct, Good, data).passed


@pytest.mark.parametrize(("cls", "check", "message"), SAMPLERS, ids=[cls.__name__ for cls, *_ in SAMPLERS])
def test_a_broken_sampler_fails_one_check(cls: type[Sampler], check: str, message: str) -> None:
    expect(check_sampler(cls, Good, data), check, message)


# ----------------------------------------------------------------------------------------------------- broken networks


class Net(CriticNet):
    """A critic."""

    def __init__(self) -> None:
        super().__init__()
        self.event_shape = (2,)
        self.one, self.two = nn.Linear(2, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).sigmoid())[:, 0]


class Columns(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, None]


class IdleLayer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(2, 2)


class Once(torch.autograd.Function):
    """A square that can be differentiated once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * gradient


class OnceOnly(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.two(Once.apply(self.one(x)))[:, 0]


class FixedSlope(Net):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1) + super().forward(x.detach())


class Forgets(Net):
    def __init__(self) -> None:
        super().__init__()
        self.direction = torch.randn(2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.direction)


class AlwaysDrops(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x + 1, 0.5, training=True))


class Together(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Counts(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return super().forward(x)


NETWORKS: list[tuple[type[nn.Module], str, str]] = [
    (Columns, "shape", r"Columns: expected one value per sample, shape \(6,\), got \(6, 1\)"),
    (IdleLayer, "gradients", r"IdleLayer: the output does not depend on idle.weight, idle.bias"),
    (OnceOnly, "second derivatives", r"OnceOnly: the gradient in the input cannot be differentiated \(.*once_diff"),
    (FixedSlope, "second derivatives", r"FixedSlope: the gradient in the input does not depend on any parameter"),
    (Forgets, "state dict", r"Forgets: another network with the same state dict gives other values"),
    (AlwaysDrops, "evaluation mode", r"AlwaysDrops: gives other values every time in evaluation mode"),
    (Together, "evaluation mode", r"Together: what one sample gives depends on the others"),
    (Counts, "evaluation mode", r"Counts: changes seen in evaluation mode"),
]


@pytest.mark.parametrize(("cls", "check", "message"), NETWORKS, ids=[cls.__name__ for cls, *_ in NETWORKS])
def test_a_broken_network_fails_one_check(cls: Any, check: str, message: str) -> None:
    expect(check_network(cls), check, message)


def test_something_else_is_no_network() -> None:
    expect(check_network(lambda: nn.Linear(2, 1)), "shape", r"Linear: expected a GeneratorNet, CriticNet, Energ")


# ------------------------------------------------------------------------------------------------------------- command

CONFIG = """
model:
  class_path: W1FE
  init_args:
    generator: {network: {class_path: MLPGenerator, init_args: {width: 8}}}
    critic: {network: {class_path: MLPCritic, init_args: {width: 8}}, steps: 1}
data: {class_path: Toy2D, init_args: {batch_size: 16}}
trainer: {max_steps: 600}
evaluation: {metrics: [{class_path: ExactWasserstein}]}
"""
MODULE = """
import torch
from pt_flows.methods import W1FE
from pt_flows.samplers import Direct

class Mine(W1FE):
    def iterate(self, minibatches):
        self.scale = 1 + getattr(self, "scale", 0)
        return super().iterate([(self.scale * x, y) for x, y in minibatches])

class Loud(Direct):
    def sample(self, num, y=None, rng=None):
        return super().sample(num, y, rng) + torch.randn(num, 2)
"""


@pytest.fixture
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "checked_methods.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("own_files")
def test_the_command_checks_what_a_configuration_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-method", "--config", "config.yaml"]) == 0
    out = capsys.readouterr().out.splitlines()
    titles = ["method W1FE on Toy2D", "network generator: MLPGenerator", "network critic: MLPCritic"]
    assert [line for line in out if line in titles] == titles
    assert len(out) == len(titles) + len(METHOD_CHECKS) + 2 * len(NETWORK_CHECKS)


@pytest.mark.usefixtures("own_files")
def test_the_command_fails_where_a_check_does(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["checked_methods.Mine", "--config=config.yaml", "--evaluation.sampler", "checked_methods.Loud"]
    assert main(["check-method", *words, "--model.persistence", "2"]) == 1
    out, err = capsys.readouterr()
    assert "method Mine on Toy2D" in out
    assert "sampler Loud" in out
    failed = [line.partition(":")[0] for line in out.splitlines() if line.startswith("FAILED")]
    assert failed == ["FAILED  resume", "FAILED  samples by rng"]
    assert not err


@pytest.mark.usefixtures("own_files")
def test_mistakes_on_the_command_line_are_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-method", "checked_methods.Mine"]) == 2
    assert "--config: expected a file with a model and data, got none" in capsys.readouterr().err
    assert main(["check-method", "checked_methods.Nothing", "--config", "config.yaml"]) == 2
    assert "expected a class of the module checked_methods, got 'Nothing'" in capsys.readouterr().err
    assert main(["check-method", "--config", "config.yaml", "--model.step_size", "-1"]) == 2
    assert "model.step_size: expected a number above 0, got -1" in capsys.readouterr().err


def test_the_page_names_every_check() -> None:
    page = (ROOT / "docs/checking.md").read_text()
    tables = re.findall(r"^\| ([a-z ]+) \| ", page, re.MULTILINE)
    assert tables == [*METHOD_CHECKS, *NETWORK_CHECKS]
    lines = re.findall(r"^(?:ok|FAILED|skipped) +([a-z ]+)", page, re.MULTILINE)
    assert lines == [*METHOD_CHECKS, *NETWORK_CHECKS, *NETWORK_CHECKS]
