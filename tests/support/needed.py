"""What tests need and not every machine has: skipped where it is missing, not where it fails."""

import contextlib
import importlib
import importlib.util
import os
import shutil
import subprocess

import pytest

REFUSALS = ("permission denied", "not permitted", "superuser")


def module(name, install=""):
    """Import a module of a package that may not be installed."""
    package = name.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        how = f": pip install {install}" if install else ""
        pytest.skip(f"{package} is not installed{how}", allow_module_level=True)
    return importlib.import_module(name)


def allowed(command, refusals=REFUSALS):
    """Run a command that not every user and machine may run."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    plain = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=plain)
    if done.returncode and any(refusal in done.stderr.lower() for refusal in refusals):
        pytest.skip(f"not allowed here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def small_disk(path, size):
    """Have a file system of so many bytes at a folder."""
    allowed(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(path)])
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
