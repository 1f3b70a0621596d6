"""Complete configurations: each command is parsed and built as `fit` does it, without training.

    echo '{"name": ["--config", "FILE"]}' | python -m pt_flows.cli.complete ANSWER.json

This runs in a process of its own, because torch and Lightning stay in the memory of the process that imports them.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pt_flows.cli.checks import check_training
from pt_flows.cli.failures import told
from pt_flows.cli.fit import FlowCLI, start
from pt_flows.cli.main import quiet
from pt_flows.files import replacing


class Built(Exception):
    """The configuration of a command whose parts can be built."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config


class CompleteCLI(FlowCLI):
    """The command `fit` up to the point where it would look for its run folder."""

    def before_instantiate_classes(self) -> None:
        """Check the configuration."""
        check_training(self.settled().trainer)

    def instantiate_classes(self) -> None:
        """Build the method, the data and the callbacks once, so that their errors are found.

        Raises:
            Built: Everything can be built.
        """
        self.parser.instantiate_classes(self.config)
        raise Built(self.settings)


def complete(words: Sequence[str]) -> dict[str, Any]:
    """Return the complete configuration of a command, or its error.

    Args:
        words: Arguments of `pt-flows fit`.
    """
    try:
        start(CompleteCLI, ["fit", *words])
    except Built as built:
        return {"config": built.config}
    except (Exception, SystemExit) as error:
        if (answer := told(error, ["fit", *words])) is None:
            raise
        return {"error": answer[0]}
    raise AssertionError("the command line neither built the configuration nor raised an error")


def machine() -> dict[str, Any]:
    """Return the kind of device that "auto" means here, and the number of GPUs."""
    gpus = torch.cuda.device_count()
    return {"accelerator": "cuda" if gpus else "mps" if torch.backends.mps.is_available() else "cpu", "gpus": gpus}


def main(target: str) -> None:
    """Answer the commands on standard input. The answer ends with the first error."""
    quiet()
    answers: dict[str, Any] = {}
    for name, words in json.load(sys.stdin).items():
        answers[name] = complete(words)
        if "error" in answers[name]:
            break
    with replacing(Path(target)) as partial:
        partial.write_text(json.dumps({"machine": machine(), "answers": answers}))


if __name__ == "__main__":
    main(sys.argv[1])
