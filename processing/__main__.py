"""`python -m processing ...` is `autosing-process ...`."""

import sys

from autosing.cli.process import main

if __name__ == "__main__":
    sys.exit(main())
