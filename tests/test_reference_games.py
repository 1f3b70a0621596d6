"""SNGAN and R3GAN against closed forms: hinge and pairing losses, slopes, and the game of two numbers."""

import pytest
import torch
from problems import build, data, fit
from torch import Tensor

from pt_flows.errors import UserError
from pt_flows.functional.objectives import hinge_loss
from pt_flows.functional.penalties import gradient_norm
from pt_flows.methods import SNGAN
from pt_flows.nets import MLPCritic, MLPGenerator
from pt_flows.training.players import Critic, Generator

# --------------------------------------------------------------------------------------------------------------- SNGAN


def test_hinge_loss_ignores_samples_beyond_the_margin() -> None:
    """Its gradient is -1/B inside the margin and zero outside; it is two where all logits are zero."""
    real, fake = torch.tensor([-1.0, 0.5, 1.5], requires_grad=True), torch.tensor([-3.0, 0.0], requires_grad=True)
    loss = hinge_loss(real, fake)
    assert loss.item() == pytest.approx((2 + 0.5 + 0) / 3 + (0 + 1) / 2)
    left, right = torch.autograd.grad(loss, (real, fake))
    torch.testing.assert_close(left, torch.tensor([-1.0, -1.0, 0.0]) / 3)
    torch.testing.assert_close(right, torch.tensor([0.0, 1.0]) / 2)
    assert float(hinge_loss(torch.zeros(4), torch.zeros(3))) == 2.0


def test_the_slope_of_a_trained_critic_stays_near_one() -> None:
    """Every layer has norm one up to the error of power iterations, and ReLU none above one."""
    module = build("SNGAN", optimizer=lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.0, 0.9)))
    free = MLPCritic(width=16, depth=2)
    free.net.load_state_dict({key: 5 * value for key, value in free.net.state_dict().items()})
    fit(module, data(), max_steps=100)
    x = 3 * torch.randn(500, 2)
    slope: Tensor = gradient_norm(module.critic.network.eval(), x).detach()
    assert 0.05 < float(slope.max()) < 1.1
    assert float(gradient_norm(free, x).max()) > 2


def test_critics_without_spectral_norm_are_refused() -> None:
    critic = MLPCritic(width=8, spectral_norm=True)
    SNGAN(Generator(MLPGenerator(width=8)), Critic(critic))
    critic.net[-1] = torch.nn.Linear(8, 1)
    for lacking, place in ((critic, "net.6"), (MLPCritic(width=8), "net.0")):
        message = (
            rf"^model\.critic\.network: expected spectral norm on all layers, got none at {place}\. Set spectral_norm"
        )
        with pytest.raises(UserError, match=message):
            SNGAN(Generator(MLPGenerator(width=8)), Critic(lacking))
