"""Entry point of `python -m pt_flows`, for launchers that start modules."""

import sys

from pt_flows.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
