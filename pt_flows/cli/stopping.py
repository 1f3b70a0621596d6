"""The command `fit` up to a point before training, for commands that need its parser or its configuration."""

from collections.abc import Sequence
from typing import Any

from pt_flows.cli.fit import FlowCLI, start


class Stopped(Exception):
    """The result of a command line that stops before training.

    Args:
        result: The result.
    """

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


def result_of(cli: type[FlowCLI], words: Sequence[str]) -> Any:
    """Run a command line that raises `Stopped`, and return its result.

    Args:
        cli: The command line.
        words: Its arguments, from `fit` on.
    """
    try:
        start(cli, words)
    except Stopped as stopped:
        return stopped.result
    raise AssertionError(f"{cli.__name__} did not stop")
