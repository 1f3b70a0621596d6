"""Time `pt-flows prepare` against a bare parallel loop, and reading prepared images against decoding them every time.

    python benchmarks/imagenet.py [--num 4000] [--workers 2] [--rounds 3]

Images are random smooth pictures of 500 x 375 pixels as JPEG of quality 90, written to a temporary folder. The
compared parts take turns, and a ratio is the median over the rounds.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from pt_flows.data import ImageNet
from pt_flows.data.class_folders import decode
from pt_flows.data.prepared import prepare, write_split

SIZE, BATCH = 64, 100


def seconds(work: Callable[[], object]) -> float:
    """Return the duration of the work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def write_images(root: Path, num: int) -> None:
    """Write JPEG files into ten class folders."""
    rng = np.random.default_rng(0)
    for i in range(num):
        folder = root / "train" / f"n{i % 10:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{i}.JPEG", quality=90)


def exhausted(items: Iterable[object]) -> None:
    """Take everything and drop it."""
    for _ in items:
        pass


def report(name: str, num: int, ours: list[float], theirs: list[float], other: str) -> None:
    """Print one line: both rates, and their ratio."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    rates = [num / statistics.median(values) for values in (ours, theirs)]
    print(
        f"{name}: {rates[0]:,.0f} images/s, {other}: {rates[1]:,.0f}; ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num", type=int, default=4_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "images", Path(folder) / "prepared"
        write_images(source, options.num)
        files = [str(path) for path in sorted(source.rglob("*.JPEG"))]
        size = sum(Path(path).stat().st_size for path in files) / options.num / 1e3
        print(f"{options.num} JPEG files of {size:.0f} kB, {options.workers} processes, to {SIZE} pixels")

        with ProcessPoolExecutor(options.workers, mp_context=get_context("fork")) as pool:
            exhausted(pool.map(partial(decode, size=SIZE), files[:50]))  # start the processes
            ours, bare = [], []
            for _ in range(options.rounds):
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir()
                ours.append(seconds(lambda: write_split(source, target, "train", SIZE, pool)))
                loop = partial(pool.map, partial(decode, size=SIZE), files, chunksize=64)
                bare.append(seconds(lambda loop=loop: exhausted(loop())))
        report("prepare", options.num, ours, bare, "bare loop of decode and resize")

        shutil.copytree(source / "train", source / "val")
        shutil.rmtree(target)
        prepare("imagenet", str(source), str(target), SIZE, options.workers)
        transform = v2.Compose([v2.PILToTensor(), v2.Resize(SIZE), v2.CenterCrop(SIZE)])
        folder_set = ImageFolder(str(source / "train"), transform)
        data, num_batches = ImageNet(str(target), SIZE, BATCH), options.num // BATCH
        data.setup("fit")
        served, decoded = [], []
        workers: dict[str, Any] = {"num_workers": options.workers, "multiprocessing_context": "fork"}
        for i in range(options.rounds):
            draws = _Draws(data, i * num_batches, num_batches)
            served.append(seconds(lambda draws=draws: exhausted(DataLoader(draws, batch_size=None, **workers))))
            loader = DataLoader(folder_set, BATCH, shuffle=True, **workers)
            decoded.append(seconds(lambda loader=loader: exhausted(loader)))
        report("prepared images", options.num, served, decoded, "ImageFolder")


class _Draws(torch.utils.data.Dataset[tuple[torch.Tensor, ...]]):
    def __init__(self, data: ImageNet, first: int, num: int) -> None:
        self.data, self.first, self.num = data, first, num

    def __getitem__(self, i: int) -> tuple[torch.Tensor, ...]:
        return self.data.draw(self.first + i, 1)

    def __len__(self) -> int:
        return self.num


if __name__ == "__main__":
    main()
