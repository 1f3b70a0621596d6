"""The format of checkpoints, and the check that a file has it."""

from typing import Any

from pt_flows.errors import UserError

CHECKPOINT_FORMAT = 2
"""Format of checkpoints: 1 is that of pt_flows 0.1, whose networks had other names."""


def check_format(checkpoint: dict[str, Any], path: Any) -> None:
    """Check that a checkpoint has the format of this version.

    Args:
        checkpoint: The content of the file.
        path: The file, for the message.

    Raises:
        UserError: It is older or newer.
    """
    record = checkpoint.get("pt_flows", {})
    version = record.get("format", 1) if isinstance(record, dict) else 1
    wanted = f"{path}: expected a checkpoint of"
    if version < CHECKPOINT_FORMAT:
        raise UserError(f"{wanted} pt_flows 0.2, got one of 0.1. Convert it: pt-flows upgrade {path}")
    if version > CHECKPOINT_FORMAT:
        raise UserError(f"{wanted} format {CHECKPOINT_FORMAT}, got {version}. Update pt_flows to read it")
