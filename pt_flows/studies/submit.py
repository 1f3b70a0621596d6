"""Workers on the machines of a cluster, which share the folder of a study."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pt_flows.errors import UserError
from pt_flows.runs.signals import TIED

EXAMPLE = "{cluster: slurm, workers: 8, slurm_partition: gpu, timeout_min: 600}"


@dataclass(frozen=True)
class Submission:
    """Workers to start.

    Attributes:
        cluster: The kind of cluster, as submitit names it; None for SLURM if it is here, else local processes.
        workers: Number of workers.
        parameters: Parameters of each job, as submitit names them.
    """

    cluster: str | None
    workers: int
    parameters: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str) -> "Submission":
        """Read the option.

        Raises:
            UserError: It is no mapping, or has no number of workers.
        """
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError:
            content = None
        if not isinstance(content, dict):
            raise UserError(f"expected a mapping such as {EXAMPLE}, got {text!r}. Put it in quotes")
        workers, cluster = content.pop("workers", None), content.pop("cluster", None)
        if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
            raise UserError(f"expected workers, a whole number of at least 1, got {workers}. Write {EXAMPLE}")
        return cls(cluster, workers, content)


@dataclass
class Worker:
    """A process that works on a study. When its time is over, it is queued again.

    Attributes:
        words: Arguments of pt-flows.
        folder: The working directory of the command that submitted it.
    """

    words: list[str]
    folder: str

    def __call__(self) -> int:
        """Run the command, and return its exit code."""
        command = [sys.executable, "-m", "pt_flows", *self.words]
        environment = {**os.environ, TIED: "1"}
        with subprocess.Popen(command, cwd=self.folder, stdin=subprocess.PIPE, env=environment) as process:
            return process.wait()

    def checkpoint(self) -> Any:
        """Return the job that continues this one, as submitit asks for it before the time is over."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(how: Submission, words: Sequence[str], out: Path) -> None:
    """Start the workers. Each runs the same command, and claims runs that no other one has.

    Args:
        how: The workers.
        words: The command line after `study`.
        out: Folder of the study, which all machines must see.

    Raises:
        UserError: submitit is not installed, or does not accept the parameters.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError("--submit: expected submitit, got none. Run pip install 'pt-flows[slurm]'") from error
    command = without(words, "--submit")
    try:
        executor = submitit.AutoExecutor(folder=str(out / "workers"), cluster=how.cluster)
        executor.update_parameters(**how.parameters)
        worker = Worker(["study", *command], os.getcwd())
        with executor.batch():
            jobs = [executor.submit(worker) for _ in range(how.workers)]
    except (ValueError, NameError, TypeError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--submit: expected parameters of submitit, got others ({reason}). Write {EXAMPLE}") from error
    print(f"submitted {len(jobs)} workers: {', '.join(job.job_id for job in jobs)}. Their output: {out / 'workers'}")


def without(words: Sequence[str], flag: str) -> list[str]:
    """Return a command line without an option and its value.

    Example:
        >>> without(["a.yaml", "--submit", "{workers: 2}", "--jobs", "1"], "--submit")
        ['a.yaml', '--jobs', '1']
    """
    kept = []
    remaining = iter(words)
    for word in remaining:
        if word == flag:
            next(remaining, None)
        elif not word.startswith(f"{flag}="):
            kept.append(word)
    return kept
