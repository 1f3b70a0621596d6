"""Augmentation of image batches, each image by its own seed."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from pt_flows.bounds import Bound, CountOrZero, Fraction, NonNegative
from pt_flows.construction import Constructed
from pt_flows.errors import UserError


class ImageAugmentation(Constructed, nn.Module):
    """Random resized crop, flip, colour jitter, greyscale and blur, in the order of contrastive learning.

    Improved contrastive divergence augments its chains with it; the defaults are those of its code for CIFAR-10.

    Args:
        min_area: Smallest area of a crop, as a fraction of the image; 1 for no crop.
        flip: Whether to mirror half of the images left to right.
        jitter: Strength of colour jitter (with probability 0.8); 0 for none.
        grey: Probability of converting an image to greyscale.
        blur: Width of a Gaussian blur's kernel in pixels, odd (with probability one half); 0 for none.
    """

    def __init__(
        self,
        min_area: Annotated[float, Bound(0, 1, open_low=True)] = 0.08,
        flip: bool = True,
        jitter: NonNegative = 1.0,
        grey: Fraction = 0.2,
        blur: CountOrZero = 0,
    ) -> None:
        super().__init__()
        if blur and blur % 2 == 0:
            raise UserError(f"ImageAugmentation.blur: expected an odd number or 0, got {blur}")
        self.min_area = min_area
        moves: list[nn.Module] = [v2.RandomHorizontalFlip()] if flip else []
        if jitter:
            colours = v2.ColorJitter(0.8 * jitter, 0.8 * jitter, 0.8 * jitter, min(0.4 * jitter, 0.5))
            moves.append(v2.RandomApply([colours], p=0.8))
        moves += [v2.RandomGrayscale(grey)] if grey else []
        moves += [v2.RandomApply([v2.GaussianBlur(blur, (0.1, 2.0))], p=0.5)] if blur else []
        self.moves = v2.Compose([*moves, v2.Identity()])

    @torch.no_grad()
    def forward(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        """Views (B, C, H, W) of images in [-1, 1], one seed each; the global generator does not change."""
        crop = v2.RandomResizedCrop(x.shape[-2:], (self.min_area, 1.0), antialias=True)
        views = []
        with torch.random.fork_rng(devices=[]):
            for image, seed in zip((x + 1) / 2, seeds, strict=True):
                torch.default_generator.manual_seed(seed)
                views.append(self.moves(crop(image) if self.min_area < 1 else image))
        return torch.stack(views) * 2 - 1
