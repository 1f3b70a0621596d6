"""Checks of samples: drawn from a method in its own way, or by a sampler."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pt_flows.contracts import MapsLatents, RunsChains, Samples, Weights
from pt_flows.data.base import FlowData
from pt_flows.samplers import default_sampler
from pt_flows.testing.case import Case, difference, tensors
from pt_flows.testing.report import NotApplicable
from pt_flows.training.players import Critic


def draw(case: Case, seed: int = 1, num: int = 7, weights: Weights | None = None) -> Tensor:
    """Samples of the trained method, by default with averaged weights if there are any."""
    method = case.trained
    if case.sampler is None and not isinstance(method, RunsChains | MapsLatents | Samples):
        raise NotApplicable(f"{type(method).__name__} draws no samples")
    sampler = case.sampler() if case.sampler else default_sampler(method)
    sampler.prepare(method, weights or best_weights(method), loaded(case) if sampler.needs_data else None)
    return sampler.sample(num, rng=torch.Generator().manual_seed(seed))


def loaded(case: Case) -> FlowData:
    """The data, loaded as for an evaluation."""
    data = case.data()
    data.prepare_data()
    data.setup("test")
    return data


def best_weights(method: Any) -> Weights:
    """Averaged weights, where what draws has them."""
    drawing = [player for player in method.players.values() if not isinstance(player, Critic)]
    return "ema" if drawing and all(player.ema_decay for player in drawing) else "raw"


def samples_shape(case: Case) -> None:
    """Samples have the data's shape and are finite."""
    x, shape = draw(case), (7, *case.data().event_shape)
    assert tuple(x.shape) == shape, f"expected 7 samples of the data's shape, {shape}, got {tuple(x.shape)}"
    assert bool(x.isfinite().all()), "expected finite samples, got others"


def samples_rng(case: Case) -> None:
    """The generator decides the samples."""
    x = draw(case)
    assert torch.equal(x, draw(case)), "two draws with generators of one seed differ. Take all random numbers from rng"
    assert not torch.equal(x, draw(case, seed=2)), (
        "draws with generators of two seeds are the same. Take all random numbers from rng"
    )


def samples_num(case: Case) -> None:
    """The first samples are the same for every number of samples."""
    few, more = draw(case, num=3), draw(case, num=23)
    assert torch.allclose(few, more[:3], rtol=1e-3, atol=1e-4), (
        "the first 3 of 23 samples differ from 3 samples of the same generator. Draw noise for more rows than "
        "needed and keep the first ones, as pt_flows.samplers.row_noise and generator.inputs do"
    )


def samples_weights(case: Case) -> None:
    """Averaged and raw weights give different samples."""
    x = draw(case, weights="raw")
    if best_weights(case.trained) == "raw":
        raise NotApplicable("no player keeps an average of its weights")
    if case.trained.settles:
        raise NotApplicable("averages become the weights themselves during the run")
    assert not torch.equal(x, draw(case, weights="ema")), (
        "averaged and raw weights give the same samples. Use self.weights, or the argument weights"
    )


def untouched(case: Case) -> None:
    """Drawing leaves weights, gradients and modes of the method as they were."""
    method = case.trained

    def look() -> tuple[dict[str, Tensor], list[Any]]:
        modes = [(name, module.training) for name, module in method.named_modules()]
        return tensors(method), [*modes, *((name, p.requires_grad) for name, p in method.named_parameters())]

    for is_training in (True, False):
        method.train(is_training)
        before, modes = look()
        draw(case)
        after, now = look()
        why = difference(before, after)
        assert not why, f"drawing changes the method's weights ({why}). Work on copies"
        changed = [name for (name, old), (_, new) in zip(modes, now, strict=True) if old != new]
        where = (changed or [""])[0] or type(method).__name__
        assert not changed, f"drawing leaves {where} in another mode. Use `with player.fixed(weights) as network`"
    method.train()


SAMPLE_CHECKS: dict[str, Callable[[Case], None]] = {
    "samples": samples_shape,
    "samples by rng": samples_rng,
    "samples by number": samples_num,
    "samples by weights": samples_weights,
    "samples leave no trace": untouched,
}
