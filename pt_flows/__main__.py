"""`python -m pt_flows` is `pt-flows`; launchers that start modules need it."""

import sys

from pt_flows.cli import main

sys.exit(main())
