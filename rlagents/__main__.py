"""`python -m rlagents` is the `rlagents` command."""

import sys

from rlagents.cli import main

sys.exit(main())
