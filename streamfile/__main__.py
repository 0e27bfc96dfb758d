"""Run the command line as `python -m streamfile`."""

import sys

from streamfile.cli.main import main

sys.exit(main())
