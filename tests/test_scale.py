"""Several nodes, played by `torchrun` agents on this machine that know each other by address alone."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from problems import ROOT
from test_cli import assert_same, environment, run_folder, tensors

from pt_flows.runs import read_checkpoint

RECIPES = {
    "toy2d/w1_fe": ["--model.generator.width", "16", "--model.critic.width", "16"],
    "toy2d/da_ebm": ["--model.energy.width", "16", "--model.buffer_size", "200", "--model.num_langevin_steps", "4"],
}


def words(recipe: str, root: str, steps: int) -> list[str]:
    arguments = ["fit", "--config", str(ROOT / f"configs/{recipe}.yaml"), *RECIPES[recipe], "--run.root", root]
    arguments += ["--trainer.max_steps", str(steps), "--trainer.accelerator", "cpu", "--data.batch_size", "32"]
    arguments += ["--evaluation.num_samples", "600", "--evaluation.every_n_iterations", "0"]
    return [*arguments, "--checkpoints.every_n_iterations", "20", "--pictures.every_n_iterations", "0"]


class Nodes:
    """A job on two nodes with one process each."""

    def __init__(self, *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        launch = ["torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--master_addr", "127.0.0.1"]
        launch += ["--master_port", port]
        scale = ["--trainer.num_nodes", "2", "--trainer.devices", "1", "--trainer.strategy", "ddp"]
        self.agents = [
            subprocess.Popen(
                [sys.executable, "-m", *launch, "--node_rank", str(i), "-m", "--", "pt_flows", *arguments, *scale],
                env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for i in range(2)
        ]  # fmt: skip

    def finish(self, code: int = 0) -> str:
        outs = [agent.communicate(timeout=240)[0] for agent in self.agents]
        assert {agent.returncode for agent in self.agents} == {code}, "\n".join(outs)
        return outs[0]

    def kill(self) -> None:
        """Kill the second node's process without notice; the rest must notice and end by itself."""
        (worker,) = subprocess.run(
            ["pgrep", "-P", str(self.agents[1].pid)], capture_output=True, text=True
        ).stdout.split()
        os.kill(int(worker), signal.SIGKILL)
        for agent in self.agents:
            agent.communicate(timeout=120)
            assert agent.returncode


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_nodes_are_one_run_that_survives_a_kill(recipe: str) -> None:
    """One folder, the same weights as one process up to summation order; a killed job ends, and goes on bit by bit."""
    out = Nodes(*words(recipe, "two", 100)).finish()
    assert out.count("run folder:") == out.count("done: 100 iterations") == 1
    folder = run_folder("two")
    assert len(list((folder / "evaluations").glob("*.json"))) == 1
    assert len(list(folder.glob("wandb*"))) == 0

    if recipe == "toy2d/w1_fe":  # chains are chaotic: an acceptance that flips in the last digit is another sample
        alone = [sys.executable, "-m", "pt_flows", *words(recipe, "one", 100)]
        subprocess.run(alone, env=environment(), check=True, capture_output=True, timeout=240)
        one, two = (tensors(run_folder(root) / "checkpoints/last.ckpt") for root in ("one", "two"))
        assert all(torch.allclose(one[key], two[key], rtol=1e-2, atol=1e-3) for key in one if "generator" in key)

    job = Nodes(*words(recipe, "killed", 100))
    deadline = time.monotonic() + 120
    while not (found := list(Path("killed").glob("*/*/checkpoints/last.ckpt"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job.kill()
    assert 0 < int(read_checkpoint(found[0])["pt_flows"]["iteration"]) < 100
    Nodes(*words(recipe, "killed", 100), "--ckpt_path", str(found[0])).finish()
    assert_same(run_folder("killed") / "checkpoints/last.ckpt", folder / "checkpoints/last.ckpt")


def test_the_slurm_script_starts_resumes_and_requeues(tmp_path: Path) -> None:
    """With stand-ins for srun and scontrol that write down what they are asked."""
    for name, body in (("srun", 'echo "srun $*"; exit ${CODE:-0}'), ("scontrol", 'echo "scontrol $*"')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_NAME": "w", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4"}
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def submit(**extra: str) -> "subprocess.CompletedProcess[str]":
        script = ["bash", str(ROOT / "configs/launch/slurm.sbatch"), "--config", "a b.yaml"]
        return subprocess.run(script, env=os.environ | job | path | extra, capture_output=True, text=True, timeout=20)

    first = submit(CODE="138")
    assert "srun pt-flows fit --config a b.yaml --run.root runs/w-7 --trainer.strategy ddp" in first.stdout
    assert "--trainer.num_nodes 2 --trainer.devices 4\n" in first.stdout
    assert "scontrol requeue 7" in first.stdout
    assert first.returncode == 138
    checkpoint = Path("runs/w-7/data-model/run/checkpoints/last.ckpt")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    again = submit()
    assert f"--ckpt_path {checkpoint}" in again.stdout
    assert "requeue" not in again.stdout


@pytest.mark.slow
def test_slurm_names_the_process_that_does_not_come() -> None:
    """One of two tasks starts, the other never does: both ways round, within the strategy's timeout."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "w", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1"}
    job |= {"SLURM_NODELIST": "localhost", "SLURM_LOCALID": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    arguments = [*words("toy2d/w1_fe", "slurm", 10), "--trainer.num_nodes", "2", "--trainer.devices", "1"]
    arguments += ["--trainer.strategy", "lightning.pytorch.strategies.DDPStrategy"]
    arguments += ["--trainer.strategy.timeout", "0:00:03"]
    for rank, message in (("0", "1 of 2 processes have not come within 0:00:03: 1;"), ("1", "process 0 at 127.0.0.1")):
        task = subprocess.run(
            [sys.executable, "-m", "pt_flows", *arguments], capture_output=True, text=True, timeout=120,
            env=environment(**job, SLURM_PROCID=rank, SLURM_NODEID=rank),
        )  # fmt: skip
        assert task.returncode == 2, task.stderr
        assert message in task.stderr
        assert "Traceback" not in task.stderr
