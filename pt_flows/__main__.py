"""`python -m pt_flows` is `pt-flows`; launchers that start modules need it."""

import sys

from pt_flows.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
