"""The command `sweep`: a search that W&B leads. `tune` is the same without an account."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pt_flows.compare.online import api, asking
from pt_flows.errors import UserError
from pt_flows.runs.options import wandb_key_configured
from pt_flows.studies.options import at_least_one, flags, taken
from pt_flows.studies.recipes import completed

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
    """
    if {"-h", "--help"} & set(words):
        print(HELP, end="")
        return
    own, rest = taken(words, {"count": at_least_one})
    if not rest or rest[0].startswith("-"):
        raise UserError("sweep: expected FILE first, got none. See pt-flows sweep --help")
    file, fit = rest[0], rest[1:]
    content = read_sweep(Path(file))
    if not wandb_key_configured():
        advice = "Run wandb login. Without an account: pt-flows tune CONFIG --trials 20"
        raise UserError(f"W&B: expected a login, got none. {advice}")
    first = {key: first_value(key, how) for key, how in content["parameters"].items()}
    project = completed({"": [*fit, *flags(first)]})[""].config["run"]["project"]
    command = [sys.executable, "-m", "pt_flows", "fit", *fit, "--run.wandb", "online", "${args}"]
    api()  # it limits how long W&B tries
    import wandb

    with asking(file, "a sweep that W&B accepts", "Correct the file, or check your rights"):
        found = wandb.sweep({**content, "command": command}, content.get("entity"), project)
        print(f"on other machines: wandb agent {project}/{found}", flush=True)
        wandb.agent(found, entity=content.get("entity"), project=project, count=own.get("count"))


def read_sweep(file: Path) -> dict[str, Any]:
    """Read a sweep file.

    Raises:
        UserError: It cannot be read, has no parameters, or sets what this command sets.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: expected a sweep file, got one that cannot be read ({reason}). Correct it") from error
    parameters = content.get("parameters") if isinstance(content, dict) else None
    if not isinstance(parameters, dict) or not parameters:
        raise UserError(f"{file}: expected the key parameters with keys of fit, got none. Add it")
    for key, advice in (("command", "Remove it"), ("program", "Remove it"), ("project", "Use --run.project")):
        if key in content:
            raise UserError(f"{file}: expected no {key}, which this command sets, got one. {advice}")
    return content


def first_value(key: str, how: Any) -> Any:
    """Return a value of a parameter, with which its key is checked before the sweep is made.

    Raises:
        UserError: There is none.

    Example:
        >>> first_value("a", {"values": [3, 4]}), first_value("a", {"min": 0.1, "max": 1.0})
        (3, 0.1)
    """
    if isinstance(how, Mapping):
        if isinstance(values := how.get("values"), list) and values:
            return values[0]
        for name in ("value", "min", "mu"):
            if name in how:
                is_log = name != "value" and "log_" in (kind := str(how.get("distribution"))) and "_values" not in kind
                return math.exp(how[name]) if is_log else how[name]
    raise UserError(f"parameters.{key}: expected value, values, or min and max, got {how!r}. Write dotted keys of fit")
