"""Run the command line as `python -m streamfile`."""

import sys

from streamfile._cli import main

sys.exit(main())
