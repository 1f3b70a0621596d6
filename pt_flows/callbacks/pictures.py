"""Pictures of samples along a run: grids of images, densities of toys."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from pt_flows.bounds import Count, CountOrZero
from pt_flows.callbacks.schedule import EveryIterations, as_method
from pt_flows.contracts import MapsLatents, RunsChains, Samples, Weights
from pt_flows.evaluation.subject import Subject
from pt_flows.loop.method import Method
from pt_flows.plots import save_density, save_grid
from pt_flows.samplers import Sampler
from pt_flows.training.noise import generator_at


def send_picture(trainer: L.Trainer, key: str, path: Path, iteration: int) -> None:
    """Show a picture or an animation in W&B, where the run has it.

    Args:
        trainer: Has the loggers.
        key: Name of the panel.
        path: A file of the run folder; nothing is sent if it was not written.
        iteration: The moment that it shows.
    """
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and path.is_file():
            import wandb

            media = wandb.Video(str(path)) if path.suffix == ".gif" else wandb.Image(str(path))
            logger.log_metrics({key: media}, step=iteration)  # pyright: ignore[reportArgumentType]


class Pictures(EveryIterations):
    """A picture every N iterations, from the same noise each time, in `pictures/` of the run folder and in W&B.

    A method that draws no samples has none.

    Args:
        every_n_iterations: Iterations between two pictures; one more after the last iteration.
        num_images: Images in a grid; toys show 5,000 points beside the target.
        weights: The moving average, or the raw weights.
        sampler: Draws the samples; default the method's own way.
    """

    def __init__(
        self,
        every_n_iterations: CountOrZero = 1_000,
        num_images: Count = 64,
        weights: Weights = "ema",
        sampler: Sampler | None = None,
    ) -> None:
        super().__init__(every_n_iterations)
        self.num_images, self.sampler = num_images, sampler
        self.weights: Weights = weights

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw where it is due; one process draws for all."""
        method = as_method(pl_module)
        draws = self.sampler is not None or isinstance(method, MapsLatents | RunsChains | Samples)
        if not draws or not self.due(trainer, method) or not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / "pictures" / f"{method.iteration:08d}.png"
        self.draw(trainer, method, path)
        send_picture(trainer, "samples", path, method.iteration)

    @torch.no_grad()
    def draw(self, trainer: L.Trainer, method: Method, path: Path) -> None:
        """Write the picture of the current weights; other samples than images and points in the plane have none."""
        data: Any = getattr(trainer, "datamodule", None)
        shape = tuple(data.event_shape)
        before, samples = self.before_and_after(method, data, self.num_images if len(shape) == 3 else 5000)
        if len(shape) == 3:
            if before is not None and before.shape == samples.shape:  # pairs, left before and right after
                samples = torch.stack([before, samples], 1).flatten(0, 1)[: 2 * (self.num_images // 2)]
            save_grid(samples, path)
        elif shape == (2,):
            panels = {"target": data.reference("test")[:5000]}
            panels |= {"source": before} if before is not None and before.shape[1:] == (2,) else {}
            save_density(panels | {f"iteration {method.iteration}": samples}, path)

    def before_and_after(self, method: Method, data: Any, num: int) -> tuple[Tensor | None, Tensor]:
        """Samples from the pictures' fixed noise, on the host; before them, for maps of data, the source's."""
        rng, source = generator_at("cpu", "pictures"), getattr(data, "source", None)
        if source is None or not isinstance(method, MapsLatents):
            sampler = Subject(method, self.weights, self.sampler, data).prepared()
            return None, sampler.sample(num, rng=rng).cpu()
        before = source.sample(num, rng)
        return before, method.generator.push(before.to(method.device), self.weights).cpu()
