"""Search for training images that a generator repeats: nearest neighbours in feature space."""

import torch
from torch import Tensor

from pt_flows.bounds import Count
from pt_flows.contracts import Weights
from pt_flows.errors import UserError
from pt_flows.evaluation.engine import with_progress
from pt_flows.evaluation.load import device_named, finished
from pt_flows.evaluation.subject import Subject
from pt_flows.files import checked_target
from pt_flows.functional.distances import feature_distances
from pt_flows.functional.pixels import as_float, as_uint8
from pt_flows.metrics.features import FeatureNet, Lite0Features
from pt_flows.metrics.frechet import BATCH
from pt_flows.plots import save_rows
from pt_flows.progress import track
from pt_flows.samplers import Sampler

SHOWN = 6
"""Number of neighbours in the picture."""
NEIGHBOURS = 50
"""Number of neighbours whose mean distance is the unit of the nearest distance."""
NEAR = 0.01
"""Quantile of the ratios of test images below which a sample is suspicious."""


def neighbours(
    ckpt: str,
    n: Count = 1_000,
    show: Count = 10,
    out: str = "neighbours.png",
    features: FeatureNet | None = None,
    weights: Weights = "ema",
    sampler: Sampler | None = None,
    device: str = "auto",
) -> None:
    """Look for training images that a generator has memorised.

    A sample that repeats a training image is far nearer to it than to the next ones. So the ratio counts of the
    distance to the nearest image and the mean distance to the fifty nearest, in a feature space (Carlini et al. 2023,
    Extracting Training Data from Diffusion Models, arXiv:2301.13188). The distance alone would suspect every simple or
    noisy picture. The ratio is also computed for as many test images, which cannot have been memorised. If nothing is
    memorised, about one sample in a hundred is below the first percentile of the test images' ratios. The picture shows
    the samples with the smallest ratios, a row for each with its ratio and its neighbours.

    Args:
        ckpt: A checkpoint in its run folder, a run folder, or last / best of the newest run.
        n: Number of samples, and of test images.
        show: Number of rows of the picture.
        out: The picture to write, a .png.
        features: The feature network; by default EfficientNet-Lite0 at 64 pixels.
        weights: The averaged weights, or the raw ones of the last iteration.
        sampler: The sampler; by default the method's own one.
        device: Device to compute on; auto uses a GPU if there is one.
    """
    target = checked_target(out, (".png",))
    where = device_named(device)
    run = finished(ckpt)
    method, data = run.method.to(where), run.data()
    if len(data.event_shape) != 3:
        raise UserError(f"{ckpt}: expected a model of images, got one of samples of shape {tuple(data.event_shape)}")
    net = (features or Lite0Features(64)).to(where)
    train, test = data.reference("train"), data.reference("test", n)
    subject = Subject(method, weights, sampler, data)
    chunks = with_progress(subject.chunks(n, "evaluation"), n, "sampling")
    samples = torch.cat([as_uint8(x).cpu() for x in chunks])

    queries = torch.cat([net(images.to(where)) for images in torch.cat([samples, test]).split(BATCH)])
    distance, index = nearest(queries, train, net, min(NEIGHBOURS, len(train)))
    ratio = distance[:, 0] / distance.mean(1)
    generated, real = ratio[:n], ratio[n:]
    threshold = real.quantile(NEAR)
    suspicious = float((generated < threshold).float().mean())

    order = generated.argsort()[:show]
    rows = [torch.cat([samples[i : i + 1], train[index[i, :SHOWN]]]) for i in order.tolist()]
    headings = ["sample", *(f"nearest {k}" for k in range(1, rows[0].shape[0]))]
    save_rows(as_float(torch.cat(rows)), target, headings, [f"{generated[i]:.3f}" for i in order])
    print(f"{n} samples and {n} test images against {len(train)} training images, {net.name} features")
    for key, value in subject.diagnostics.items():
        print(f"  {key:<12} {value:.5g}")
    print("distance to the nearest over the mean distance to the 50 nearest:")
    for name, values in (("samples", generated), ("test images", real)):
        print(f"  {name:<12} median {float(values.median()):.3f}, least {float(values.min()):.3f}")
    print(f"samples below the smallest 1 % of test images: {suspicious:.1%} (1 % if nothing is memorised)")
    print(f"wrote {target}: the {len(rows)} samples with the smallest ratios, each with its nearest training images")


@torch.no_grad()
def nearest(queries: Tensor, images: Tensor, net: FeatureNet, k: int) -> tuple[Tensor, Tensor]:
    """Distances and indices (n, k) of the nearest images in feature space, nearest first.

    Args:
        queries: Features (n, d).
        images: Images uint8 (N, C, H, W).
        net: The feature network.
        k: Number of neighbours, at most N.
    """
    best = torch.full((len(queries), k), torch.inf, device=queries.device)
    where = torch.zeros(len(queries), k, dtype=torch.int64, device=queries.device)
    parts = images.split(BATCH)
    for i, part in enumerate(track(parts, f"features of {len(images)} training images")):
        distance = feature_distances(queries, net(part.to(queries.device)))
        indices = torch.arange(i * BATCH, i * BATCH + len(part), device=queries.device).expand(len(queries), -1)
        best, chosen = torch.cat([best, distance], 1).topk(k, largest=False)
        where = torch.cat([where, indices], 1).gather(1, chosen)
    return best.cpu(), where.cpu()
