"""`python -m fetcher` and the installed command `fetcher`."""

import sys

from fetcher.cli import main

if __name__ == "__main__":
    sys.exit(main())
