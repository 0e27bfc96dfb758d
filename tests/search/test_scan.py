"""Searching a streamed file: what is read, kept and refused, and what interrupts it."""

import signal
import subprocess
import sys
import threading

import apsw
import magnitude_files as mf
import numpy as np
import pytest
from children import child
from ranked_files import written
from scripted_server import Held, ScriptedServer
from serving import LoggingServer
from waiting import wait_until

import vfs
from streamfile import Magnitude
from vfs.btree.pages import LocalPages
from vfs.btree.table import Table
from vfs.btree.walk import run


@pytest.fixture(scope="module")
def big(folder):
    return written(folder, "big")


def table_bytes(path):
    """Count the bytes of the pages of the vectors' table."""
    pages = LocalPages(path)
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name='magnitude'").get
    connection.close()
    table = Table(pages, root)
    leaves = run(pages, table.leaves(10**9))
    return (len(leaves) + len(table.interior)) * pages.layout.page_size


def cold(server, path, **options):
    return Magnitude(
        server.url + path.name, stream=True, stream_options={"cache_size": 0, **options}
    )


def test_a_streamed_scan_reads_the_table_once(server, big):
    with cold(server, big) as v:
        key = v[0][0]
        with v.stats.measure() as first:
            v.most_similar(key)
        with v.stats.measure() as second:
            v.most_similar(v[1][0])
        assert first.bytes <= 1.1 * table_bytes(big)
        assert second.bytes <= 100_000
        assert first.requests < 100


def test_restricted_it_reads_little(server, big):
    with cold(server, big) as v:
        with v.stats.measure() as counted:
            v.most_similar("no such key", restrict_vocab=200)
        assert counted.bytes < table_bytes(big) / 4


def test_a_budget_refuses_before_anything_is_sent(server, big):
    with cold(server, big) as v:
        key = v[0][0]
        v.budget.max_bytes = v.stats.bytes + len(v) * v.dim // 2
        before = v.stats.requests
        with pytest.raises(vfs.BudgetError, match="more needed now"):
            v.most_similar(key)
        assert v.stats.requests == before
        v.budget.max_bytes = v.stats.bytes + table_bytes(big) - 100_000
        with pytest.raises(vfs.BudgetError, match="max_bytes"):
            v.most_similar(key)
        assert v.stats.bytes < table_bytes(big) / 4  # interior pages at most
        v.budget.max_bytes = None
        v.budget.max_requests = v.stats.requests + 5
        with pytest.raises(vfs.BudgetError, match="max_requests"):
            v.most_similar(key)
        v.budget.max_requests = None
        assert len(v.most_similar(key)) == 10


INTERRUPTED = """
import sys
from streamfile import Magnitude
from streamfile.search import scan
scan.BATCH = 1 << 16
v = Magnitude(sys.argv[1], stream=True, stream_options={"cache_size": 0, "connections": 2})
key = v[0][0]
print("ready", flush=True)
sys.stdin.readline()
try:
    v.most_similar(key)
except KeyboardInterrupt:
    print("interrupted", flush=True)
v.query(key)
print(len(v.most_similar(key, restrict_vocab=100)), flush=True)
"""


def test_ctrl_c_stops_a_scan_and_leaves_the_object_usable(big):
    server, answered = ScriptedServer(big.read_bytes()), threading.Event()
    with server, child(INTERRUPTED, server.url, stderr=None) as process:
        assert process.stdout.readline() == "ready\n"
        before, server.then = len(server.requests), Held(answered)
        process.stdin.write("\n")
        process.stdin.flush()
        wait_until(lambda: len(server.requests) > before)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        answered.set()
        assert process.communicate()[0] == "10\n"
        assert process.returncode == 0


MEMORY = """
import sys
from streamfile import Magnitude
from streamfile.search import matrix
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
matrix.MOST_IN_MEMORY = 0
v = Magnitude(sys.argv[1], stream=True, stream_options={"cache_size": 0})
v.query("key")
v.most_similar("key", restrict_vocab=10)
before = peak()
v.most_similar("key")
print(peak() - before)
"""


def test_a_scan_that_keeps_nothing_takes_little_memory(folder):
    count, dim = 60_000, 300
    path = folder / "large"
    keys = [f"key{i}" for i in range(count)]
    mf.write_magnitude(path, keys, np.tile(mf.random_vectors(1000, dim, 1), (count // 1000, 1)))
    with LoggingServer(folder) as server:
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, server.url + "large"],
            capture_output=True,
            text=True,
            check=True,
        )
    path.unlink()
    assert int(done.stdout) < 72 << 10  # KiB, of 82 MB
