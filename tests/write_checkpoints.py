"""Write tests/checkpoints/<version>/: a small checkpoint of every method in the format of this version.

    python tests/write_checkpoints.py

It needs MNIST in $PT_FLOWS_DATA. Run it for every version (0.1, 0.2, ...), and keep the folders of the earlier ones:
`test_checkpoints.py` loads them all, those of 0.1 after `pt-flows upgrade`. The folder also has the configurations of
the runs that a later version must be able to continue, and values.json with the samples that it must then draw.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from problems import Adam, data, fit

import pt_flows
from pt_flows.cli.main import main
from pt_flows.contracts import Predicts
from pt_flows.evaluation.load import finished
from pt_flows.methods import W1FE
from pt_flows.nets import MLPCritic, MLPGenerator
from pt_flows.training.players import Critic, Generator

HERE = Path(__file__).resolve().parent
LATEST = HERE / "checkpoints" / ".".join(pt_flows.__version__.split(".")[:2])
SMALL = ["--trainer.max_steps", "4", "--trainer.log_every_n_steps", "2", "--trainer.accelerator", "cpu"]
SMALL += ["--data.batch_size", "16", "--data.iterations_per_block", "2", "--evaluation.every_n_iterations", "4"]
SMALL += ["--evaluation.num_samples", "8", "--trainer.callbacks", "[]", "--run.wandb", "disabled"]
SMALL += ["--evaluation.metrics", '[{"class_path": "ExactWasserstein"}]']
GAN = ["--model.generator.network.width", "8", "--model.critic.network.width", "8"]
SHALLOW = ["--model.generator.network.depth", "1", "--model.critic.network.depth", "1"]
ENERGY = ["--model.energy.network.width", "8", "--model.num_langevin_steps", "2"]
METHODS: dict[str, list[str]] = {
    "w1_fe": GAN,
    "w2_fe": [*GAN, "--model.excess.width", "8"],
    "js_flow": GAN,
    "wgan_gp": GAN,
    "r3gan": [*GAN, *SHALLOW],
    "sngan": [*GAN, *SHALLOW],
    "gradient_layers": [*GAN, "--model.base_iterations", "2", "--model.iterations_per_layer", "1",
                        "--model.pool_size", "8"],
    "minibatch_w2_fe": GAN[:2],
    "cfm": GAN[:2],
    "iwae": ["--model.generator.network.width", "8", "--model.encoder.network.width", "8"],
    "sim_vae": ["--model.generator.network.width", "8", "--model.encoder.network.width", "8",
                "--model.decoder_iterations", "2"],
    "ode_gan": ["--model.generator.width", "8", "--model.critic.width", "8"],
    "da_ebm": [*ENERGY, "--model.buffer_size", "64"],
    "pcd": [*ENERGY, "--model.buffer_size", "64", "--model.num_sampling_steps", "20"],
    "improved_cd": [*ENERGY, "--model.buffer_size", "64", "--model.num_references", "8", "--model.min_history", "8"],
    "moment_gan": [],
    "admm_rnn": ["--model.network.hidden", "4", "--evaluation.metrics", '[{"class_path": "Accuracy"}]'],
    "adversarial_training": ["--evaluation.metrics", '[{"class_path": "Risk"}]'],
}  # fmt: skip
CONTINUED = ("w1_fe", "da_ebm")
"""A generator and an energy with its chains: runs that the tests also continue."""


def samples(module: Any) -> list[list[float]]:
    """Four samples, or four predictions at fixed points, the same for every call."""
    if isinstance(module, Predicts):
        (network,) = module.networks.values()
        shape = network.event_shape
        points = torch.linspace(-1, 1, 4).view(4, *(1 for _ in shape)).expand(4, *shape)
        return module.eval().predict(points).tolist()
    return pt_flows.sample(module.eval(), 4, rng=torch.Generator().manual_seed(0)).tolist()


def recipe_of(name: str) -> Path:
    """The configuration of a method."""
    elsewhere = {"sim_vae": "simulators/rlc_circuit", "moment_gan": "one_layer/moments", "admm_rnn": "mnist/admm_rows",
                 "adversarial_training": "regression/adversarial_sparse"}  # fmt: skip
    return HERE.parent / "configs" / f"{elsewhere.get(name, f'toy2d/{name}')}.yaml"


def written_by_fit(config: Path, *arguments: str) -> Path:
    """Return the checkpoint of a run of the command line."""
    root = f"{config.parent.name}-{config.stem}"
    code = main(["fit", "--config", str(config), *arguments, "--run.root", root])
    assert code == 0, config
    (checkpoint,) = Path(root).glob("*/*/checkpoints/last.ckpt")
    return checkpoint


def continued(checkpoint: Path) -> list[list[float]]:
    """Samples after two more iterations of a stored run."""
    last = written_by_fit(checkpoint.with_suffix(".yaml"), "--ckpt_path", str(checkpoint), "--trainer.max_steps", "6")
    return samples(finished(last).method)


def write(folder: Path) -> None:
    """Write all checkpoints; replace those that were there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    values: dict[str, Any] = {}
    for name, arguments in METHODS.items():
        last = written_by_fit(recipe_of(name), *SMALL, *arguments)
        shutil.copy(last, folder / f"{name}.ckpt")
        if name in CONTINUED:
            shutil.copy(last.parent.parent / "config.yaml", folder / f"{name}.yaml")
    L.seed_everything(0, verbose=False)
    module = W1FE(Generator(MLPGenerator(width=8), Adam), Critic(MLPCritic(width=8), Adam), persistence=3)
    fit(module, data(), max_steps=4).save_checkpoint(folder / "built_in_python.ckpt")
    for checkpoint in sorted(folder.glob("*.ckpt")):
        values[checkpoint.stem] = {"samples": samples(finished(checkpoint).method)}
        if checkpoint.stem in CONTINUED:
            values[checkpoint.stem]["continued"] = continued(checkpoint)
    (folder / "values.json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    os.environ["WANDB_MODE"] = "disabled"
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        write(LATEST)
    size = sum(file.stat().st_size for file in LATEST.iterdir())
    sys.stdout.write(f"{len(list(LATEST.glob('*.ckpt')))} checkpoints, {size // 1000} kB, in {LATEST}\n")
