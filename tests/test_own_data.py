"""Data, images and array files of users: read as they are meant, or refused in one sentence."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pt_flows.cli.main import main
from pt_flows.contracts import Split
from pt_flows.data.base import FlowData
from pt_flows.data.class_folders import decode
from pt_flows.data.images import ArrayImages
from pt_flows.data.mnist import MNIST
from pt_flows.errors import UserError
from pt_flows.evaluation.images import ImageFiles


class Pictures(ArrayImages):
    event_shape, num_classes = (3, 4, 4), 2

    def __init__(self, images: object, labels: object = None) -> None:
        super().__init__(batch_size=2, flip=False, iterations_per_block=1)
        self.given = images, torch.tensor([0, 1, 1, 0, 1]) if labels is None else labels

    def load(self, split: Split) -> tuple[Tensor, Tensor]:
        return self.given  # type: ignore[return-value]


IMAGES = torch.randint(256, (5, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
FLOATS = IMAGES / 127.5 - 1
BROKEN = FLOATS.index_put((torch.tensor([3]), torch.tensor([1])), torch.tensor(torch.nan))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (FLOATS, None, r"Pictures.load\('train'\): expected images uint8 .*float32 from -1 to .* Convert floats"),
        (BROKEN, None, "image 3 has values that are not finite"),
        (IMAGES.numpy(), None, "got ndarray. Return torch.from_numpy"),
        (IMAGES.permute(0, 2, 3, 1), None, r"shape \(N, 3, 4, 4\), .* got \(5, 4, 4, 3\). Channels come first"),
        (IMAGES[:0], None, r"got \(0, 3, 4, 4\)"),
        (IMAGES // 128, None, "got 0 and 1 only"),
        (
            IMAGES,
            torch.zeros(5),
            r"expected labels int64 \(5,\), got torch.float32 \(5,\). Without labels return zeros",
        ),
        (IMAGES, torch.zeros(4, dtype=torch.int64), r"expected labels int64 \(5,\), got torch.int64 \(4,\)"),
        (IMAGES, torch.arange(5), r"expected labels from 0 to 1 \(num_classes\), got 0 to 4"),
    ],
)
def test_own_images_of_another_kind_are_refused(images: object, labels: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Pictures(images, labels).setup("fit")


def test_converted_floats_are_the_same_images() -> None:
    """The formula of the message converts them."""
    data = Pictures(((FLOATS + 1) * 127.5).round().to(torch.uint8))
    data.setup("fit")
    assert torch.equal(data.reference("train"), IMAGES)


class Table(FlowData):
    """Points of the plane."""

    event_shape = (2,)

    def __init__(self, train: Tensor, test: Tensor | None = None) -> None:
        super().__init__(batch_size=3, iterations_per_block=1)
        self.points: dict[Split, Tensor | None] = {"train": train, "test": test}

    def draw(self, iteration: int, num_minibatches: int) -> tuple[Tensor, ...]:
        x = torch.ones(num_minibatches, self.batch_size, 2) / (iteration if iteration != 4 else 0)
        return x[:, self.share], torch.zeros(x.shape[:2], dtype=torch.int64)[:, self.share]

    def reference(self, split: Split, num: int | None = None) -> Tensor:
        x = self.points[split]
        if x is None:
            raise UserError("there is no such split")
        return x[:num]


def test_values_that_are_not_finite_are_named_with_data_split_and_sample() -> None:
    whole, broken = torch.zeros(9, 2), torch.zeros(9, 2)
    broken[6, 1], broken[8, 0] = torch.inf, torch.nan
    for data, split in ((Table(broken), "train"), (Table(whole, broken), "test")):
        with pytest.raises(UserError, match=rf"Table: expected finite values, got others in sample 6 of the {split}"):
            data.setup("fit")
    Table(whole).setup("fit")
    with pytest.raises(UserError, match=r"samples of shape \(2,\) \(event_shape\), got \(3,\) in the test split"):
        Table(whole, torch.zeros(9, 3)).setup("fit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[0], y), r"Table.draw: expected x of shape \(2, 3, 2\) .*, got \(3, 2\). Draw batch_size"),
        (lambda x, y: (x, y.int()), r"Table.draw: expected y int64 of shape \(2, 3\), got torch.int32"),
        (lambda x, y: (x / 0, y), "got others at iteration 5 in sample 0 of minibatch 0"),
    ],
)
def test_draws_are_checked_where_a_run_begins(change: Callable[..., tuple[Tensor, ...]], message: str) -> None:
    data = Table(torch.zeros(9, 2))
    data.check_draw(data.draw(5, 2), 5, 2)
    with pytest.raises(UserError, match=message):
        data.check_draw(change(*data.draw(5, 2)), 5, 2)


# --------------------------------------------------------------------------------------------------------- image files


def test_greyscale_images_of_16_bits_keep_their_shades(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    expected = np.arange(256).reshape(16, 16)
    assert np.array_equal(decode(str(tmp_path / "a.png"), 16), np.repeat(expected[..., None], 3, 2))
    assert np.array_equal(ImageFiles(tmp_path).images[0, 0].numpy(), expected)
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(UserError, match=r"b.tif: expected 8 or 16 bits per channel, got 32 \(mode F\). Convert it"):
        decode(str(tmp_path / "b.tif"), 16)


def test_turned_photographs_are_upright(tmp_path: Path) -> None:
    """A camera held on its side: the right edge of the stored image is the top."""
    stored, exif = np.zeros((16, 24, 3), np.uint8), Image.Exif()
    stored[:, 16:] = 255
    exif[0x0112] = 8
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    image = ImageFiles(tmp_path).images[0]
    assert image.shape == (3, 24, 16)
    assert image[:, :8].min() == 255
    assert image[:, 8:].max() == 0
    assert decode(str(tmp_path / "a.png"), 16)[:4].min() == 255


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparent_pixels_are_white(mode: str, tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, 4:, 3] = 255
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.fromarray(pixels[..., 3] // 255).convert("P")
        image.putpalette([200, 10, 10, 0, 0, 0])
        image.info["transparency"] = 0
    elif mode == "RGB":
        pixels[:, :4, 0] = 7
        image = Image.fromarray(pixels[..., :3].copy())
        image.info["transparency"] = (7, 0, 0)
    else:
        image = image.convert(mode)
    image.save(tmp_path / "a.png", transparency=image.info.get("transparency"))
    with pytest.raises(UserError, match=r"a.png: expected mode RGB or L without"):  # measured images stay as they are
        ImageFiles(tmp_path)
    shown = decode(str(tmp_path / "a.png"), 8)
    assert shown[:, :4].min() == 255
    assert shown[:, 4:].max() == 0


def test_a_header_of_a_giant_image_is_one_sentence(tmp_path: Path) -> None:
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    for read in (lambda: decode(str(tmp_path / "a.png"), 8), lambda: ImageFiles(tmp_path)):
        with pytest.raises(UserError, match=r"a.png: cannot be read as an image \(.*3600000000 pixels.*Delete"):
            read()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_array_files_are_one_sentence(
    save: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A byte anywhere is changed, or the end is missing."""
    path = tmp_path / "a.npz"
    save(path, samples=IMAGES.permute(0, 2, 3, 1).numpy())
    assert torch.equal(ImageFiles(path).images, IMAGES)
    whole, refused = path.read_bytes(), 0
    for i in range(0, len(whole), 3):
        for damaged in (whole[:i], whole[:i] + bytes([whole[i] ^ 0x10]) + whole[i + 1 :]):
            path.write_bytes(damaged)
            try:
                ImageFiles(path)
            except UserError:
                refused += 1
    assert refused > len(whole) / 2
    path.write_bytes(whole[:100] + b"zzzz" + whole[104:])
    assert main(["evaluate", "--images", str(path), "--ref", "Shapes32", "--n", "5"]) == 2
    error = capsys.readouterr().err
    assert "a.npz: cannot be read as an array file" in error
    assert len(error.strip().splitlines()) == 1


def test_damaged_downloads_are_one_sentence(tmp_path: Path) -> None:
    """torchvision itself only asserts."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        (raw / name).write_bytes(struct.pack(">iiii", 2051, 1, 28, 28))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"MNIST: cannot be read from .*. Put MNIST/raw with its four files there"):
        MNIST(str(tmp_path)).setup("fit")
