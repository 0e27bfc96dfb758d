"""Connections: made, shared, opened ahead, left alone by sessions, threads and forks."""

import contextlib
import gc
import logging
import os
import pickle
import random
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from leftovers import sockets_to
from narrow_server import NarrowServer
from nginx import find_nginx, nginx_server
from remote_content import AT, CONTENT, opened, wave
from requests.adapters import HTTPAdapter
from scripted_server import Ok, ScriptedServer, Stall
from sessions import SpecialSession, plain_session, tells
from waiting import PATIENCE, wait_until

import vfs
from streamfile.web.range_server import RangeServer
from vfs import workers
from vfs.transport import connections
from vfs.transport.connections import UNUSED
from vfs.workers import Slots


def connections_of(requests):
    return {request.connection for request in requests}


# Making one


@pytest.mark.parametrize(("code", "tries"), [(socket.EAI_NONAME, 1), (socket.EAI_AGAIN, 3)])
def test_a_name_that_does_not_resolve_is_told(monkeypatch, code, tries):
    asked = []

    def resolve(*args, **options):
        asked.append(args)
        raise socket.gaierror(code, "what the system says")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)  # real resolvers differ, and take seconds
    with pytest.raises(vfs.ConnectError, match=r"name does not resolve: what the system says"):
        opened("http://nowhere.invalid/file", connections=1, retries=2)
    assert len(asked) == tries


def test_a_refused_connection_is_told():
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/file"
    with pytest.raises(vfs.ConnectError, match="Connection refused"):
        opened(url, retries=1)


def test_a_server_that_does_not_speak_tls_is_told():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    connection.close()

        threading.Thread(target=answer, daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/file"
        with pytest.raises(vfs.ConnectError, match="secure connection failed"):
            opened(url, retries=0, connections=1)
        listener.shutdown(socket.SHUT_RDWR)


# How many


@pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed")
@pytest.mark.parametrize(("bears", "most"), [(4, 8), (1, 2)])
def test_a_server_that_refuses_connections_is_read_with_fewer(tmp_path, bears, most):
    content = random.Random(2).randbytes(5 << 20)
    ranges = [(130_000 * n, 10_000) for n in range(40)]
    with ScriptedServer(content, then=Stall(0.02)) as server:
        base = server.url.rpartition("/")[0]
        extra = f"location / {{ limit_conn clients {bears}; proxy_pass {base}; }}"
        with nginx_server(tmp_path, extra=extra) as url:
            with opened(f"{url}/file.magnitude") as file:
                data = file.read_many(ranges)
                assert data == [content[at : at + length] for at, length in ranges]
                assert file.stats.retries
                assert 1 <= file.connections <= most
            assert 503 in {request["status"] for request in url.requests()}


def test_slots_shrink_once_for_a_burst_of_refusals():
    slots = Slots(8)
    with slots as alone:
        pass
    slots.shrink(alone)
    assert slots.width == 8  # nothing else was under way
    with slots as first, slots as second, slots:
        for entered in (first, second):
            slots.shrink(entered)
        assert slots.width == 4
        with slots as later:
            slots.shrink(later)
        assert slots.width == 2


def test_a_smaller_width_holds_from_then_on():
    slots = Slots(2)
    inside = threading.Event()
    with slots as entered, slots:
        slots.shrink(entered)

    def enter():
        with slots:
            inside.set()

    thread = threading.Thread(target=enter)
    with slots:
        thread.start()
        assert not inside.wait(0.1)
    thread.join(PATIENCE)
    assert inside.is_set()


def test_connections_that_were_given_up_come_back_after_a_calm_minute(monkeypatch):
    slots = Slots(8)
    with slots, slots as entered:
        slots.shrink(entered)
    assert slots.width == 4
    with slots:
        assert slots.width == 4
    monkeypatch.setattr(workers, "CALM", -1.0)
    for width in (8, 8):
        with slots:
            assert slots.width == width


def test_a_wave_shares_connections_up_to_the_option():
    with ScriptedServer(CONTENT, then=Stall(0.05)) as server, opened(server, connections=3) as file:
        wave(file)
        assert file.connections == 3
        assert 2 <= len(connections_of(server.requests)) <= 3


# Sessions


def test_the_sessions_pool_bounds_the_connections():
    session = SpecialSession()
    session.mount("http://", HTTPAdapter(pool_maxsize=2))
    with (
        ScriptedServer(CONTENT, then=Stall(0.05)) as server,
        opened(server, session=session) as file,
    ):
        wave(file)
        assert file.connections == 2
        # While one is opened ahead, a request may make another, of which one is discarded.
        assert 2 <= len(connections_of(server.requests)) <= 3


class StampingAdapter(HTTPAdapter):
    """An adapter with a state of its own, as those for certificates have."""

    def __init__(self, stamp):
        self.stamp = stamp
        super().__init__()

    def init_poolmanager(self, *args, **options):
        assert self.stamp
        super().init_poolmanager(*args, **options)

    def add_headers(self, request, **_):
        request.headers["X-Stamp"] = self.stamp


def test_a_session_with_an_adapter_of_its_own_is_used_and_left_open():
    session = requests.Session()
    session.mount("http://", StampingAdapter("here"))
    with ScriptedServer(CONTENT) as server:
        session.get(server.url)
        with opened(server, session=session) as file:
            wave(file)
        assert {request.headers.get("x-stamp") for request in server.requests} == {"here"}
        before = connections_of(server.requests)
        session.get(server.url)
        assert server.requests[-1].connection in before


def test_a_session_may_be_used_beside_the_file():
    with ScriptedServer(CONTENT) as server, requests.Session() as session:
        session.headers["X-Mine"] = "yes"
        with opened(server, session=session) as file:
            assert session.get(server.url).content == CONTENT
            wave(file)
        session.get(server.url)
        assert {request.headers.get("x-mine") for request in server.requests} == {"yes"}
        assert {request.headers["accept-encoding"] for request in server.requests} > {"identity"}


# Threads, forks, copies, and the end


def test_threads_share_one_file():
    def read(seed):
        chosen = random.Random(seed)
        for _ in range(30):
            ranges = [(chosen.randrange(600_000), chosen.randrange(9000)) for _ in range(3)]
            assert file.read_many(ranges) == [CONTENT[at : at + length] for at, length in ranges]

    with ScriptedServer(CONTENT) as server:
        options = {"memory_size": 100_000, "connections": 6}
        with opened(server, **options) as file, ThreadPoolExecutor(8) as pool:
            list(pool.map(read, range(8)))
        assert len(connections_of(server.requests)) <= 6


@pytest.mark.parametrize("make", [None, plain_session, SpecialSession, "adapter"])
def test_a_forked_child_reads_through_connections_of_its_own(make):
    session = make() if callable(make) else None
    if make == "adapter":
        session = requests.Session()
        session.mount("http://", StampingAdapter("here"))
    options = {} if session is None else {"session": session}
    with ScriptedServer(CONTENT) as server, opened(server, memory_size=0, **options) as file:
        wave(file)
        before = len(server.requests)
        child = os.fork()
        if not child:
            code = 1
            with contextlib.suppress(BaseException):
                wave(file)
                code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        wave(file)
        assert len(server.requests) == before + 16
        of_parent = connections_of(server.requests[:before] + server.requests[before + 8 :])
        of_child = connections_of(server.requests[before : before + 8])
        assert not of_parent & of_child
        assert file.stats.retries == 0


def test_a_child_waits_for_no_lock_of_urllib3_that_a_thread_of_its_parent_holds():
    held, leave = threading.Event(), threading.Event()
    with ScriptedServer(CONTENT) as server, opened(server, memory_size=0) as file:
        wave(file)
        pools = file._source._session.get_adapter(server.url).poolmanager.pools

        def hold():
            with pools.lock:
                held.set()
                leave.wait(PATIENCE)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(PATIENCE)
        child = os.fork()
        if not child:
            signal.alarm(PATIENCE)
            code = 1
            with contextlib.suppress(BaseException):
                wave(file)
                code = 0
            os._exit(code)
        leave.set()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        thread.join()


def test_a_file_can_be_pickled(tmp_path):
    session = requests.Session()
    session.headers["X-Key"] = "secret"
    with ScriptedServer(CONTENT) as server:
        options = {"cache_dir": tmp_path, "cache_size": 1 << 20, "session": session}
        with vfs.open(server.url, **options) as file:
            with pickle.loads(pickle.dumps(file)) as copy:
                wave(copy)
                assert (copy.url, copy.stats.requests) == (file.url, 8)
            assert file.stats.requests == 1
        assert all(tells(request) for request in server.requests)


def test_a_closed_file_does_not_hang_a_reader():
    with ScriptedServer(CONTENT) as server:
        file = opened(server, connections=1, deadline=5)
        file.close()
        with pytest.raises(vfs.ClosedError):
            file.read(AT, 4096)
        file.close()


def test_threads_of_forgotten_files_end():
    def workers():
        return sum(thread.name == "vfs-worker" for thread in threading.enumerate())

    with ScriptedServer(CONTENT) as server:
        file = opened(server)
        wave(file)
        busy = workers()
        assert busy >= 8
        del file
        gc.collect()
        wait_until(lambda: workers() <= busy - 8)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Give a key and a certificate for 127.0.0.1, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(path), "-out", str(path) + ".crt"]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    subprocess.run([*command, *files, *subject], check=True, capture_output=True)
    with path.open("a") as both:
        both.write(Path(str(path) + ".crt").read_text())
    return path


@contextlib.contextmanager
def secure_server(directory, certificate):
    """Serve a directory over TLS; give the address, and the list of those who connected."""
    accepted = []

    class Secure(RangeServer):
        def on_connect(self):
            accepted.append(threading.current_thread())

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    log = logging.getLogger("streamfile.web.range_server")
    log.setLevel(logging.CRITICAL)
    try:
        with Secure(directory) as server:
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
            yield server.url.replace("http:", "https:"), accepted
    finally:
        log.setLevel(logging.NOTSET)


def test_tls_connections_opened_ahead_are_the_ones_that_are_used(
    tmp_path, certificate, monkeypatch
):
    (tmp_path / "file").write_bytes(CONTENT)
    monkeypatch.setattr(connections, "UNUSED", PATIENCE)
    session = requests.Session()
    session.verify = str(certificate)
    with (
        secure_server(tmp_path, certificate) as (url, accepted),
        opened(url + "file", session=session, connections=8) as file,
    ):
        (pool,) = connections.pools_of(file._source._session)
        wait_until(lambda: len(pool._ahead) == 7 and all(each.done() for each in pool._ahead))
        time.sleep(0.2)  # for the session tickets behind the handshakes
        ranges = [(at, 10) for at in range(AT, AT + 8 * 32768, 32768)]
        assert file.read_many(ranges) == [CONTENT[at : at + 10] for at, _ in ranges]
        assert file.stats.requests == 9
        assert len(accepted) == 8


def test_an_unknown_certificate_is_a_typed_error_at_once(tmp_path, certificate, caplog):
    (tmp_path / "file").write_bytes(CONTENT)
    with secure_server(tmp_path, certificate) as (url, accepted):
        with pytest.raises(vfs.ConnectError, match="certificate"):
            opened(url + "file", connections=1)
        assert len(accepted) == 1
    assert "follows" not in caplog.text


def test_the_certificates_of_a_session_count_more_than_those_of_the_environment(
    tmp_path, certificate, monkeypatch
):
    (tmp_path / "file").write_bytes(CONTENT)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", requests.certs.where())
    session = requests.Session()
    session.verify = str(certificate)
    with (
        secure_server(tmp_path, certificate) as (url, _),
        opened(url + "file", session=session) as file,
    ):
        assert file.read(0, 10) == CONTENT[:10]


# Opened ahead


def test_no_connection_is_opened_before_the_first_answer():
    seen = []

    def answer(server, request):
        seen.append(sockets_to(server.url))
        return server.right_reply(request)

    with ScriptedServer(CONTENT, [answer]) as server, opened(server, connections=8):
        wait_until(lambda: sockets_to(server.url) == 8)
    assert seen == [1]


@pytest.mark.parametrize("server", [{"protocol": "HTTP/1.0"}, {"closes": True}])
def test_no_connection_is_opened_ahead_where_each_answer_ends_its_own(server):
    with NarrowServer(CONTENT, **server) as narrow, opened(narrow) as file:
        time.sleep(0.2)
        assert narrow.accepted == 1
        wave(file)
        assert (narrow.accepted, file.connections) == (9, 32)
        assert (file.stats.requests, file.stats.waves, file.stats.retries) == (9, 2, 0)


def test_connections_that_stay_unused_are_closed_soon(monkeypatch):
    monkeypatch.setattr(connections, "UNUSED", 1.0)
    with NarrowServer(CONTENT, threads=8) as server, opened(server, connections=8) as file:
        wait_until(lambda: server.accepted == 8)
        wait_until(lambda: sockets_to(server.url) == 1)
        wave(file)
        assert file.connections == 8
    assert 0.5 < UNUSED <= 2


def test_a_server_known_from_the_cache_is_connected_to_before_the_first_request(tmp_path):
    options = {"cache_dir": tmp_path, "cache_size": 1 << 20, "connections": 8}
    with ScriptedServer(CONTENT) as server:
        opened(server, **options).close()
        wait_until(lambda: not sockets_to(server.url))
        with opened(server, **options) as file:
            wait_until(lambda: sockets_to(server.url) == 8)
            assert file.stats.requests == 0
            wave(file)
        assert len(server.requests) == 9
    with NarrowServer(CONTENT, protocol="HTTP/1.0") as server:
        opened(server, **options).close()
        with opened(server, **options) as file:
            time.sleep(0.2)
            assert server.accepted == 1
            wave(file)


# Servers with few threads


@pytest.mark.parametrize("count", [1, 3])
def test_a_server_whose_threads_serve_one_connection_each_is_read_with_as_many(count, tmp_path):
    options = {"cache_dir": tmp_path, "cache_size": 1 << 20, "deadline": 20, "memory_size": 0}
    ranges = [(140_000 + 50_000 * n, 140_100 + 50_000 * n) for n in range(9)]
    expected = [CONTENT[start:end] for start, end in ranges]
    with NarrowServer(CONTENT, threads=count) as server:
        with opened(server, **options) as file:
            wave(file)
            assert (file.connections, file.stats.requests) == (count, 9)
            before = server.accepted
            for _ in range(3):
                assert file.read_past_cache(ranges) == expected
            assert (file.stats.requests, file.stats.retries) == (36, 0)
            assert server.accepted - before <= count
        with opened(server, **options) as file:  # another process knows it from the cache
            assert file.connections == count
            before = server.accepted
            assert file.read_past_cache(ranges) == expected
            assert server.accepted - before <= count


def test_waves_of_a_narrow_server_are_as_many_as_of_a_wide_one():
    with NarrowServer(CONTENT, threads=40) as wide, opened(wide) as file:
        wave(file)
        expected = (file.stats.requests, file.stats.waves, file.stats.bytes)
    with NarrowServer(CONTENT) as narrow, opened(narrow) as file:
        wave(file)
        assert (file.stats.requests, file.stats.waves, file.stats.bytes) == expected


def test_connections_opened_ahead_make_way_for_a_request_that_waits():
    """The threads of the server are all taken by connections without a request."""
    with NarrowServer(CONTENT, threads=4) as server, opened(server, deadline=20) as file:
        wait_until(lambda: server.accepted == 32)
        (pool,) = connections.pools_of(file._source._session)
        pool._ahead.reverse()  # those are used that the server does not know yet
        wave(file, 3)
        assert file.connections == 32
        assert not pool._ahead
        assert (file.stats.requests, file.stats.retries) == (4, 0)


def test_one_connection_serves_a_server_of_one_thread_without_any_wait():
    with NarrowServer(CONTENT) as server, opened(server, connections=1, deadline=20) as file:
        wave(file)
        assert (server.accepted, file.stats.requests) == (1, 9)


def test_two_files_of_a_server_of_one_thread_take_turns():
    with NarrowServer(CONTENT) as server, opened(server, connections=1) as first:
        first.close()
        with opened(server, deadline=20) as second:
            wave(second)


def test_a_late_answer_of_a_wide_server_changes_nothing():
    """Answers of connections that have answered before may be late."""
    script = [Ok(), *[Stall(0.2)] * 8, *[Stall(1.0)] * 3]
    with ScriptedServer(CONTENT, script) as server, opened(server, connections=8) as file:
        wave(file)
        before = connections_of(server.requests)
        assert len(before) == 8
        file.read_past_cache([(AT + 9000 * n, AT + 9000 * n + 5) for n in range(3)])
        file.read_past_cache([(AT + 9000 * n, AT + 9000 * n + 5) for n in range(8)])
        assert file.connections == 8
        assert connections_of(server.requests) == before
        assert file.stats.retries == 0


# Proxies


def test_a_dead_proxy_is_named_without_its_password(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        dead = f"127.0.0.1:{free.getsockname()[1]}"
    for variable in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HTTP_PROXY", f"http://user:secret@{dead}")
    words = f"Connection refused.*proxy {dead}, which the environment variable HTTP_PROXY names"
    with pytest.raises(vfs.ConnectError, match=words) as caught:
        opened("http://example.test/file", retries=0)
    assert "secret" not in str(caught.value)
    monkeypatch.delenv("HTTP_PROXY")
    session = requests.Session()
    session.proxies["https"] = f"http://user:secret@{dead}"
    with pytest.raises(vfs.ConnectError, match=f"proxy {dead}, which the option session") as caught:
        opened("https://example.test/file", retries=0, session=session)
    assert "secret" not in str(caught.value)
