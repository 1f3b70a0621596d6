"""Data as a function of (seed, iteration)."""

import json
import math
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from problems import write_class_folders
from torch.testing import assert_close as close

import pt_flows.data.prepared as prepared
from pt_flows.cli.main import main
from pt_flows.data import CIFAR10, ImageNet, Shapes32, Toy2D
from pt_flows.data.base import BlockLoader, FlowData
from pt_flows.data.toy2d import ToyName
from pt_flows.errors import UserError

TOYS = get_args(ToyName)
WITH_DENSITY = ["gaussian", "ring8", "ring8_narrow", "grid16", "grid25", "unequal4", "checkerboard", "rings4"]
WITH_DENSITY += ["rings4_wide"]


def serve(data: FlowData, start: int, stop: int, num_minibatches: int = 2) -> list[tuple[torch.Tensor, ...]]:
    """Blocks of a loader without a Trainer."""

    class Module:
        iteration, minibatches_per_iteration = start, num_minibatches

    class Runner:
        max_steps, lightning_module = stop, Module

    return list(BlockLoader(data, Runner))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_functions_of_seed_and_iteration(name: ToyName) -> None:
    data = Toy2D(name, batch_size=8)
    x, y = data.draw(3, 2)
    assert x.shape == (2, 8, 2)
    assert y.shape == (2, 8)
    assert y.dtype == torch.int64
    assert bool(x.isfinite().all())
    assert torch.equal(x, data.draw(3, 2)[0])
    assert not torch.equal(x, data.draw(4, 2)[0])
    L.seed_everything(1, verbose=False)
    assert not torch.equal(x, data.draw(3, 2)[0])
    assert torch.equal(data.reference("test", 5), Toy2D(name).reference("test", 5))  # the seed does not move these


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_DENSITY)
def test_density_fits_the_samples(name: ToyName) -> None:
    """E_q[p] on a fine importance sample is one: draw from q = a blurred copy of p, weigh by p / q."""
    law = Toy2D(name).law
    rng = torch.Generator().manual_seed(0)
    width = getattr(law, "std", 0.3)
    x = law.sample(4_000, rng).double()  # type: ignore[attr-defined]
    proposals = x + width * torch.randn(x.shape, generator=rng, dtype=torch.float64)
    log_q = (
        (-0.5 * torch.cdist(proposals, x).square() / width**2).logsumexp(1)
        - math.log(len(x))
        - math.log(2 * math.pi * width**2)
    )
    ratios = (law.log_prob(proposals) - log_q).exp()  # type: ignore[attr-defined]
    error = ratios.std() / len(ratios) ** 0.5
    assert abs(ratios.mean() - 1) < 5 * error + 0.02


def test_blocks_do_not_change_the_stream() -> None:
    one = serve(Toy2D(batch_size=4, iterations_per_block=1), 0, 23)
    ten = serve(Toy2D(batch_size=4, iterations_per_block=10), 0, 23)
    assert [len(x) for x, _ in ten] == [10, 10, 3]
    assert torch.equal(torch.cat([x for x, _ in one]), torch.cat([x for x, _ in ten]))
    later = serve(Toy2D(batch_size=4, iterations_per_block=10), 7, 23)
    assert [len(x) for x, _ in later] == [3, 10, 3]
    assert torch.equal(torch.cat([x for x, _ in later]), torch.cat([x for x, _ in ten])[7:])


@pytest.mark.parametrize("make", [lambda: Toy2D(batch_size=6), lambda: Shapes32(batch_size=6)])
def test_ranks_share_out_the_global_batch(make) -> None:
    whole, parts = make().draw(5, 2), []
    for rank in range(3):
        data = make()
        data.rank, data.num_ranks = rank, 3
        parts.append(data.draw(5, 2))
    for k, tensor in enumerate(whole):
        assert torch.equal(tensor, torch.cat([part[k] for part in parts], 1))


def test_images_are_used_once_per_epoch_and_none_is_dropped() -> None:
    data = Shapes32(batch_size=64)
    order = torch.cat([data.indices(i * 64, 64) for i in range(-(-20_000 // 64))])[:20_000]
    assert torch.equal(order[:10_000].sort().values, torch.arange(10_000))
    assert torch.equal(order[10_000:].sort().values, torch.arange(10_000))
    assert not torch.equal(order[:10_000], order[10_000:])


def test_images_are_scaled_and_half_of_them_flipped() -> None:
    data = Shapes32(batch_size=500)
    x_bytes, y, flip = data.draw(0, 1)
    x, labels = data.on_after_batch_transfer((x_bytes, y, flip), 0)
    assert x.dtype == torch.float32
    assert torch.equal(labels, y)
    assert x.min() >= -1
    assert x.max() <= 1
    restored = torch.where(flip[..., None, None, None], x.flip(-1), x)
    close(restored, x_bytes.float() / 127.5 - 1)
    assert 0.4 < flip.float().mean() < 0.6
    assert not Shapes32(batch_size=500, flip=False).draw(0, 1)[2].any()


def test_shapes_are_the_same_everywhere_and_differ_by_class() -> None:
    images, labels = Shapes32().arrays("train")
    assert images.shape == (10_000, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert torch.equal(images, Shapes32().arrays("train")[0])
    assert labels.bincount().min() > 800
    # a nearest-centroid rule on centred, sign-free edges beats chance clearly: labels describe the pictures
    edges = (images.float().diff(dim=-1).abs().mean(1) > 12).float().flatten(1)
    centroids = torch.stack([edges[:5000][labels[:5000] == k].mean(0) for k in range(10)])
    guess = torch.cdist(edges[5000:], centroids).argmin(1)
    assert (guess == labels[5000:]).float().mean() > 0.15


def test_reference_raises_beyond_the_number_of_samples() -> None:
    with pytest.raises(UserError, match=r"Shapes32.reference\('test'\): expected at most 2000 images, got 2001"):
        Shapes32().reference("test", 2001)


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"iterations_per_block": 0}])
def test_counts_must_be_positive(arguments: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"Toy2D.{next(iter(arguments))}: expected at least 1, got 0"):
        Toy2D(**arguments)


def test_cifar10_missing_and_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    with pytest.raises(UserError, match=r"got no data_batch_1.*DATASET=shapes32"):
        CIFAR10(str(tmp_path)).prepare_data()
    with pytest.raises(UserError, match="expected the files of cifar-10"):
        CIFAR10(str(tmp_path)).setup("fit")


def test_cifar10_damaged_names_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_3").write_bytes(b"not a batch")
    CIFAR10(str(tmp_path)).prepare_data()  # no download over damaged files
    with pytest.raises(UserError, match=r"expected the official MD5 sums, got damaged files: data_batch_3. Delete"):
        CIFAR10(str(tmp_path)).setup("fit")


@pytest.mark.slow
def test_real_cifar10(cifar_root: Path, tmp_path: Path) -> None:
    data = CIFAR10(str(cifar_root), batch_size=32)
    data.prepare_data()
    data.setup("fit")
    images, labels = data.arrays("train")
    assert images.shape == (50_000, 3, 32, 32)
    assert torch.equal(labels.bincount(), torch.full((10,), 5_000))
    assert images.float().mean((0, 2, 3)) / 255 == pytest.approx(torch.tensor([0.4914, 0.4822, 0.4465]), abs=1e-3)
    assert len(data.reference("test")) == 10_000
    copy = tmp_path / "cifar-10-batches-py"
    shutil.copytree(cifar_root / "cifar-10-batches-py", copy)
    with (copy / "data_batch_2").open("r+b") as file:
        file.seek(1000)
        file.write(b"\0")
    with pytest.raises(UserError, match="data_batch_2"):
        CIFAR10(str(tmp_path)).setup("fit")


def test_workers_serve_the_same_stream() -> None:
    """Images that do not fit on the device are gathered by two processes, to the same minibatches."""

    class ByWorkers(Shapes32):
        @property
        def workers(self) -> int:
            return 2

    ahead, here = (serve(cls(batch_size=4), 3, 9, num_minibatches=2) for cls in (ByWorkers, Shapes32))
    assert len(ahead) == len(here) == 6
    for a, b in zip(ahead, here, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_imagenet_reads_class_folders(tmp_path: Path) -> None:
    write_class_folders(tmp_path, num_classes=3, size=16)
    data = ImageNet(str(tmp_path), image_size=16, batch_size=5, flip=False)
    data.setup("fit")
    images, labels = data.arrays("train")
    assert images.shape == (12, 3, 16, 16)
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.num_classes == 3
    with Image.open(tmp_path / "train" / "n00000001" / "2.JPEG") as file:
        assert torch.equal(images[6], torch.from_numpy(np.array(file)).permute(2, 0, 1))
    x, y = data.on_after_batch_transfer(data.draw(0, 2), 0)
    assert x.shape == (2, 5, 3, 16, 16)
    for image, label in zip(x.flatten(0, 1), y.flatten(), strict=True):
        index = int((images / 127.5 - 1 - image).abs().flatten(1).amax(1).argmin())
        assert labels[index] == label


def test_imagenet_crops_and_downsamples_larger_images(tmp_path: Path) -> None:
    write_class_folders(tmp_path, num_classes=1, size=8, num_images=1)
    for split in ("train", "val"):
        stripes = np.zeros((20, 40, 3), np.uint8)
        stripes[:, 10:20], stripes[:, 20:30] = 255, (255, 0, 0)
        Image.fromarray(stripes).save(tmp_path / split / "n00000000" / "0.png")
        (tmp_path / split / "n00000000" / "0.JPEG").unlink()
    image = ImageNet(str(tmp_path), image_size=10).load("train")[0][0]
    assert image[:, :, :4].min() > 230  # the left half of the central square is white, the right half red
    assert image[0, :, 6:].min() > 230
    assert image[1, :, 6:].max() < 25


def test_imagenet_numbers_classes_as_in_training(tmp_path: Path) -> None:
    """Numbers agree whichever split is read first, and if the test split lacks a class."""
    write_class_folders(tmp_path, num_classes=3, size=8)
    shutil.rmtree(tmp_path / "val" / "n00000001")
    data = ImageNet(str(tmp_path), image_size=8)
    assert data.arrays("test")[1].tolist() == [0] * 4 + [2] * 4
    assert data.num_classes == 3
    shutil.move(tmp_path / "val" / "n00000002", tmp_path / "val" / "other")
    with pytest.raises(UserError, match=r"val: expected the classes of .*train, got 'other'. Remove"):
        data.load("test")


def test_imagenet_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train: expected images, got none .*folder of train/<class>"):
        ImageNet(str(tmp_path)).setup("fit")
    write_class_folders(tmp_path, num_classes=1, size=32, num_images=1)
    with pytest.raises(UserError, match=r"0.JPEG: expected at least 64x64 pixels, got 32x32. Remove it"):
        ImageNet(str(tmp_path)).setup("fit")
    broken = tmp_path / "train" / "n00000000" / "0.JPEG"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UserError, match=r"0.JPEG: cannot be read .*Delete or restore it"):
        ImageNet(str(tmp_path), image_size=32).setup("fit")


def test_real_imagenet_subset() -> None:
    root = Path(os.environ.get("PT_FLOWS_DATA", "")) / "imagenet64"
    if not root.is_dir():
        pytest.skip("no ImageNet: set PT_FLOWS_DATA to the folder that holds imagenet64")
    data = ImageNet(image_size=64)
    images, labels = data.arrays("test")
    assert images.shape[1:] == (3, 64, 64)
    assert data.num_classes == len(set(labels.tolist())) == len(list((root / "val").iterdir()))


# ----------------------------------------------------------------------------------------------------- prepared images


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "BLOCK", 5)


@pytest.mark.slow
def test_prepared_images_are_those_of_the_folders(
    tmp_path: Path, small_blocks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "images", tmp_path / "out"
    write_class_folders(source, num_classes=3, size=20)
    words = ["prepare", "imagenet", "--root", str(source), "--out", str(target), "--size", "16", "--workers", "2"]
    assert main(words) == 0
    assert "--data ImageNet --data.root" in capsys.readouterr().out
    folders, arrays = (ImageNet(str(root), image_size=16, batch_size=5) for root in (source, target))
    for split in ("train", "test"):
        for a, b in zip(folders.arrays(split), arrays.arrays(split), strict=True):
            assert torch.equal(a, b)
    assert arrays.num_classes == 3
    for a, b in zip(folders.draw(7, 2), arrays.draw(7, 2), strict=True):
        assert torch.equal(a, b)
    assert main(words) == 0
    assert "train: 12 images are there and whole" in capsys.readouterr().out
    assert main([*words, "--size", "8"]) == 2
    assert "out: expected images of 8 pixels, got images of 16. Choose another --out" in capsys.readouterr().err


@pytest.mark.slow
def test_unusable_files_are_omitted_and_listed(tmp_path: Path, small_blocks: None) -> None:
    """Truncated files, other files and small images are omitted; CMYK and greyscale become RGB; labels stay."""
    source, target = tmp_path / "images", tmp_path / "out"
    write_class_folders(source, num_classes=4, size=16)
    bad = ["train/n00000000/0.JPEG", "train/n00000001/2.JPEG", "train/n00000003/3.JPEG", "train/n00000003/1.JPEG"]
    whole = (source / bad[0]).read_bytes()
    (source / bad[0]).write_bytes(whole[: len(whole) // 2])
    (source / bad[1]).write_bytes(b"no image")
    (source / bad[2]).write_bytes(b"")
    Image.new("RGB", (9, 30)).save(source / bad[3])
    for name, mode in (("train/n00000002/1.JPEG", "CMYK"), ("train/n00000002/2.JPEG", "L")):
        with Image.open(source / name) as image:
            image.convert(mode).save(source / name)
    prepared.prepare("imagenet", str(source), str(target), 16, workers=1)
    listed = (target / "skipped.txt").read_text().splitlines()
    assert sorted(line.partition("\t")[0] for line in listed) == sorted(str(source / name) for name in bad)
    assert "1.JPEG: expected at least 16x16 pixels, got 9x30\n" in (target / "skipped.txt").read_text()
    images, labels, _ = prepared.read_prepared(target, "train", 16)
    assert len(images) == len(labels) == 12
    for name in bad:
        (source / name).unlink()
    left, of = ImageNet(str(source), image_size=16).load("train")
    pairs = {(image.numpy().tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}
    assert pairs == {(image.numpy().tobytes(), int(label)) for image, label in zip(left, of, strict=True)}


def test_an_interrupted_preparation_continues(
    tmp_path: Path, small_blocks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The preparation stopped after two of five blocks, with half a line in its journal."""

    class Interrupted:
        def map(self, function: Any, *arguments: Any) -> Iterator[Any]:
            for i, pair in enumerate(zip(*arguments, strict=True)):
                if i == 2:
                    raise KeyboardInterrupt
                yield function(*pair)

    source, target, other = tmp_path / "images", tmp_path / "out", tmp_path / "other"
    write_class_folders(source, num_classes=6, size=8)
    (source / "train/n00000000/1.JPEG").write_bytes(b"")
    target.mkdir()
    with pytest.raises(KeyboardInterrupt):
        prepared.write_split(source, target, "train", 8, cast(Any, Interrupted()))
    with (target / "train.journal").open("a") as journal:
        journal.write("[10, [")
    with pytest.raises(UserError, match="expected images, got none"):
        ImageNet(str(target), image_size=8).setup("fit")
    prepared.prepare("imagenet", str(source), str(target), 8, workers=1)
    assert "train: resuming with 3 of 5 blocks" in capsys.readouterr().out
    prepared.prepare("imagenet", str(source), str(other), 8, workers=1)
    for name in ("index.json", "train.npy", "train.labels.npy", "test.npy", "skipped.txt"):
        assert (target / name).read_bytes() == (other / name).read_bytes()
    assert sorted(file.name for file in target.iterdir()) == sorted(file.name for file in other.iterdir())


def test_a_preparation_without_room_says_so_before_it_decodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_class_folders(tmp_path / "images", num_classes=2, size=64)
    folders = ["--root", str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    words = ["prepare", "imagenet", *folders, "--workers", "1"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # stands for the full disk
    try:
        assert main(words) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert "cannot write" in error
    assert "train.npy.part (File too large)" in error
    assert "run the same command again" in error
    assert main(words) == 0


def test_damaged_prepared_images_are_one_sentence(tmp_path: Path, small_blocks: None) -> None:
    source, target = tmp_path / "images", tmp_path / "out"
    write_class_folders(source, num_classes=3, size=8)
    prepared.prepare("imagenet", str(source), str(target), 8, workers=1)
    data, path = ImageNet(str(target), image_size=8), target / "train.npy"
    with pytest.raises(UserError, match=r"data.image_size: expected 8, the size of the images in .*, got 16"):
        ImageNet(str(target), image_size=16).setup("fit")

    content = path.read_bytes()
    path.write_bytes(content[:-700] + bytes([content[-700] ^ 1]) + content[-699:])
    with pytest.raises(UserError, match=r"train.npy: .* got 1 of 3 that differ, first that of images 5 to 9. Delete"):
        data.setup("fit")
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"train.npy: it or its labels cannot be read .*prepare the images again"):
        data.setup("fit")
    path.write_bytes(content)
    data.setup("fit")

    index = json.loads((target / "index.json").read_text())
    for change, message in (
        ({"format": 9}, "index.json: expected at most format 1, got 9. Update pt_flows"),
        ({"splits": {}}, "expected a train split, got an unfinished preparation"),
        (
            {"splits": index["splits"] | {"train": index["splits"]["train"] | {"num": 11}}},
            "expected 11 images of 8 pixels",
        ),
        ({"classes": ["a"]}, "labels.npy: expected labels from 0 to 0, got others"),
    ):
        (target / "index.json").write_text(json.dumps(index | change))
        with pytest.raises(UserError, match=message):
            ImageNet(str(target), image_size=8).setup("fit")
    (target / "index.json").write_text("{")
    with pytest.raises(UserError, match=r"index.json: damaged \(.*\). Prepare"):
        ImageNet(str(target), image_size=8).setup("fit")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "prepare: expected DATA first"),
        (["imagenet", "--root", "nowhere", "--out", "out"], "nowhere/train: expected images, got none"),
        (["imagenet", "--root", "here", "--out", "here"], "--out: expected another folder than --root"),
        (["imagenet", "--root", "here", "--out", "out", "--size", "0"], "--size: expected at least 1, got 0"),
    ],
)
def test_mistakes_in_a_preparation_are_one_sentence(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
