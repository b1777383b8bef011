"""`python -m guardproxy` is the command `guardproxy`."""

import sys

from guardproxy.cli import main

if __name__ == "__main__":
    sys.exit(main())
