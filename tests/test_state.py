"""Weight averages and noise streams."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.testing import assert_close as close

import pt_flows.training.noise as noise_module
from pt_flows.errors import UserError
from pt_flows.nets import MLPEnergy
from pt_flows.training.ema import EMA
from pt_flows.training.flat import FlatNetwork
from pt_flows.training.noise import NoiseStream
from pt_flows.training.players import Energy


def test_average_equals_the_recursion_by_hand() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    ema = EMA(net, decay=0.7)
    expected = {k: v.clone() for k, v in net.state_dict().items()}
    for t in range(1, 12):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p))
        net(torch.randn(5, 3, dtype=torch.float64))
        ema.update(net, t)
        beta = min(0.7, (1 + t) / (10 + t))
        for key, value in net.state_dict().items():
            expected[key] = beta * expected[key] + (1 - beta) * value if value.is_floating_point() else value.clone()
    for key, value in ema.network.state_dict().items():
        close(value, expected[key], rtol=1e-12, atol=1e-12)


def test_average_follows_tied_and_moved_tensors_and_another_network() -> None:
    first, other = (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2))
    first[1].weight = first[0].weight
    other[1].weight = other[0].weight
    ema = EMA(first, decay=0.0)  # the latest weights
    ema.update(first, 1)
    first.double(), ema.double()  # new tensors for buffers
    first(torch.randn(5, 2, dtype=torch.float64))
    for network in (first, other.double(), first):
        ema.update(network, 100)
        close(ema.network.state_dict(), network.state_dict(), rtol=0, atol=0)


class Counting(nn.Module):
    """Writes to its buffer in every evaluation, and fails on request."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.again = self.scale
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        if x.isnan().any():
            raise ValueError("not a number")
        return x * self.scale * self.again


def test_flat_network_evaluates_at_other_tensors_and_keeps_its_own() -> None:
    net = Counting()
    scale, flat = net.scale, FlatNetwork(net)
    assert flat.num == 1
    pieces, buffers = flat.leaves(torch.tensor([3.0])), flat.buffers()
    assert float(value := flat(pieces, buffers, torch.tensor(2.0))) == 18.0
    assert float(torch.autograd.grad(value, pieces)[0]) == 12.0
    assert float(buffers["count"]) == 1.0
    with pytest.raises(ValueError, match="not a number"):
        flat(pieces, buffers, torch.tensor(torch.nan))
    assert net.scale is net.again is scale
    assert float(net.count) == 0.0
    net.again = nn.Parameter(torch.tensor([5.0]))  # it was tied before
    assert float(flat(pieces, buffers, torch.tensor(2.0))) == 18.0
    assert (float(net.scale), float(net.again)) == (1.0, 5.0)


def test_average_stays_in_evaluation_mode_and_takes_no_gradient() -> None:
    module = nn.ModuleDict({"ema": EMA(nn.BatchNorm1d(2), 0.9)}).train()
    assert not any(m.training for m in module["ema"].modules())
    assert not any(p.requires_grad for p in module["ema"].parameters())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_average_raises_on_a_decay_outside_the_unit_interval(decay: float) -> None:
    with pytest.raises(UserError, match=r"Energy\.ema_decay: expected a number in \[0, 1\), got"):
        Energy(MLPEnergy(), ema_decay=decay)


def test_noise_is_a_function_of_seed_name_and_iteration() -> None:
    def draw(seed: int, name: str, iteration: int) -> torch.Tensor:
        L.seed_everything(seed, verbose=False)
        stream = NoiseStream(name)
        stream.seek(iteration)
        return stream.normal(4, 2)

    same = draw(1, "a", 5)
    assert torch.equal(same, draw(1, "a", 5))
    for other in (draw(2, "a", 5), draw(1, "b", 5), draw(1, "a", 6)):
        assert not torch.equal(same, other)


def test_ranks_share_out_one_global_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(rank: int, num_ranks: int, num: int) -> tuple[torch.Tensor, torch.Tensor]:
        monkeypatch.setattr(noise_module, "world", lambda: (rank, num_ranks))
        stream = NoiseStream("a")
        stream.seek(3)
        return stream.normal(num, 2), stream.uniform(num)

    whole = draw(0, 1, 8)
    halves = [draw(r, 2, 4) for r in (0, 1)]
    for k in (0, 1):
        assert torch.equal(whole[k], torch.cat([half[k] for half in halves]))
