"""Real servers that send no ranges, allow few requests, or tell two versions of one file."""

import os
import random
import re
import shutil
import time

import magnitude_files as mf
import numpy as np
import pytest
from served import serving, timely
from twin_files import FIRST, KEYS, SECOND, write_twins
from waiting import wait_until

import vfs
from streamfile import Magnitude
from streamfile.web.range_server import RangeServer

SECOND_NS = 10**9


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    return write_twins(tmp_path_factory.mktemp("twins"))


def test_a_server_without_ranges_is_refused_at_its_headers(tmp_path):
    (tmp_path / "large.magnitude").write_bytes(bytes(32 << 20))
    answers = []
    with serving("http.server", tmp_path) as server:
        server.session.hooks["response"].append(lambda answer, **_: answers.append(answer))
        with pytest.raises(vfs.RangeError) as raised, timely():
            Magnitude(server.url + "large.magnitude", **server.options())
    told = r"127\.0\.0\.1.*ignores Range.*200.*33554432 bytes.*refused.*nginx.*streamfile serve"
    assert re.search(told, str(raised.value))
    assert [answer.status_code for answer in answers] == [200]
    assert answers[0].raw.tell() < 4096  # what was read of the body


def test_a_server_that_limits_the_rate_is_asked_at_its_rate(tmp_path):
    content = random.Random(1).randbytes(5 << 20)
    (tmp_path / "a.magnitude").write_bytes(content)
    ranges = [(at, 100) for at in range(200_000, len(content), 120_000)]
    assert len(ranges) == 43
    with serving("nginx with a limit", tmp_path) as server:
        own = server.options(deadline=None)["stream_options"]
        with vfs.open(server.url + "a.magnitude", **own) as file:
            got = file.read_many(ranges)
            assert got == [content[at : at + length] for at, length in ranges]
            assert 0 < file.stats.retries < len(ranges)
            assert file.connections < 32


def deploy(path, new, moment):
    """Put a file in place that was modified at a moment, in nanoseconds."""
    shutil.copyfile(new, path.with_suffix(".new"))
    os.utime(path.with_suffix(".new"), ns=(moment, moment))
    path.with_suffix(".new").replace(path)


def weak(server):
    """Tell whether Apache has the file for too young to be sure of its version."""
    return server.get("a.magnitude").headers["ETag"].startswith("W/")


@pytest.fixture
def young(twins, tmp_path):
    """Open a file at Apache that was modified within this second, and ask for some keys."""
    with serving("Apache", tmp_path) as server:

        def open_young(**options):
            while True:
                moment = time.time_ns() // SECOND_NS * SECOND_NS
                deploy(tmp_path / "a.magnitude", twins[0], moment)
                own = server.options(**options)
                v = Magnitude(server.url + "a.magnitude", **own)
                np.testing.assert_array_equal(v.query(KEYS[:5]), FIRST[:5])
                if weak(server):
                    return server, v, moment
                v.close()  # this machine was too slow: in another second again

        yield open_young


def test_a_file_stays_the_same_when_apache_makes_its_weak_etag_strong(young):
    server, v, _ = young()
    with timely(), v:
        wait_until(lambda: not weak(server))
        np.testing.assert_array_equal(v.query(KEYS[2000:2005]), FIRST[2000:2005])
        assert v.stats.retries == 0


def test_what_was_kept_while_the_etag_was_weak_is_not_taken_for_another_file(young, tmp_path):
    options = {"cache_dir": tmp_path / "cache", "cache_size": 1 << 26}
    server, v, _ = young(**options)
    v.close()
    wait_until(lambda: not weak(server))
    with timely(), Magnitude(v.path, **server.options(**options)) as v:
        np.testing.assert_array_equal(v.query(KEYS[:5]), FIRST[:5])


def test_two_deployments_within_a_second_are_told_apart(young, twins, tmp_path):
    while True:
        server, v, moment = young()
        with timely(), v:
            # Last-Modified is the same; the weak ETag is another one.
            deploy(tmp_path / "a.magnitude", twins[1], moment + 1000)
            if weak(server):
                with pytest.raises(vfs.FileChangedError):
                    v.query(KEYS[2000:2005])
                break
    with timely(), Magnitude(v.path, **server.options()) as v:
        np.testing.assert_array_equal(v.query(KEYS[:5]), SECOND[:5])


@pytest.fixture(scope="module")
def copies(twins, tmp_path_factory):
    """An Apache that hands requests to either of two copies."""
    folder = tmp_path_factory.mktemp("copies")
    for copy in ("one", "two"):
        for kind in ("plain", "inode"):
            (folder / copy / kind).mkdir(parents=True)
            shutil.copy2(twins[0], folder / copy / kind / "a.magnitude")
    with serving("Apache with two copies", folder) as server:
        yield server


def test_copies_of_the_same_age_are_one_file(copies):
    url = f"{copies.url}either/plain/a.magnitude"
    with timely(), Magnitude(url, **copies.options()) as v:
        for at in range(0, 50, 5):
            np.testing.assert_array_equal(v.query(KEYS[at : at + 5]), FIRST[at : at + 5])
        assert v.stats.retries == 0


def test_copies_that_tell_their_inodes_are_refused_as_two_versions(copies):
    url = f"{copies.url}either/inode/a.magnitude"
    etags = {copies.get("either/inode/a.magnitude").headers["ETag"] for _ in range(4)}
    assert len(etags) == 2
    with timely(), vfs.open(url, **copies.options()["stream_options"]) as file:
        ranges = [(at, 100) for at in range(200_000, 1_000_000, 100_000)]
        several = pytest.raises(vfs.FileChangedError, match=r"several servers")

        def read_on():  # each answer may come from the right one
            for _ in range(20):
                file.read_past_cache([(at, at + 100) for at, _ in ranges])

        with several:
            read_on()


def test_a_small_file_needs_no_ranges(tmp_path):
    mf.write_magnitude(tmp_path / "small.magnitude", KEYS[:200], FIRST[:200])
    local = Magnitude(tmp_path / "small.magnitude")
    with serving("http.server", tmp_path) as server, timely():
        v = Magnitude(server.url + "small.magnitude", **server.options())
        np.testing.assert_array_equal(v.query(KEYS[:200]), local.query(KEYS[:200]))
        assert v.stats.requests == 1
        v.close()


class Counting(RangeServer):
    """Counts its connections."""

    opened = closed = 0

    def on_connect(self):
        self.opened += 1

    def shutdown_request(self, request):
        super().shutdown_request(request)
        self.closed += 1


@pytest.mark.parametrize("failing", [False, True])
def test_no_connection_outlives_a_file_whose_error_is_kept(twins, failing):
    """Servers bear a limited number of connections, and waitress takes no more than 100."""
    name = "absent" if failing else "first"
    with Counting(twins[0].parent) as server:
        with (
            pytest.raises(vfs.VFSError) as kept,
            vfs.open(f"{server.url}{name}", cache_size=0, max_requests=2) as file,
        ):
            file.read_many([(at, 1) for at in range(200_000, 1_000_000, 100_000)])
        assert kept.value.__traceback__
        wait_until(lambda: 0 < server.opened == server.closed)
