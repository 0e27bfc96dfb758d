"""The range server, asked by plain clients."""

import contextlib
import dataclasses
import http.client
import logging
import os
import socket
import struct
import threading
import time
from email.utils import formatdate

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import PATIENCE, wait_until

from streamfile.web.range_server import CHUNK, RangeServer, Served

CONTENT = bytes(i * 7 % 256 for i in range(1000))
BIG = os.urandom(8 * CHUNK + 5)
MTIME = 1_600_000_000
EARLIER, SAME, LATER = (formatdate(MTIME + delta, usegmt=True) for delta in (-1, 0, 1))


class Recorder(RangeServer):
    """Keeps every record."""

    def __init__(self, *args, **options):
        self.records = []
        super().__init__(*args, **options)

    def observe(self, record):
        self.records.append(record)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    top = tmp_path_factory.mktemp("server")
    root = top / "root"
    (root / "sub").mkdir(parents=True)
    (top / "secret").write_bytes(b"secret")
    (root / "file").write_bytes(CONTENT)
    (root / "big").write_bytes(BIG)
    (root / "empty").write_bytes(b"")
    (root / "sub" / "a b%?&<é>").write_bytes(b"odd name")
    (root / "inside").symlink_to("file")
    (root / "leaves").symlink_to("../secret")
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    os.utime(root / "file", (MTIME, MTIME))
    return root


@pytest.fixture(scope="module")
def server(directory):
    with RangeServer(directory) as running:
        yield running


@pytest.fixture
def get(server):
    def get(path="file", method="GET", **headers):
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        fields["Accept-Encoding"] = "identity"
        return requests.request(method, server.url + path, headers=fields, timeout=PATIENCE)

    return get


@pytest.fixture
def etag(get):
    return get().headers["ETag"]


@contextlib.contextmanager
def connect(server):
    """A connection whose paths are sent as they are."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE)
    try:
        yield connection
    finally:
        connection.close()


def fetch(connection, path, method="GET", **headers):
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    return response, response.read()


# Whole files


def test_a_whole_file_comes_with_its_headers(get):
    answer = get()
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["Content-Length"] == "1000"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Last-Modified"] == SAME
    assert "Content-Range" not in answer.headers


def test_a_file_of_many_chunks_is_whole(get):
    assert get("big").content == BIG


def test_an_empty_file_is_empty(get):
    answer = get("empty")
    assert (answer.status_code, answer.content) == (200, b"")


def test_query_strings_are_ignored(get):
    assert get("file?signature=1/2").content == CONTENT


def test_head_is_get_without_the_body(get):
    whole, head = get(), get(method="HEAD")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("ETag", "Last-Modified", "Content-Length", "Accept-Ranges", "Content-Type"):
        assert head.headers[name] == whole.headers[name]


def test_head_ignores_range(get):
    answer = get(method="HEAD", Range="bytes=0-9")
    assert answer.status_code == 200
    assert answer.headers["Content-Length"] == "1000"


def test_the_etag_is_strong_and_changes_with_the_file(tmp_path):
    path = tmp_path / "file"
    tags = []
    with RangeServer(tmp_path) as server:

        def read():
            tags.append(requests.get(server.url + "file", timeout=PATIENCE).headers["ETag"])

        path.write_bytes(b"one")
        os.utime(path, ns=(10**18, 10**18))
        read()
        read()
        os.utime(path, ns=(10**18, 10**18 + 1))
        read()
        path.write_bytes(b"three")
        os.utime(path, ns=(10**18, 10**18 + 1))
        read()
        other = tmp_path / "other"
        other.write_bytes(b"seven")
        os.utime(other, ns=(10**18, 10**18 + 1))
        other.replace(path)
        read()
    assert tags[0] == tags[1]
    assert len(set(tags)) == 4
    assert all(tag[0] == tag[-1] == '"' for tag in tags)


# Ranges


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=990-", 990, 999),
        ("bytes=-10", 990, 999),
        ("bytes=-5000", 0, 999),
        ("bytes=990-5000", 990, 999),
        ("bytes=0-", 0, 999),
        ("BYTES=1-2", 1, 2),
    ],
)
def test_a_range_gives_its_bytes(get, header, first, last):
    answer = get(Range=header)
    assert answer.status_code == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/1000"
    assert answer.headers["Content-Length"] == str(last - first + 1)
    assert answer.headers["ETag"] == get().headers["ETag"]
    assert answer.content == CONTENT[first : last + 1]


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=1000-2000", "bytes=-0"])
def test_a_range_outside_the_file_is_416(get, header):
    answer = get(Range=header)
    assert (answer.status_code, answer.content) == (416, b"")
    assert answer.headers["Content-Range"] == "bytes */1000"


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1"])
def test_any_range_of_an_empty_file_is_416(get, header):
    answer = get("empty", Range=header)
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == "bytes */0"


@pytest.mark.parametrize(
    "header",
    [
        "bytes=2-1",
        "bytes=-",
        "bytes=a-b",
        "bytes=1",
        "bytes 0-1",
        "items=0-1",
        "bytes=--1",
        "bytes=0-1,4-5",
        "bytes=0x1-2",
        "bytes=+1-2",
        "bytes=²-³",
        pytest.param("bytes=" + "9" * 5000 + "-", id="too many digits"),
    ],
)
def test_a_malformed_or_multiple_range_is_ignored(get, header):
    answer = get(Range=header)
    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_two_range_lines_are_ignored(server):
    with connect(server) as connection:
        connection.putrequest("GET", "/file")
        connection.putheader("Range", "bytes=0-1")
        connection.putheader("Range", "bytes=2-3")
        connection.endheaders()
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, CONTENT)


positions = st.integers(0, 1100)


@settings(deadline=None)
@given(first=st.none() | positions, last=st.none() | positions)
def test_every_range_is_the_slice_of_the_file(server, first, last):
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    with connect(server) as connection:
        response, body = fetch(connection, "/file", Range=header)
    if first is None:
        expected = CONTENT[-last:] if last else b""
    else:
        expected = CONTENT[first : None if last is None else last + 1]
    malformed = (first is None and last is None) or (
        first is not None and last is not None and last < first
    )
    if malformed:
        assert (response.status, body) == (200, CONTENT)
    elif not expected:
        assert (response.status, body) == (416, b"")
    else:
        assert (response.status, body) == (206, expected)


def test_a_long_range_crosses_chunks(get):
    answer = get("big", Range=f"bytes=3-{3 * CHUNK + 1}")
    assert answer.content == BIG[3 : 3 * CHUNK + 2]


# Conditional requests; ETAG stands for the file's


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If_Match": "ETAG"}, 200),
        ({"If_Match": "*"}, 200),
        ({"If_Match": '"x, y", ETAG'}, 200),
        ({"If_Match": '"other"'}, 412),
        ({"If_Match": "W/ETAG"}, 412),
        ({"If_Unmodified_Since": SAME}, 200),
        ({"If_Unmodified_Since": LATER}, 200),
        ({"If_Unmodified_Since": EARLIER}, 412),
        ({"If_Unmodified_Since": "no date"}, 200),
        ({"If_None_Match": "ETAG"}, 304),
        ({"If_None_Match": "W/ETAG"}, 304),
        ({"If_None_Match": "*"}, 304),
        ({"If_None_Match": '"other"'}, 200),
        ({"If_Modified_Since": SAME}, 304),
        ({"If_Modified_Since": LATER}, 304),
        ({"If_Modified_Since": EARLIER}, 200),
        ({"If_Modified_Since": "Mon, 99 Foo 2020"}, 200),
        # Precedence: entity tags before dates, If-Match before If-None-Match, all before ranges.
        ({"If_Match": "ETAG", "If_Unmodified_Since": EARLIER}, 200),
        ({"If_Match": '"other"', "If_Unmodified_Since": LATER}, 412),
        ({"If_None_Match": '"other"', "If_Modified_Since": LATER}, 200),
        ({"If_None_Match": "ETAG", "If_Modified_Since": EARLIER}, 304),
        ({"If_Match": '"other"', "If_None_Match": "ETAG"}, 412),
        ({"If_Match": "ETAG", "If_None_Match": "ETAG"}, 304),
        ({"If_Unmodified_Since": EARLIER, "If_None_Match": "ETAG"}, 412),
        ({"If_Match": '"other"', "Range": "bytes=0-1"}, 412),
        ({"If_None_Match": "ETAG", "Range": "bytes=0-1"}, 304),
        ({"If_Match": '"other"', "Range": "bytes=5000-"}, 412),
        ({"If_Match": "ETAG", "Range": "bytes=0-1"}, 206),
        ({"If_Range": "ETAG", "Range": "bytes=0-1"}, 206),
        ({"If_Range": "W/ETAG", "Range": "bytes=0-1"}, 200),
        ({"If_Range": '"other"', "Range": "bytes=0-1"}, 200),
        ({"If_Range": '"other"', "Range": "bytes=5000-"}, 200),
        ({"If_Range": SAME, "Range": "bytes=0-1"}, 206),
        ({"If_Range": LATER, "Range": "bytes=0-1"}, 200),
        ({"If_Range": "ETAG"}, 200),
    ],
)
def test_conditions(get, etag, headers, status):
    headers = {name: value.replace("ETAG", etag) for name, value in headers.items()}
    answer = get(**headers)
    assert answer.status_code == status
    assert answer.headers["ETag"] == etag
    expected = {200: CONTENT, 206: CONTENT[:2]}.get(status, b"")
    assert answer.content == expected
    assert get(method="HEAD", **headers).status_code == (200 if status == 206 else status)


def test_a_missing_file_is_404_under_any_condition(get):
    assert get("missing", If_Match="*").status_code == 404


def test_bytes_and_etag_are_of_one_file_while_it_is_replaced(tmp_path):
    path = tmp_path / "file"
    stop = threading.Event()
    tags = {}

    def replace():
        for i in range(10**9):
            if stop.is_set():
                return
            other = tmp_path / "new"
            other.write_bytes(bytes([i % 2 * 255]) * (1000 + i % 2))
            other.replace(path)

    path.write_bytes(bytes(1000))
    thread = threading.Thread(target=replace)
    thread.start()
    try:
        with RangeServer(tmp_path) as server, requests.Session() as session:
            for _ in range(300):
                answer = session.get(server.url + "file", timeout=PATIENCE)
                assert answer.status_code == 200
                assert len(set(answer.content)) == 1
                assert tags.setdefault(answer.headers["ETag"], answer.content) == answer.content
    finally:
        stop.set()
        thread.join()


# Connections


def test_one_connection_carries_many_requests(directory):
    with Recorder(directory) as server, connect(server) as connection:
        asked = [("/file", 200), ("/missing", 404), ("/", 200), ("/empty", 200)]
        for path, status in asked:
            for method in ("GET", "HEAD"):
                assert fetch(connection, path, method)[0].status == status
        assert fetch(connection, "/file", Range="bytes=9999-")[0].status == 416
        assert fetch(connection, "/file", **{"If-None-Match": "*"})[0].status == 304
        assert fetch(connection, "/file", **{"If-Match": '"x"'})[0].status == 412
        assert fetch(connection, "/file")[1] == CONTENT
    assert [record.first for record in server.records] == [True] + [False] * 11
    assert len({record.connected for record in server.records}) == 1


def test_many_connections_at_once(server):
    failures = []

    def read():
        with connect(server) as connection:
            if fetch(connection, "/file")[1] != CONTENT:
                failures.append(1)

    threads = [threading.Thread(target=read) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_other_methods_are_refused(get):
    assert get(method="POST").status_code == 501


def test_a_client_that_leaves_mid_body_is_no_error(directory, capfd, caplog):
    caplog.set_level(logging.INFO)
    with Recorder(directory) as server:
        client = socket.create_connection(("127.0.0.1", server.server_port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(100)
        # Linger of zero: the connection is reset, not closed.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert requests.get(server.url + "file", timeout=PATIENCE).content == CONTENT
    assert capfd.readouterr().err == ""
    assert not caplog.records
    left = next(record for record in server.records if record.path == "/big")
    assert left.status == 200


def test_a_failing_hook_is_logged_and_hurts_nobody_else(directory, capfd, caplog):
    class Failing(RangeServer):
        def observe(self, record):
            if record.path == "/empty":
                raise RuntimeError("mistake")

    with Failing(directory) as server:
        requests.get(server.url + "empty", timeout=PATIENCE)
        assert requests.get(server.url + "file", timeout=PATIENCE).content == CONTENT
    assert "mistake" in caplog.text
    assert capfd.readouterr().err == ""


# Paths


@pytest.mark.parametrize(
    "path",
    [
        "/..",
        "/../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/sub/../../secret",
        "/leaves",
        "/up",
        "/up/",
        "/up/secret",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/%00",
        "/file%00",
        "/loop",
        "/pipe",
        "/missing",
        "/sub/missing",
        "/file/",
        "/file/x",
        pytest.param("/" + "x" * 5000, id="too long"),
    ],
)
def test_what_is_not_in_the_directory_is_404(server, path):
    with connect(server) as connection:
        response, body = fetch(connection, path)
    assert (response.status, body) == (404, b"")


@pytest.mark.parametrize(
    "path", ["/file", "/f%69le", "/inside", "/sub/../file", "/./file", "//file"]
)
def test_what_stays_in_the_directory_is_served(server, path):
    with connect(server) as connection:
        response, body = fetch(connection, path)
    assert (response.status, body) == (200, CONTENT)


def test_unencoded_utf8_is_a_name_too(tmp_path):
    (tmp_path / "é").write_bytes(b"here")
    with (
        RangeServer(tmp_path) as server,
        socket.create_connection(("127.0.0.1", server.server_port)) as client,
        client.makefile("rb") as answer,
    ):
        client.sendall("GET /é HTTP/1.0\r\n\r\n".encode())
        assert answer.read().endswith(b"here")


def test_a_directory_lists_links_that_work(server, get):
    page = get("")
    assert page.headers["Content-Type"].startswith("text/html")
    assert 'href="/file"' in page.text
    assert 'href="/sub/"' in page.text
    for path in ("sub", "sub/"):
        page = get(path)
        assert "a b%?&amp;&lt;é&gt;" in page.text
        link = page.text.partition('href="/')[2].partition('"')[0]
        assert get(link).content == b"odd name"


# The server itself


def test_latency_is_slept_before_each_answer(directory, monkeypatch):
    sleep, slept = time.sleep, []

    def note(seconds):
        slept.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", note)
    with RangeServer(directory, latency=0.1) as server, connect(server) as connection:
        for _ in range(2):
            start = time.perf_counter()
            fetch(connection, "/file")
            assert time.perf_counter() - start >= 0.1
        server.latency = 0
        fetch(connection, "/file")
    assert slept == [0.1, 0.1]


def test_latency_of_parallel_requests_does_not_add_up(directory, monkeypatch):
    together = threading.Barrier(10)
    monkeypatch.setattr(time, "sleep", lambda _: together.wait(PATIENCE))
    with RangeServer(directory, latency=0.2) as server:
        url = server.url + "file"
        threads = [threading.Thread(target=requests.get, args=(url,)) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not together.broken


def test_every_finished_request_is_observed(directory):
    with Recorder(directory, latency=0.02) as server:
        start = time.perf_counter()
        with connect(server) as connection:
            fetch(connection, "/file?x=%20", Range="bytes=0-9", **{"X-Mark": "yes"})
            fetch(connection, "/file", "HEAD")
        with connect(server) as connection:
            fetch(connection, "/missing")
        end = time.perf_counter()
    one, two, three = sorted(server.records, key=lambda record: record.arrived)
    assert (one.method, one.path, one.status, one.sent) == ("GET", "/file?x=%20", 206, 10)
    assert one.headers["range"] == "bytes=0-9"
    assert one.headers["x-mark"] == "yes"
    assert (two.method, two.status, two.sent) == ("HEAD", 200, 0)
    assert (three.status, three.sent) == (404, 0)
    assert [record.first for record in (one, two, three)] == [True, False, True]
    assert one.connected == two.connected < three.connected
    assert start < one.connected < one.arrived < one.ended < two.arrived < two.ended
    assert three.arrived < end
    assert all(record.ended - record.arrived >= 0.02 for record in server.records)


def test_a_record_cannot_be_changed(directory):
    with Recorder(directory) as server:
        requests.get(server.url + "file", timeout=PATIENCE)
    assert isinstance(server.records[0], Served)
    with pytest.raises(dataclasses.FrozenInstanceError):
        server.records[0].status = 0


def test_on_connect_runs_once_a_connection_before_its_first_request(directory):
    calls = []

    class Slow(Recorder):
        def on_connect(self):
            calls.append(len(self.records))
            time.sleep(0.1)

    with Slow(directory) as server, connect(server) as connection:
        start = time.perf_counter()
        fetch(connection, "/file")
        first = time.perf_counter()
        fetch(connection, "/file")
    assert first - start >= 0.1
    assert calls == [0]
    assert server.records[0].arrived - server.records[0].connected >= 0.1


def test_leaving_the_block_closes_everything_promptly(directory):
    threads = threading.active_count()
    with RangeServer(directory) as server:
        idle = socket.create_connection(("127.0.0.1", server.server_port))
        used = http.client.HTTPConnection("127.0.0.1", server.server_port)
        fetch(used, "/file")
    assert not server._open
    assert idle.recv(1) == b""
    idle.close()
    used.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.server_port))
    wait_until(lambda: threading.active_count() <= threads)


def test_it_listens_on_loopback_at_its_url(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


def test_a_port_in_use_is_an_error(server, directory):
    with pytest.raises(OSError, match="in use"):
        RangeServer(directory, port=server.server_port)


@pytest.mark.parametrize("name", ["missing", "file"])
def test_what_is_no_directory_is_an_error(directory, name):
    with pytest.raises(NotADirectoryError, match=name):
        RangeServer(directory / name)
