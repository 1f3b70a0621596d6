"""The version of checkpoints: what is written, what can be read, and how older ones are told apart."""

from typing import Any

from pt_flows.errors import UserError

CHECKPOINT_FORMAT = 2
"""Version of checkpoints: 1 is that of pt_flows 0.1, whose networks had other names."""


def check_format(checkpoint: dict[str, Any], path: Any) -> None:
    """Check that a checkpoint is of the format that this version writes.

    Args:
        checkpoint: The content of the file.
        path: The file, for the message.

    Raises:
        UserError: It is older or newer; says what to do.
    """
    record = checkpoint.get("pt_flows", {})
    version = record.get("format", 1) if isinstance(record, dict) else 1
    if version < CHECKPOINT_FORMAT:
        raise UserError(
            f"{path}: expected a checkpoint of pt_flows 0.2, got one of 0.1. Convert it: pt-flows upgrade {path}"
        )
    if version > CHECKPOINT_FORMAT:
        raise UserError(
            f"{path}: expected a checkpoint of format {CHECKPOINT_FORMAT}, got {version}. Update pt_flows to read it"
        )
