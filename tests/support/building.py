"""What is built or fetched once per machine, by programs that may fail."""

import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def run(command: Sequence[str | Path], **options: Any) -> None:
    """Run a program for as long as it takes; if it fails, the error has all that it said."""
    words = list(map(str, command))
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(words, text=True, check=False, **(streams | options))
    if done.returncode:
        raise RuntimeError(
            f"{shlex.join(words)} ended with status {done.returncode}:\n{done.stdout}"
        )


def once(path: Path, make: Callable[[Path], Path]) -> Path:
    """Give what is at a path, made first if nothing is there.

    ``make`` gets a fresh folder and gives the path of what it made in it. That appears whole or
    not at all; of several processes that make it at once, the first one's is used by all.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = make(Path(folder))
            try:
                made.rename(path)
            except OSError:
                if not path.exists():
                    raise
    return path
