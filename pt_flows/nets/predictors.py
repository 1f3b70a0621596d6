"""Small classifiers and regressors."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from pt_flows.bounds import Count, CountOrZero, NonNegative
from pt_flows.contracts import PredictorNet
from pt_flows.errors import UserError
from pt_flows.nets.init import normal_
from pt_flows.nets.mlp import mlp
from pt_flows.nets.sizes import filled, halved


class LinearPredictor(PredictorNet):
    """Linear model: xᵀθ, or C linear logits.

    Args:
        event_shape: Shape of one sample.
        num_classes: Number C of classes; 0 for values.
        bias: Whether a constant is added.
        init_std: Standard deviation of normal weights, with zero biases; None for torch's uniform ones. Under exact
            attacks it should not be 0, at which they are not defined.
    """

    def __init__(
        self,
        event_shape: Sequence[Count] = (2,),
        num_classes: CountOrZero = 0,
        bias: bool = True,
        init_std: NonNegative | None = None,
    ) -> None:
        super().__init__()
        filled(self, event_shape=event_shape)
        self.event_shape, self.num_classes = tuple(event_shape), num_classes
        self.net = nn.Linear(math.prod(self.event_shape), num_classes or 1, bias=bias)
        if init_std is not None:
            normal_(self.net, init_std)

    def forward(self, x: Tensor) -> Tensor:
        """Values (B,), or logits (B, C), at x (B, *event_shape)."""
        found = self.net(x.flatten(1))
        return found if self.num_classes else found.squeeze(1)


class MLPPredictor(PredictorNet):
    """Fully connected network with ReLU, for samples of any shape.

    Args:
        event_shape: Shape of one sample.
        num_classes: Number C of classes; 0 for values.
        width: Units of a hidden layer.
        depth: Number of hidden layers.
        init_std: Standard deviation of normal weights, with zero biases; None for He uniform ones.
    """

    def __init__(
        self,
        event_shape: Sequence[Count] = (2,),
        num_classes: CountOrZero = 0,
        width: Count = 128,
        depth: Count = 2,
        init_std: NonNegative | None = None,
    ) -> None:
        super().__init__()
        filled(self, event_shape=event_shape)
        self.event_shape, self.num_classes = tuple(event_shape), num_classes
        self.net = mlp(math.prod(self.event_shape), num_classes or 1, width, depth, init_std=init_std)

    def forward(self, x: Tensor) -> Tensor:
        """Values (B,), or logits (B, C), at x (B, *event_shape)."""
        found = self.net(x.flatten(1))
        return found if self.num_classes else found.squeeze(1)


class ConvClassifier(PredictorNet):
    """Two convolutions of stride 2 with ReLU, and one linear layer.

    Args:
        image_size: Height and width in pixels.
        num_channels: Colour channels.
        num_classes: Number of classes.
        width: Channels of the first convolution; the second one has twice as many.
    """

    def __init__(
        self, image_size: Count = 28, num_channels: Count = 1, num_classes: Count = 10, width: Count = 16
    ) -> None:
        super().__init__()
        self.event_shape, self.num_classes = (num_channels, image_size, image_size), num_classes
        self.net = nn.Sequential(
            nn.Conv2d(num_channels, width, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(2 * width * halved(image_size // 2, 1) ** 2, num_classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, C, H, W)."""
        return self.net(x)


class LeNet5(PredictorNet):
    """LeNet-5 with tanh: two convolutions of 5x5 with mean pooling, and layers of 120, 84 and C units.

    LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition, with full connections
    between all layers and softmax logits in place of radial basis functions.

    Args:
        image_size: 28 or 32 pixels; smaller images are padded to 32.
        num_channels: Colour channels.
        num_classes: Number C of classes.
        init_std: Standard deviation of normal weights, with zero biases: a small or large one is a poor start. None for
            torch's uniform ones.
    """

    def __init__(
        self,
        image_size: Count = 28,
        num_channels: Count = 1,
        num_classes: Count = 10,
        init_std: NonNegative | None = None,
    ) -> None:
        super().__init__()
        if image_size not in (28, 32):
            raise UserError(f"LeNet5.image_size: expected 28 or 32, got {image_size}. Resize the images")
        self.event_shape, self.num_classes = (num_channels, image_size, image_size), num_classes
        self.net = nn.Sequential(
            nn.Conv2d(num_channels, 6, 5, padding=(32 - image_size) // 2), nn.Tanh(), nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, num_classes),
        )  # fmt: skip
        if init_std is not None:
            normal_(self.net, init_std)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) of images (B, C, H, W)."""
        return self.net(x)
