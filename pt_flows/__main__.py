"""`python -m pt_flows` is `pt-flows`; launchers that start modules need it."""

import sys


def main() -> int:
    """Entry point: imports, which take seconds, can be interrupted like everything after them."""
    try:
        from pt_flows.cli.main import main as command_line
    except KeyboardInterrupt:
        print("error: stopped by SIGINT before anything was done", file=sys.stderr)
        return 130
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
