"""Several nodes, played by `torchrun` agents on this machine that know each other by address alone."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from problems import ROOT
from test_cli import assert_same, environment, run_folder, tensors
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from pt_flows.functional.penalties import gradient_norm, two_sided_penalty
from pt_flows.nets import MLPCritic
from pt_flows.runs.checkpoint import read_checkpoint

RECIPES = {
    "toy2d/w1_fe": ["--model.generator.network.width", "16", "--model.critic.network.width", "16"],
    "toy2d/da_ebm": [
        *("--model.energy.network.width", "16", "--model.buffer_size", "200", "--model.num_langevin_steps", "4"),
    ],
}


def words(recipe: str, root: str, steps: int) -> list[str]:
    arguments = ["fit", "--config", str(ROOT / f"configs/{recipe}.yaml"), *RECIPES[recipe], "--run.root", root]
    arguments += ["--trainer.max_steps", str(steps), "--trainer.accelerator", "cpu", "--data.batch_size", "32"]
    arguments += ["--evaluation.num_samples", "600", "--evaluation.every_n_iterations", "0"]
    return [*arguments, "--checkpoints.every_n_iterations", "20", "--pictures.every_n_iterations", "0"]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


class Nodes:
    """A job on two nodes with one process each: on one machine, or in named network namespaces."""

    def __init__(self, *arguments: str, address: str = "127.0.0.1", namespaces: Sequence[str] = (), **env: str) -> None:
        launch = ["torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--master_addr", address]
        launch += ["--master_port", free_port()]
        scale = ["--trainer.num_nodes", "2", "--trainer.devices", "1", "--trainer.strategy", "ddp"]
        inside = [["ip", "netns", "exec", name] for name in namespaces] or [[], []]
        self.agents = [
            subprocess.Popen(
                [*inside[i], sys.executable, "-m", *launch, "--node_rank", str(i), "-m", "--", "pt_flows", *arguments,
                 *scale],
                env=environment(**env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
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
    """One folder, the weights of one process up to summation order; a killed job ends, and continues bit by bit."""
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


@contextmanager
def two_networks() -> Iterator[list[str]]:
    """Two network namespaces that are joined by a cable, node 0 at 10.77.0.1; no other address can be reached."""
    names = [f"flows-{os.getpid()}-{i}" for i in range(2)]
    ip = lambda *words: subprocess.run(["ip", *words], check=True, capture_output=True)
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for i, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.77.0.{i}/24", "dev", "cable")
            for device in ("cable", "lo"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.mark.slow
def test_two_nodes_with_networks_of_their_own() -> None:
    """No address is shared, not even the loopback's."""
    with ExitStack() as stack:
        try:
            names = stack.enter_context(two_networks())
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("network namespaces need root and the ip command")
        job = words("toy2d/w1_fe", "apart", 20)
        out = Nodes(*job, address="10.77.0.1", namespaces=names, GLOO_SOCKET_IFNAME="cable").finish()
    assert out.count("done: 20 iterations") == 1
    assert run_folder("apart")


def test_the_slurm_script_starts_resumes_and_requeues(tmp_path: Path) -> None:
    """Stand-ins for srun and scontrol record their arguments."""
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


def shard(rank: int, port: str) -> None:
    """Run the call that fails on sharded parameters, and the one whose gradient is that of a process's part alone."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    critic = MLPCritic(width=16)
    fully_shard(critic, mesh=init_device_mesh("cpu", (2,)))
    x = torch.randn(8, 2)
    with pytest.raises(RuntimeError, match="storage of size 0"):
        two_sided_penalty(gradient_norm(critic, x)).backward()
    gradients = torch.autograd.grad(critic(x).sum(), list(critic.parameters()))
    assert all(isinstance(p, DTensor) for p in critic.parameters())
    assert not any(isinstance(g, DTensor) for g in gradients)
    dist.destroy_process_group()


@pytest.mark.slow
def test_why_sharded_strategies_are_refused() -> None:
    """If torch supports this one day, the refusal can go."""
    torch.multiprocessing.spawn(shard, (free_port(),), nprocs=2)


@pytest.mark.slow
def test_slurm_tasks_wait_for_each_other_and_name_the_missing_one() -> None:
    """Both start and train; then either one is missing, and the other names it within the strategy's timeout."""
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "w", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1"}
    job |= {"SLURM_NODELIST": "localhost", "SLURM_LOCALID": "0", "MASTER_ADDR": "127.0.0.1"}
    arguments = [*words("toy2d/w1_fe", "slurm", 10), "--trainer.num_nodes", "2", "--trainer.devices", "1"]
    arguments += ["--trainer.strategy", "lightning.pytorch.strategies.DDPStrategy"]

    def task(rank: str, port: str, seconds: int) -> "subprocess.Popen[str]":
        here = {"SLURM_PROCID": rank, "SLURM_NODEID": rank, "MASTER_PORT": port}
        call = [sys.executable, "-m", "pt_flows", *arguments, "--trainer.strategy.timeout", f"0:00:{seconds:02}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(call, text=True, env=environment(**job, **here), **pipes)

    port = free_port()
    for both in [task(rank, port, 59) for rank in "01"]:
        _, err = both.communicate(timeout=120)
        assert both.returncode == 0, err
    assert run_folder("slurm")
    for rank, message in (("0", "within 0:00:03, 1 have not started: 1."), ("1", "process 0 at 127.0.0.1")):
        alone = task(rank, free_port(), 3)
        _, err = alone.communicate(timeout=120)
        assert alone.returncode == 2, err
        assert message in err
        assert "Traceback" not in err
