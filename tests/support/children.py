"""Python scripts in processes of their own, which Ctrl-C interrupts."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Children inherit an ignored SIGINT, as of a shell's background jobs, and Python leaves it ignored.
CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


def child(script, *args, prefix=(), **options):
    """Start a script, behind the words of another command if there are some."""
    command = [*prefix, sys.executable, "-c", CTRL_C + script, *map(str, args)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **(pipes | options))
