"""Requirements of the samplers that improve a generator by its critic."""

from typing import Any

from pt_flows.contracts import HasCritic, MapsLatents, Samples, Weights
from pt_flows.errors import UserError


def check_critic(sampler: str, method: Any) -> None:
    """Check that a method has a generator and a critic, and does not draw in its own way.

    Raises:
        UserError: It has not, or does.
    """
    name = type(method).__name__
    if isinstance(method, Samples):
        raise UserError(f"sampler: expected a method without a draw of its own for {sampler}, got {name}. Use Direct")
    if not isinstance(method, MapsLatents) or not isinstance(method, HasCritic):
        wanted = f"expected a method with a generator and a critic for {sampler}"
        raise UserError(f"sampler: {wanted}, got {name}. Omit it to draw as the method does")


def critic_weights(method: HasCritic, weights: Weights) -> Weights:
    """The given weights if the critic has them; else its raw ones, as critics usually keep no average."""
    return weights if method.critic.keeps(weights) else "raw"
