"""`python -m contrapose COMMAND`, which is how launchers of several processes start it."""

import sys

from contrapose.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
