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
from pt_flows.cli.fit import FlowCLI
from pt_flows.cli.main import quiet
from pt_flows.cli.stopping import Stopped, result_of
from pt_flows.errors import UserError
from pt_flows.files import replacing


class CompleteCLI(FlowCLI):
    """The command `fit` up to the point where it would look for its run folder."""

    def before_instantiate_classes(self) -> None:
        """Check the configuration."""
        config = self.settled()
        check_training(config.trainer)
        if config.perf == "auto":
            advice = "Find the fastest with pt-flows tune-speed"
            raise UserError(f"perf: expected fast, reference or compile in runs side by side, got auto. {advice}")

    def instantiate_classes(self) -> None:
        """Build the method, the data and the callbacks once, so that their errors are found.

        Raises:
            Stopped: Everything can be built. The result is the configuration.
        """
        self.parser.instantiate_classes(self.config)
        raise Stopped(self.settings)


def complete(words: Sequence[str]) -> dict[str, Any]:
    """Return the complete configuration of a command, or its error.

    Args:
        words: Arguments of `pt-flows fit`.
    """
    command = ["fit", *words]
    try:
        return {"config": result_of(CompleteCLI, command)}
    except (Exception, SystemExit) as error:
        if (answer := told(error, command)) is None:
            raise
        return {"error": answer[0]}


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
