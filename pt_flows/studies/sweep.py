"""The command `sweep`: a search that W&B leads. `tune` is the same without an account."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pt_flows.cli.failures import fail
from pt_flows.cli.given import CONFIG
from pt_flows.cli.given import flags as flags_of
from pt_flows.compare.online import api, asking
from pt_flows.errors import UserError
from pt_flows.runs.folder import FAILED
from pt_flows.runs.options import wandb_key_configured
from pt_flows.studies.options import at_least_one, flags, taken
from pt_flows.studies.recipes import completed
from pt_flows.studies.sweep_file import commands, read_sweep

HELP = """pt-flows sweep FILE --config RECIPE [--count N] [flags of fit]: make a W&B sweep and run it here

  FILE        W&B's sweep file (YAML): method, metric, parameters, which are keys of fit such as model.critic.steps
  --count N   number of runs here; default until the sweep ends

See docs/tuning.md.
"""


def sweep(words: Sequence[str]) -> None:
    """Make a sweep, and run it on this machine. Each run is a `pt-flows fit` of its own.

    Args:
        words: The sweep file, the option of this command, and flags of `fit`.

    Raises:
        UserError: Nobody is logged in, the file or the recipe has a mistake, or W&B does not respond.
        SystemExit: All runs failed; the exit code is 1.
    """
    if {"-h", "--help"} & set(words):
        print(HELP, end="")
        return
    own, rest = taken(words, {"count": at_least_one})
    if not rest or rest[0].startswith("-"):
        raise UserError("sweep: expected FILE first, got none. See pt-flows sweep --help")
    file, fit = rest[0], rest[1:]
    content = read_sweep(Path(file))
    if not any(name in CONFIG for name, _ in flags_of(fit)):
        raise UserError("sweep: expected --config RECIPE, got none. See pt-flows sweep --help")
    if not wandb_key_configured():
        advice = "Run wandb login. Without an account: pt-flows tune CONFIG --trials 20"
        raise UserError(f"W&B: expected a login, got none. {advice}")
    tried = commands(content["parameters"])
    built = completed({f"{file}, values {i}": [*fit, *flags(values)] for i, values in enumerate(tried, 1)})
    options = next(iter(built.values())).config["run"]
    project, root = options["project"], options["root"]
    command = [sys.executable, "-m", "pt_flows", "fit", *fit, "--run.wandb", "online", "${args}"]
    import wandb

    with asking(file, "a sweep that W&B accepts", "Correct the file, or check your rights"), started() as runs:
        api()  # it limits how long W&B tries
        found = wandb.sweep({**content, "command": command}, content.get("entity"), project)
        print(f"on other machines: wandb agent {project}/{found}", flush=True)
        wandb.agent(found, entity=content.get("entity"), project=project, count=own.get("count"))
    if failed := sum(run.poll() != 0 for run in runs):
        where = f"Their errors are above, and in {FAILED} of those that diverged, below {root}"
        if failed == len(runs):
            raise SystemExit(fail(f"sweep: expected runs that end, got {failed} of {failed} that failed. {where}", 1))
        print(f"note: {failed} of {len(runs)} runs failed. {where}")


@contextmanager
def started() -> Iterator[list[Any]]:
    """Yield a list of the runs that W&B's agent starts here. The agent itself does not tell how they end."""
    from wandb import wandb_agent

    runs: list[Any] = []
    original = wandb_agent.AgentProcess

    class Listed(original):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            runs.append(self)

    wandb_agent.AgentProcess = Listed
    try:
        yield runs
    finally:
        wandb_agent.AgentProcess = original
