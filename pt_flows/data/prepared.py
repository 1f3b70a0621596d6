"""Image folders turned once into arrays that training reads without decoding.

    <out>/index.json         image size, classes, and of each split: how many images, checksums, skipped files
    <out>/train.npy          uint8 (N, 3, size, size), and test.npy
    <out>/train.labels.npy   int64 (N,), and test.labels.npy

A .npy file is mapped into memory, and any image is one read of 3 · size² bytes: so batches are the same function of
(seed, iteration) as in memory, shuffled over the whole set. An interrupted preparation resumes.
"""

import hashlib
import json
import os
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_type_hints

import numpy as np
import torch
from torch import Tensor

from pt_flows.bounds import Count, check_arguments
from pt_flows.contracts import Split
from pt_flows.data.base import require
from pt_flows.data.class_folders import FOLDERS, decode, list_images
from pt_flows.errors import UserError
from pt_flows.files import replacing
from pt_flows.progress import track

FORMAT = 1
BLOCK = 1_024
"""Images that one process writes at a time, and that one checksum covers."""


def prepare(data: Literal["imagenet"], root: str, out: str, size: Count = 64, workers: Count | None = None) -> None:
    """Decode and downsample images once, in parallel, for training to read.

    An interrupted preparation resumes where it stopped. Files that cannot be used are omitted and listed in
    `skipped.txt`. If the preparation is finished, running it again checks every byte.

    Args:
        data: Layout of the images: imagenet, that is train/<class>/*.JPEG and val/<class>/*.JPEG.
        root: Folder of the images.
        out: Folder to write.
        size: Height and width; larger images are cut to their central square and downsampled.
        workers: Processes; default one for each core.
    """
    check_arguments("--", get_type_hints(prepare, include_extras=True), {"size": size, "workers": workers})
    source, target = Path(root), Path(out)
    require(target.resolve() != source.resolve(), "--out", "another folder than --root", f"{out} for both")
    target.mkdir(parents=True, exist_ok=True)
    index = read_index(target) if (target / "index.json").is_file() else None
    there = size if index is None else index["size"]
    require(there == size, target, f"images of {size} pixels", f"images of {there}. Choose another --out")
    splits: list[Split] = [split for split, folder in FOLDERS.items() if split == "train" or (source / folder).is_dir()]
    index = index or {"format": FORMAT, "size": size, "classes": [], "splits": {}}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = get_context("forkserver")
    processes.set_forkserver_preload([__name__])  # imported once, not by every worker
    pool = ProcessPoolExecutor(workers or cores, mp_context=processes)
    try:
        for split in splits:
            if split in index["splits"]:
                verify(target, index, split)
                print(f"{split}: {index['splits'][split]['num']} images are there and whole")
                continue
            index["splits"][split], index["classes"] = write_split(source, target, split, size, pool)
            with replacing(target / "index.json") as path:
                path.write_text(json.dumps(index))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
    skipped = [f"{name}\t{why}\n" for entry in index["splits"].values() for name, why in entry["skipped"]]
    (target / "skipped.txt").write_text("".join(skipped))
    note = f"; {len(skipped)} files could not be used, see {target / 'skipped.txt'}" if skipped else ""
    print(f"prepared {target} ({sum(f.stat().st_size for f in target.glob('*.npy')) / 1e9:.2f} GB){note}")
    print(f"train with --data ImageNet --data.root {target} --data.image_size {size}")


# ------------------------------------------------------------------------------------------------------------- writing


class Written(NamedTuple):
    """A block: where it begins, and the files that were omitted, each with its position and the reason."""

    start: int
    skipped: list[tuple[int, str]]


def write_split(
    source: Path, target: Path, split: Split, size: int, pool: Executor
) -> tuple[dict[str, Any], list[str]]:
    """Write the array and the labels of a split, and return its entry in the index, and the names of the classes."""
    files, labels, classes = list_images(source, split)
    partial_array, journal = target / f"{split}.npy.part", target / f"{split}.journal"
    listing = hashlib.sha256("\n".join([str(size), *files]).encode()).hexdigest()
    done = read_journal(journal, listing)
    if not done or num_images(partial_array) != len(files):
        done = {}
        make_array(partial_array, len(files), size)
        journal.write_text(listing + "\n")
    starts = range(0, len(files), BLOCK)
    todo = [start for start in starts if start not in done]
    if len(todo) < len(starts):
        print(f"{split}: resuming with {len(todo)} of {len(starts)} blocks")
    jobs = pool.map(partial(write_block, partial_array, size), todo, [files[i : i + BLOCK] for i in todo])
    with journal.open("a") as log:
        for written in track(jobs, f"{split}: blocks of {BLOCK} images", len(todo)):
            done[written.start] = written.skipped
            log.write(json.dumps(written) + "\n")
            log.flush()
    skipped = sorted(pair for pairs in done.values() for pair in pairs)
    kept = close_gaps(partial_array, [i for i, _ in skipped], len(files), size)
    first = skipped[0][1] if skipped else ""
    require(len(kept) > 0, source / FOLDERS[split], "images that can be used", f"none. The first problem: {first}")
    with replacing(target / f"{split}.labels.npy") as path, path.open("wb") as file:
        np.save(file, np.array(labels)[kept])
    os.replace(partial_array, target / f"{split}.npy")
    entry = {"num": len(kept), "skipped": [(files[i], why) for i, why in skipped]}
    entry["checksums"] = checksums(target / f"{split}.npy", split)
    journal.unlink()
    return entry, classes


def read_journal(journal: Path, listing: str) -> dict[int, list[tuple[int, str]]]:
    """Blocks that an interrupted preparation of the same files has finished."""
    if not journal.is_file():
        return {}
    first, *lines = journal.read_text(errors="replace").split("\n")
    if first != listing:
        return {}
    try:
        whole = [json.loads(line) for line in lines[:-1]]  # the last one may have been cut short
        return {start: [(i, why) for i, why in skipped] for start, skipped in whole}
    except (ValueError, TypeError):  # damaged: all blocks are written again
        return {}


def num_images(path: Path) -> int:
    """Return how many images an array has room for; 0 if there is no array."""
    try:
        return len(np.load(path, mmap_mode="r"))
    except Exception:  # missing or damaged, for which numpy raises many kinds: it is made again
        return 0


def make_array(path: Path, num: int, size: int) -> None:
    """Make a .npy file with room for all images, and reserve its space on the disk."""
    with path.open("wb") as file:
        write_header(file, num, size)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, file.tell() + num * 3 * size * size)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


def write_header(file: Any, num: int, size: int) -> None:
    """Write the header of the array, which has the same length for any number of images."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (num, 3, size, size)})


def write_block(path: Path, size: int, start: int, files: list[str]) -> Written:
    """Decode the files of a block into their places of the array."""
    images, skipped = np.zeros((len(files), 3, size, size), np.uint8), []
    for i, name in enumerate(files):
        try:
            images[i] = decode(name, size).transpose(2, 0, 1)
        except UserError as error:
            skipped.append((start + i, str(error).rpartition(". ")[0]))  # without the advice
    with path.open("r+b", buffering=0) as file:
        file.seek(np.lib.format.open_memmap(path, mode="r").offset + start * images[0].nbytes)
        file.write(images.tobytes())
        os.fsync(file.fileno())
    return Written(start, skipped)


def close_gaps(path: Path, gaps: list[int], num: int, size: int) -> np.ndarray:
    """Move the last images into the places of skipped ones, shorten the array, and return the file of each place."""
    if not gaps:
        return np.arange(num)
    left = num - len(gaps)
    kept = np.arange(left)
    array = np.lib.format.open_memmap(path, mode="r+")
    holes, movable = [i for i in gaps if i < left], sorted(set(range(left, num)) - set(gaps))
    for hole, origin in zip(holes, movable, strict=True):
        array[hole], kept[hole] = array[origin], origin
    array.flush()
    offset = array.offset
    del array
    with path.open("r+b") as file:
        write_header(file, left, size)
        file.truncate(offset + left * 3 * size * size)
    return kept


def checksums(path: Path, split: Split) -> list[str]:
    """Checksums of the blocks of an array, each 16 hexadecimal digits of BLAKE2."""
    array = np.load(path, mmap_mode="r")
    blocks = [array[i : i + BLOCK] for i in range(0, len(array), BLOCK)]
    digest = lambda part: hashlib.blake2b(np.ascontiguousarray(part).data, digest_size=8).hexdigest()
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter
        return list(track(pool.map(digest, blocks), f"{split}: checksums", len(blocks)))


# ------------------------------------------------------------------------------------------------------------- reading


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index of prepared images.

    Raises:
        UserError: It is damaged, or from a newer version.
    """
    path, advice = folder / "index.json", "Prepare the images again into another folder"
    try:
        index: dict[str, Any] = json.loads(path.read_text())
        version = int(index["format"])
        missing = {"size", "classes", "splits"} - set(index)
        missing |= {
            key for entry in index.get("splits", {}).values() for key in {"num", "checksums", "skipped"} - set(entry)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error}). {advice}") from error
    require(version <= FORMAT, path, f"at most format {FORMAT}", f"{version}. Update pt_flows")
    require(not missing, path, ", ".join(sorted(missing)), f"an index without them. {advice}")
    return index


def read_prepared(folder: Path, split: Split, size: int) -> tuple[Tensor, Tensor, list[str]]:
    """Images uint8 (N, 3, size, size) mapped from disk, labels (N,), and names of the classes; every byte is checked.

    Raises:
        UserError: They differ from the index, or have another size.
    """
    index = read_index(folder)
    there, splits = index["size"], index["splits"]
    require(there == size, "data.image_size", f"{there}, the size of the images in {folder}", f"{size}")
    require(split in splits, folder, f"a {split} split", "an unfinished preparation. Run pt-flows prepare again")
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:  # once on every node
        verify(folder, index, split)
    images = torch.from_numpy(np.load(folder / f"{split}.npy", mmap_mode="c"))
    return images, torch.from_numpy(np.load(folder / f"{split}.labels.npy")), index["classes"]


def verify(folder: Path, index: dict[str, Any], split: Split) -> None:
    """Check the files of a split against the index.

    Raises:
        UserError: They differ; the error says where.
    """
    path, entry, size = folder / f"{split}.npy", index["splits"][split], index["size"]
    again = f"Delete {folder} and prepare the images again"
    try:
        shape = np.load(path, mmap_mode="r").shape
        labels = np.load(folder / f"{split}.labels.npy")
        labels_shape = labels.shape
    except Exception as error:  # numpy raises many kinds on damaged files
        raise UserError(f"{path}: it or its labels cannot be read ({error}). {again}") from error
    fits = shape == (entry["num"], 3, size, size) and labels_shape == shape[:1]
    wanted = f"{entry['num']} images of {size} pixels, as in index.json"
    require(fits, path, wanted, f"shape {shape} and {len(labels)} labels. {again}")
    last = len(index["classes"]) - 1
    fits = bool(((labels >= 0) & (labels <= last)).all())
    require(fits, f"{folder / split}.labels.npy", f"labels from 0 to {last}", f"others. {again}")
    differing = [i for i, (a, b) in enumerate(zip(checksums(path, split), entry["checksums"], strict=True)) if a != b]
    start = BLOCK * differing[0] if differing else 0
    images = f"images {start} to {min(start + BLOCK, entry['num']) - 1}"
    found = f"{len(differing)} of {len(entry['checksums'])} that differ, first that of {images}"
    require(not differing, path, "the checksums of index.json", f"{found}. {again}")
