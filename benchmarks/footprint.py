"""Measure the import time and the installed size: `python benchmarks/footprint.py`.

Both in a new virtual environment with the base install, in a temporary directory.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RUNS = 10
STATEMENTS = ("import numpy, requests", "import streamfile", "from streamfile import Magnitude")
TIMED = """
import time
start = time.process_time()
{}
print(time.process_time() - start)
"""
TARGET_RATIO = 1.3
LARGEST = 10
MIB = 1 << 20
TARGET_MS = 250
TARGET_MIB = 80

IMPORT = """
import sys, time
sockets, asked = set(), set()
def hook(event, args):
    if event.startswith("socket."):
        sockets.add(event)
    elif event == "import":
        asked.add(args[0].partition(".")[0])
sys.addaudithook(hook)
start = time.perf_counter()
from streamfile import Magnitude
taken = time.perf_counter() - start
heavy = {"torch", "h5py"}
import json
print(json.dumps([taken * 1000, sorted(sockets), sorted(heavy & (asked | set(sys.modules)))]))
"""
"""Neither package is installed there, so what counts is whether the import was attempted."""


def import_once(python: Path) -> tuple[float, list[str], list[str]]:
    """Import streamfile in a new process.

    Parameters
    ----------
    python : Path
        The interpreter.

    Returns
    -------
    tuple
        Milliseconds, the operations on sockets, and the optional packages that were imported.
    """
    command = [str(python), "-I", "-c", IMPORT]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: tuple[float, list[str], list[str]] = tuple(json.loads(done.stdout))
    return result


def processor_times(python: Path) -> list[list[float]]:
    """Run each of `STATEMENTS` in new processes, in turns.

    Parameters
    ----------
    python : Path
        The interpreter.

    Returns
    -------
    list of list of float
        For each round the seconds of processor time of each statement.
    """
    rounds = []
    for _ in range(RUNS):
        commands = [[str(python), "-I", "-c", TIMED.format(each)] for each in STATEMENTS]
        rounds.append(
            [
                float(subprocess.run(each, check=True, capture_output=True, text=True).stdout)
                for each in commands
            ]
        )
    return rounds


def sizes(site: Path, brought: set[str]) -> Counter[str]:
    """Add up the files of site-packages.

    Parameters
    ----------
    site : Path
        The folder.
    brought : set of str
        Names at its top that do not count.

    Returns
    -------
    Counter
        Bytes by package: `numpy`, `numpy.libs` and `numpy-2.0.dist-info` are one.
    """
    total: Counter[str] = Counter()
    for entry in site.iterdir():
        if entry.name not in brought:
            package = entry.name.partition("-")[0].partition(".")[0]
            files = entry.rglob("*") if entry.is_dir() else [entry]
            total[package] += sum(file.stat().st_size for file in files if file.is_file())
    return total


def main() -> None:
    """Install, measure, print."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # A copy, because building leaves files beside the sources.
        source = folder / "source"
        rubbish = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
        shutil.copytree(ROOT, source, ignore=rubbish)

        environment = folder / "venv"
        run(sys.executable, "-m", "venv", environment)
        variables = {"base": str(environment), "platbase": str(environment)}
        site = Path(sysconfig.get_path("purelib", vars=variables))
        python = Path(sysconfig.get_path("scripts", vars=variables)) / "python"
        brought = {entry.name for entry in site.iterdir()}
        run(python, "-m", "pip", "install", "--quiet", "--no-compile", source)
        plain = sizes(site, brought)
        # Files meant for other versions of Python cannot be compiled: no failure.
        subprocess.run([python, "-m", "compileall", "-qq", site], check=False)
        compiled = sizes(site, brought)
        runs = [import_once(python) for _ in range(RUNS)]
        rounds = processor_times(python)

    times = [taken for taken, _, _ in runs]
    print(
        f"from streamfile import Magnitude, {RUNS} new processes: median "
        f"{statistics.median(times):.0f} ms, max {max(times):.0f} ms, target {TARGET_MS} ms"
    )
    plainly = statistics.median(times[0] for times in rounds)
    print(f"processor time: {STATEMENTS[0]} {plainly * 1000:.0f} ms")
    for at, statement in enumerate(STATEMENTS[1:], 1):
        taken = statistics.median(times[at] for times in rounds)
        ratio = statistics.median(times[at] / times[0] for times in rounds)
        print(f"  {statement:<32}{taken * 1000:>5.0f} ms, ratio {ratio:.2f}, target {TARGET_RATIO}")
    sockets = {event for _, events, _ in runs for event in events}
    heavy = {package for _, _, packages in runs for package in packages}
    print(f"  operations on sockets: {', '.join(sorted(sockets)) or 'none'}")
    print("  (urllib3 binds one to ::1 and closes it, to learn whether there is IPv6)")
    print(f"  of torch and h5py imported: {', '.join(sorted(heavy)) or 'none'}")
    print(f"base install, MiB:{'':14}without bytecode   with bytecode")
    for package, size in plain.most_common(LARGEST):
        line(package, size, compiled[package])
    line("total", plain.total(), compiled.total())
    print(f"  target, without bytecode: {TARGET_MIB} MiB")


def run(*command: Any) -> None:
    """Run a command that has to succeed."""
    subprocess.run(command, check=True)


def line(name: str, plain: int, compiled: int) -> None:
    """Print a row of the table.

    Parameters
    ----------
    name : str
    plain, compiled : int
        Bytes.
    """
    print(f"  {name:28}{plain / MIB:18.2f}{compiled / MIB:16.2f}")


if __name__ == "__main__":
    main()
