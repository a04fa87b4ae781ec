"""`python -m receptance` is the command `receptance`."""

import sys

from receptance.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
