"""The image sizes that networks accept, and how often they halve them."""

from collections.abc import Sequence

from torch import nn

from pt_flows.errors import UserError


def stages(net: nn.Module, image_size: int) -> tuple[int, int]:
    """Return the smallest side of an image that is halved until it has 4 to 7 pixels, and the number of halvings.

    No halving rounds, so a generator can double the smallest side as often: 32, 16, 8, 4, or 28, 14, 7, or 24, 12, 6.

    Args:
        net: The network to name in the message.
        image_size: Height and width in pixels.

    Returns:
        Side and number, at least 1: (4, 3) for 32 pixels and (7, 2) for 28.

    Raises:
        UserError: A halving would round, or the image has fewer than 8 pixels.
    """
    side, number = image_size, 0
    while side >= 8 and side % 2 == 0:
        side, number = side // 2, number + 1
    if not number or side > 7:
        wanted = "expected 4, 5, 6 or 7 times a power of two (16, 28, 32, 48, 64, ...)"
        raise UserError(f"{type(net).__name__}.image_size: {wanted}, got {image_size}. Resize the images")
    return side, number


def halved(image_size: int, times: int) -> int:
    """Return the side after halvings that round up, as padded layers of stride two do: 28, 14, 7, 4, 2, 1."""
    return -(-image_size // 2**times)


def filled(net: nn.Module, **arguments: Sequence[int]) -> None:
    """Check that no sequence is empty; bounds in annotations check its items.

    Args:
        net: The network to name in the message.
        **arguments: Sequences by the names of the arguments.

    Raises:
        UserError: One of them is empty.
    """
    for name, numbers in arguments.items():
        if not numbers:
            raise UserError(f"{type(net).__name__}.{name}: expected one number or more, got {numbers!r}")
