"""A remote file gives the bytes of one version, for as few requests as can be."""

import contextlib
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nginx import find_nginx, nginx_server
from scripted_server import Changed, Held, Ok, ScriptedServer, Stall, Whole
from waiting import wait_until

import vfs
from streamfile.web.range_server import RangeServer

HEAD = 128 << 10
SIZE = 600_000
OLD, NEW = random.Random(1).randbytes(SIZE), random.Random(2).randbytes(SIZE + 5000)
AT = 74 * 4096  # beyond what opening reads


@pytest.fixture
def open_(tmp_path):
    """Open files that share one disk cache, as processes one after another do."""
    with contextlib.ExitStack() as files:

        def open_file(server, query="", **options):
            url = server if isinstance(server, str) else server.url
            defaults = {"cache_dir": tmp_path / "cache", "cache_size": 8 << 20}
            return files.enter_context(vfs.open(url + query, **defaults | options))

        yield open_file


@pytest.fixture(scope="module")
def server():
    with ScriptedServer(OLD) as running:
        yield running


def slices(content, ranges):
    return [content[at : at + length] for at, length in ranges]


def sent(server):
    """Take the requests since the last call as (first, last, If-Match)."""
    requests = [(*request.range, request.headers.get("if-match")) for request in server.requests]
    server.requests.clear()
    return requests


# Reading

RANGES = st.lists(
    st.tuples(st.integers(0, SIZE + 10_000), st.one_of(st.integers(0, 20_000), st.just(0))),
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(ranges=RANGES, connections=st.integers(1, 8))
def test_any_ranges_are_read_in_one_wave_and_then_in_none(server, ranges, connections):
    missing = any(length and at + length > HEAD and at < SIZE for at, length in ranges)
    with vfs.open(server.url, cache_size=0, connections=connections) as file:
        with file.stats.measure() as first:
            assert file.read_many(ranges) == slices(OLD, ranges)
        assert first.waves == int(missing)
        with file.stats.measure() as second:
            assert file.read_many(ranges) == slices(OLD, ranges)
            for at, length in ranges:
                assert file.read(at, length) == file.cached(at, length) == OLD[at : at + length]
        assert (second.waves, second.requests, second.bytes) == (0, 0, 0)


@settings(deadline=None, max_examples=20)
@given(ranges=RANGES)
def test_any_ranges_are_read_where_nothing_is_kept(server, ranges):
    with vfs.open(server.url, cache_size=0, memory_size=0) as file:
        for _ in range(2):
            with file.stats.measure() as measured:
                assert file.read_many(ranges) == slices(OLD, ranges)
            assert measured.waves == int(any(length and at < SIZE for at, length in ranges))


def test_all_of_a_file_is_one_wave_of_several_requests(server):
    with (
        vfs.open(server.url, cache_size=0, memory_size=0) as file,
        file.stats.measure() as measured,
    ):
        assert file.read(0, 2 * SIZE) == OLD
    assert (measured.waves, measured.bytes) == (1, SIZE)
    assert 1 < measured.requests <= file.connections


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, HEAD - 1, HEAD, HEAD + 1])
def test_the_end_of_a_file_is_found_wherever_it_lies(size, open_):
    content = OLD[:size]
    with ScriptedServer(content) as server:
        for _ in range(2):
            file = open_(server)
            assert file.size == size
            ranges = [(0, size), (size - 1, 1), (size - 1, 100), (size, 1), (size + 5000, 5000)]
            assert file.read_many(ranges) == slices(content, ranges)
            assert file.read(0, size * 2) == content


def test_nothing_is_read_for_no_bytes(server):
    with vfs.open(server.url, cache_size=0) as file, file.stats.measure() as measured:
        assert file.read_many([(AT + 5, 0), (SIZE, 100), (SIZE - 1, 0), (SIZE * 2, 5)]) == [b""] * 4
        assert file.cached(AT + 5, 0) == file.cached(SIZE + 5, 10) == b""
        assert file.cached(AT, 1) is None
        assert file.read_many([]) == []
    assert measured.waves == 0


@pytest.mark.parametrize("one", [(-1, 5), (5, -1), (-10, 5)])
def test_negative_numbers_are_refused(server, one):
    error = pytest.raises(ValueError, match="negative")
    with vfs.open(server.url, cache_size=0) as file, error:
        file.read_many([(0, 1), one])


def test_the_counters_count_what_was_sent(server):
    with vfs.open(server.url, cache_size=0) as file:
        assert (file.stats.requests, file.stats.bytes, file.stats.waves) == (1, HEAD, 1)
        with file.stats.measure() as measured:
            file.read_many([(0, 1), (8192, 4097), (AT, 1), (AT + 100_000, 4097)])
        assert measured == vfs.Counters(requests=2, bytes=3 * 4096, waves=1, cache_hits=3)


def test_spare_ranges_fill_the_connections_that_a_wave_leaves():
    spare = [(at, 100) for at in range(350_000, 590_000, 50_000)]
    with ScriptedServer(OLD) as server, vfs.open(server.url, cache_size=0, connections=4) as file:
        with file.stats.measure() as measured:
            assert file.read_many([(0, 10)], spare=spare) == [OLD[:10]]
        assert measured.requests == 0
        with file.stats.measure() as measured:
            assert file.read_many([(140_000, 10), (0, 10)], spare=spare) == [
                OLD[140_000:140_010],
                OLD[:10],
            ]
        assert (measured.waves, measured.requests) == (1, 4)
        assert [file.cached(*one) for one in spare] == [*slices(OLD, spare[:3]), None, None]
        with file.stats.measure() as measured:
            file.read_many([(200_000, 10)], spare=[(SIZE + 5, 10), (AT, 0), *spare])
        assert (measured.waves, measured.requests) == (1, 3)
        assert [file.cached(*one) for one in spare] == slices(OLD, spare)


def test_a_full_wave_takes_no_spare_ranges():
    with ScriptedServer(OLD) as server, vfs.open(server.url, cache_size=0, connections=2) as file:
        with file.stats.measure() as measured:
            file.read_many([(140_000, 10), (240_000, 10)], spare=[(340_000, 10)])
        assert measured.requests == 2
        assert file.cached(340_000, 10) is None


# Opening


def test_opening_is_one_request():
    with ScriptedServer(OLD, [Ok()], strict=True) as server:
        with vfs.open(server.url, cache_size=0) as file:
            assert file.size == SIZE
            assert file.identity.etag == '"v1"'
            assert file.read(1000, 5000) == OLD[1000:6000]
        assert not server.unexpected
        assert [request.method for request in server.requests] == ["GET"]
        assert sent(server) == [(0, HEAD - 1, None)]


def test_opening_again_sends_nothing_and_the_first_read_makes_sure(open_):
    with ScriptedServer(OLD, [Ok()] * 3, strict=True) as server:
        open_(server).read(AT, 10)
        sent(server)
        file = open_(server)
        assert file.assumed.size == SIZE
        assert file.cached(AT, 10) == OLD[AT : AT + 10]
        assert sent(server) == []
        assert file.read(AT + 100_000, 4096) == OLD[AT + 100_000 :][:4096]
        assert [etag for *_, etag in sent(server)] == ['"v1"']
        assert file.read(AT, 10) == OLD[AT : AT + 10]
        assert file.size == SIZE
        assert not server.unexpected


def test_what_is_cached_costs_one_conditional_request_a_process(open_):
    with ScriptedServer(OLD, [Ok()] * 3, strict=True) as server:
        open_(server).read(AT, 10)
        sent(server)
        file = open_(server)
        for _ in range(3):
            assert file.read_many([(AT, 10), (5, 10)]) == slices(OLD, [(AT, 10), (5, 10)])
            file.validate()
        assert sent(server) == [(0, 4095, '"v1"')]
        assert not server.unexpected


@pytest.mark.parametrize("ask", [lambda file: file.size, lambda file: file.identity])
def test_facts_about_the_file_come_from_the_server(open_, ask):
    with ScriptedServer(OLD) as server:
        open_(server)
        sent(server)
        file = open_(server)
        assert ask(file) == ask(file)
        assert sent(server) == [(0, 4095, '"v1"')]
        server.content, server.etag = NEW, '"v2"'
        later = open_(server)
        assert later.size == len(NEW)
        assert later.identity.etag == '"v2"'
        assert sent(server) == [(0, 4095, '"v1"'), (0, HEAD - 1, None)]


def test_a_url_signed_anew_finds_its_blocks_again(open_):
    with ScriptedServer(OLD) as server:
        open_(server, "?Expires=1&Signature=a&Key-Pair-Id=K").read(AT, 10)
        server.requests.clear()
        file = open_(server, "?Expires=2&Signature=b&Key-Pair-Id=K#part")
        assert file.read(AT, 10) == OLD[AT : AT + 10]
        assert [(request.path, request.range) for request in server.requests] == [
            ("/file.magnitude?Expires=2&Signature=b&Key-Pair-Id=K", (0, 4095))
        ]


def test_another_path_is_another_file(open_):
    with ScriptedServer(OLD) as server:
        open_(server)
        open_(server, "/other")
        assert sent(server) == [(0, HEAD - 1, None)] * 2


def test_a_cache_key_stands_for_the_address(open_):
    with ScriptedServer(OLD) as one, ScriptedServer(OLD) as other:
        open_(one, cache_key="vectors").read(AT, 10)
        assert open_(other, cache_key="vectors").read(AT, 10) == OLD[AT : AT + 10]
        assert sent(other) == [(0, 4095, '"v1"')]
        open_(other, cache_key="others")
        open_(other)
        assert sent(other) == [(0, HEAD - 1, None)] * 2


def test_no_disk_cache_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(tmp_path / "cache"))
    with ScriptedServer(OLD) as server:
        for _ in range(2):
            with vfs.open(server.url, cache_size=0) as file:
                assert file.read(AT, 10) == OLD[AT : AT + 10]
                assert len(sent(server)) == 2
    assert not list(tmp_path.iterdir())


# Versions

MIXED = [(0, 10), (AT, 10), (AT + 2 * 4096, 10), (SIZE - 10, 4000)]


@pytest.mark.parametrize("ranges", [MIXED, MIXED[:2], MIXED[2:], [(SIZE, 9)]])
def test_a_changed_file_is_opened_anew_and_never_mixed(open_, ranges):
    with ScriptedServer(OLD) as server:
        open_(server).read(AT, 10)
        server.content, server.etag = NEW, '"v2"'
        file = open_(server)
        assert file.assumed.etag == '"v1"'
        assert file.read_many(ranges) == slices(NEW, ranges)
        assert file.identity == file.assumed
        assert (file.identity.etag, file.size) == ('"v2"', len(NEW))
        sent(server)
        assert open_(server).read(AT, 10) == NEW[AT : AT + 10]
        assert {etag for *_, etag in sent(server)} == {'"v2"'}


def test_a_file_that_became_shorter_is_opened_anew(open_):
    with ScriptedServer(OLD) as server:
        open_(server).read(AT, 10)
        server.content, server.etag = NEW[:100], '"v2"'
        assert open_(server).read_many([(0, 200), (AT, 10)]) == [NEW[:100], b""]


def test_versions_that_come_and_go_are_never_mixed(open_):
    versions = [(OLD, '"v1"'), (NEW, '"v2"'), (OLD[::-1], '"v3"')]
    chosen = random.Random(3)
    with ScriptedServer(OLD) as server:
        for _ in range(12):
            server.content, server.etag = chosen.choice(versions)
            file = open_(server)
            for _ in range(3):
                ranges = [(chosen.randrange(SIZE), chosen.randrange(9000)) for _ in range(4)]
                assert file.read_many(ranges) == slices(server.content, ranges)
        server.content, server.etag = versions[0]
        with vfs.open(server.url, cache_size=0) as file:
            assert file.read(0, SIZE) == OLD


def test_a_version_that_returns_finds_its_blocks_again(open_):
    with ScriptedServer(OLD) as server:
        open_(server).read(AT, 10)
        server.content, server.etag = NEW, '"v2"'
        open_(server).read(AT, 10)
        server.content, server.etag = OLD, '"v1"'
        sent(server)
        assert open_(server).read(AT, 10) == OLD[AT : AT + 10]
        assert sent(server) == [(0, 4095, '"v2"'), (0, HEAD - 1, None)]


def test_a_change_after_the_first_answer_is_an_error(open_):
    with ScriptedServer(OLD, [Ok(), Ok(), Ok(), Changed(NEW, '"v2"')]) as server:
        open_(server).read(AT, 10)
        file = open_(server)
        file.validate()
        with pytest.raises(vfs.FileChangedError):
            file.read(AT + 100_000, 10)
        assert file.read(AT, 10) == OLD[AT : AT + 10]
        with pytest.raises(vfs.FileChangedError):
            file.read_many([(AT, 10), (AT + 100_000, 10)])


def test_a_change_while_a_stale_file_is_opened_anew_is_an_error(open_):
    changes = [Changed(NEW, '"v2"'), Ok(), Changed(OLD[::-1], '"v3"')]
    with ScriptedServer(OLD, [Ok(), *changes]) as server:
        open_(server)
        file = open_(server)
        with pytest.raises(vfs.FileChangedError, match=r'"v2".*"v3"'):
            file.read(AT, 10)


@pytest.mark.parametrize("attempt", range(3))
def test_threads_that_meet_a_stale_file_together_read_the_new_one(open_, attempt):
    ranges = [(AT + 4096 * n, 10) for n in range(0, 60, 2)]
    together = threading.Barrier(8)

    def read(number):
        together.wait()
        wanted = [ranges[number], *random.Random(attempt).sample(ranges, 5), (300, 10)]
        return file.read_many(wanted) == slices(NEW, wanted)

    with ScriptedServer(OLD) as server, ThreadPoolExecutor(8) as pool:
        open_(server).read_many(ranges[::2])
        server.content, server.etag, server.then = NEW, '"v2"', Stall(0.002 * attempt)
        file = open_(server)
        assert all(pool.map(read, range(8)))
        assert sent(server).count((0, HEAD - 1, None)) == 2


def test_an_answer_overtaken_by_a_newer_version_is_not_given_out(open_):
    with ScriptedServer(OLD) as server, ThreadPoolExecutor(1) as pool:
        open_(server)
        file = open_(server)
        answered = threading.Event()
        server.script.extend([Held(answered), Changed(NEW, '"v2"')])
        early = pool.submit(file.read, AT, 10)
        wait_until(lambda: len(server.requests) == 2)
        assert file.read(AT + 100_000, 10) == NEW[AT + 100_000 :][:10]
        assert not early.done()
        answered.set()
        assert early.result() == NEW[AT : AT + 10]


def test_records_belong_to_a_version(open_):
    with ScriptedServer(OLD) as server:
        file = open_(server)
        assert file.recall("name") is None
        file.remember("name", b"record" * 2000)
        assert file.recall("name") == open_(server).recall("name") == b"record" * 2000
        assert file.recall("other") is None
        assert open_(server, cache_key="other").recall("name") is None
        server.content, server.etag = NEW, '"v2"'
        changed = open_(server)
        changed.validate()
        assert changed.recall("name") is None


def test_every_copy_of_a_file_follows_its_own_version(open_):
    with ScriptedServer(OLD) as server:
        before = open_(server)
        server.content, server.etag = NEW, '"v2"'
        after = open_(server)
        assert after.read(AT, 10) == NEW[AT : AT + 10]
        with pytest.raises(vfs.FileChangedError):
            before.read(AT, 10)
        assert before.read(0, 10) == OLD[:10]
        assert after.read(0, 10) == NEW[:10]


# Other servers


@contextlib.contextmanager
def own_server(directory):
    with RangeServer(directory) as running:
        yield running.url


@contextlib.contextmanager
def nginx(directory):
    with nginx_server(directory) as url:
        yield f"{url}/"


SERVERS = [
    own_server,
    pytest.param(
        nginx, marks=pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed")
    ),
]


@pytest.mark.parametrize("serve", SERVERS)
def test_a_file_replaced_on_a_server_is_noticed(serve, tmp_path, open_):
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(OLD)
    with serve(root) as url:
        file = open_(f"{url}file")
        assert file.read(AT, 10) == OLD[AT : AT + 10]
        (root / "new").write_bytes(NEW)
        os.replace(root / "new", root / "file")  # noqa: PTH105
        with pytest.raises(vfs.FileChangedError):
            file.read(AT + 100_000, 10)
        assert open_(f"{url}file").read_many(MIXED) == slices(NEW, MIXED)


@pytest.mark.parametrize("serve", SERVERS)
def test_an_empty_file_is_empty_on_a_real_server(serve, tmp_path, open_):
    root = tmp_path / "root"
    root.mkdir()
    (root / "empty").touch()
    with serve(root) as url:
        for _ in range(2):
            file = open_(f"{url}empty")
            assert (file.size, file.read(0, 100), file.read(5000, 100)) == (0, b"", b"")
            assert file.stats.retries == 0


@pytest.mark.parametrize("then", [Ok(), Whole()])  # 416, or 200 with nothing in it
def test_an_empty_file_may_be_told_in_two_ways(then):
    with ScriptedServer(b"", then=then) as server, vfs.open(server.url, cache_size=0) as file:
        assert (file.size, file.read(0, 100)) == (0, b"")
        assert len(server.requests) == 1


def test_a_file_that_became_empty_is_noticed(open_):
    with ScriptedServer(OLD) as server:
        file = open_(server)
        server.content = b""
        with pytest.raises(vfs.FileChangedError):
            file.read(AT, 10)
        assert open_(server).read(0, 10) == b""


def test_a_budget_nearly_used_up_serves_what_is_needed_without_what_is_convenient():
    page, head = 4096, 128 << 10
    content = random.Random(9).randbytes(1 << 20)
    wanted = [(head, page), (head + 3 * page, page)]
    spare = [(head + 32 * page, page)]
    with ScriptedServer(content) as server, vfs.open(server.url, cache_size=0) as file:
        file.budget.max_bytes = head + 2 * page
        assert file.read_many(wanted, spare=spare) == [content[a : a + n] for a, n in wanted]
        assert file.stats.bytes == head + 2 * page
        with pytest.raises(vfs.BudgetError, match=r"4,096 more needed.*budget\.max_bytes"):
            file.read_many(spare)
        file.budget.max_bytes = None
        assert file.read_many(spare) == [content[a : a + n] for a, n in spare]
