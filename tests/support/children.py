"""Python scripts in processes of their own, which Ctrl-C interrupts."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from waiting import PATIENCE

ROOT = Path(__file__).parents[2]
# Children inherit an ignored SIGINT, as of a shell's background jobs, and Python leaves it ignored.
CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


def child(script, *args, prefix=(), **options):
    """Start a script, behind the words of another command if there are some."""
    command = [*prefix, sys.executable, "-c", CTRL_C + script, *map(str, args)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, env=environment, text=True, **(pipes | options))


@contextmanager
def stopped(script, *args):
    """Stop a script once it prints that it holds a lock; its process does not run any more then."""
    with child(script, *args, stderr=None) as process:
        try:
            if process.stdout.readline() != "holds\n":
                raise RuntimeError("the script ended before it held a lock")
            process.send_signal(signal.SIGSTOP)
            yield process
        finally:
            process.kill()


def fork_succeeds(task):
    """Run a task in a forked child, and tell whether it came to its end there."""
    child = os.fork()
    if not child:
        code = 1
        signal.alarm(PATIENCE)  # ends it, should it wait for a lock that nobody has
        try:
            task()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
