"""Questions to W&B's server, whose failures are one sentence each."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pt_flows.errors import UserError
from pt_flows.runs.options import wandb_key_configured

RETRIES = 3
"""Attempts to reach the server again, about a second apart. W&B's default waits for many minutes."""
FOREIGN = ("wandb", "wandb_workspaces", "wandb_gql", "requests", "urllib3")


def api() -> Any:
    """The client of W&B's server, which gives up after a few seconds.

    Raises:
        UserError: No account is configured.
    """
    if not wandb_key_configured():
        advice = "Run wandb login. Without an account: pt-flows watch runs, pt-flows report runs, pt-flows compare runs"
        raise UserError(f"W&B: expected a login, got none. {advice}")
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    limits = {"graphql_retry_max": RETRIES, "graphql_retry_wait_max_seconds": 1.0, "graphql_timeout_seconds": 20.0}
    wandb.setup(settings=wandb.Settings(**{f"x_{name}": value for name, value in limits.items()}))  # pyright: ignore[reportArgumentType]
    return wandb.Api()


@contextmanager
def asking(path: str, wanted: str, advice: str) -> Iterator[None]:
    """Turn a failure of W&B inside a `with` block into one sentence.

    Args:
        path: The project or run that is asked for.
        wanted: The thing that was expected.
        advice: A sentence about mending the failure, if the server responds.

    Raises:
        UserError: W&B failed.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        own = type(error).__module__.partition(".")[0]
        of_a_file = isinstance(error, OSError) and error.filename is not None
        if of_a_file or (own not in FOREIGN and not isinstance(error, ValueError | OSError)):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        if is_away(error):
            host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
            raise UserError(
                f"W&B: expected a response from {host}, got none ({reason.rpartition(': ')[2]}). Try again later"
            ) from error
        raise UserError(f"{path}: expected {wanted}, got {reason!r}. {advice}") from error


def is_away(error: BaseException | None) -> bool:
    """Whether a failure is one of the connection, not an answer of the server."""
    marks = ("connection", "timed out", "timeout", "eof", "giving up", "no such host", "dial tcp", "deadline")
    return error is not None and any(mark in str(error).lower() for mark in marks)
