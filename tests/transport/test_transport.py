"""What the transport believes, refuses, tries again and tells, against servers that misbehave."""

import contextlib
import gc
import json
import logging
import os
import pickle
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from nginx import find_nginx, nginx_server
from requests.adapters import HTTPAdapter
from scripted_server import (
    Changed,
    Disconnect,
    Headers,
    Ok,
    Redirect,
    Reply,
    ScriptedServer,
    ShortBody,
    Stall,
    Status,
    Whole,
    WrongRange,
)

import vfs
from streamfile.web.range_server import RangeServer
from vfs import workers
from vfs.options import Options
from vfs.transport.http import HttpSource
from vfs.workers import Slots

CONTENT = random.Random(1).randbytes(600_000)
AT = 74 * 4096  # beyond what opening reads
BLOCK = CONTENT[AT : AT + 4096]


def opened(server, **options):
    url = server if isinstance(server, str) else server.url
    return vfs.open(url, **({"cache_size": 0} | options))


@contextlib.contextmanager
def redirected(*script, content=b"", to, **options):
    """Give a server, and a file there that another one has, after the script at least."""
    server = ScriptedServer(content, script, then=Redirect(to.url))
    with server as origin, opened(origin, **options) as file:
        yield origin, file


@contextlib.contextmanager
def reading(*script, content=CONTENT, etag='"v1"', then=None, **options):
    """Give a server and a file opened at it."""
    scripted = ScriptedServer(content, script, etag=etag, then=then)
    with scripted as server, opened(server, **options) as file:
        yield server, file


def wave(file, count=8):
    """Read blocks too far apart to be joined."""
    offsets = [140_000 + 50_000 * n for n in range(count)]
    assert file.read_many([(at, 100) for at in offsets]) == [
        CONTENT[at : at + 100] for at in offsets
    ]


def connections_of(requests):
    return {request.connection for request in requests}


@contextlib.contextmanager
def takes(least=0.0, most=float("inf")):
    began = time.monotonic()
    yield
    assert least <= time.monotonic() - began <= most


# Answers that are not believed


def test_a_whole_file_is_refused_at_its_headers():
    error = pytest.raises(vfs.RangeError, match=r"200.*67108864.*streamfile serve")
    with ScriptedServer(bytes(64 << 20), then=Whole()) as server, error:
        opened(server)
    assert len(server.requests) == 1
    assert server.requests[0].body_bytes_sent < 16 << 20  # what socket buffers hold


@pytest.mark.parametrize(
    "answer",
    [
        WrongRange(1),
        WrongRange(-4096),
        Headers(Content_Range=f"bytes {AT + 1}-{AT + 4095}/600000", Content_Length="4095"),
        Headers(Content_Range=f"bytes {AT}-{AT + 4094}/600000", Content_Length="4095"),
        Headers(Content_Range=f"bytes {AT}-{AT + 4096}/600000", Content_Length="4097"),
        Headers(Content_Range=f"bytes {AT}-{AT + 4095}/*"),
        Headers(Content_Range=f"items {AT}-{AT + 4095}/600000"),
        Headers(Content_Range=f"bytes {AT}-{AT + 4095}/{'9' * 5000}"),
        Headers(Content_Range="bytes */600000"),
        Headers(Content_Range=None),
        Headers(Content_Range=None, Content_Type="multipart/byteranges; boundary=x"),
        Headers(Content_Length="4095"),
        Headers(Content_Length="600000"),
        Headers(Content_Encoding="gzip"),
    ],
)
def test_another_part_than_the_one_asked_for_is_refused_at_once(answer):
    with reading(Ok(), answer) as (server, file):
        with pytest.raises(vfs.ResponseError, match=r"127\.0\.0\.1"):
            file.read(AT, 4096)
        assert len(server.requests) == 2
        assert file.read(AT, 4096) == BLOCK  # nothing of the refused answer was kept


@pytest.mark.parametrize(
    "answer",
    [Headers(Content_Range="bytes 0-131071/10"), WrongRange(1), Headers(Content_Range=None)],
)
def test_another_part_is_refused_when_opening(answer):
    with ScriptedServer(CONTENT, [answer]) as server, pytest.raises(vfs.ResponseError):
        opened(server)


def test_another_total_size_is_a_changed_file():
    other = Headers(Content_Range=f"bytes {AT}-{AT + 4095}/600001")
    error = pytest.raises(vfs.FileChangedError, match=r"600,000 bytes.*600,001 bytes")
    with reading(Ok(), other) as (_, file), error:
        file.read(AT, 4096)


def without_length(extra, cut=None):
    """Give a body that ends with the connection, longer by some bytes or cut."""

    def answer(server, request):
        reply = Headers()(server, request)
        reply.body = (reply.body + bytes(extra))[:cut]
        del reply.headers["content-length"]
        return reply

    return answer


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (ShortBody(1000), vfs.ConnectError, "no answer"),
        (ShortBody(0), vfs.ConnectError, "no answer"),
        (Disconnect(), vfs.ConnectError, "no answer"),
        (without_length(1), vfs.ResponseError, "4,096 bytes.* more came"),
        (without_length(0, cut=4095), vfs.ResponseError, "only 4,095 came"),
        (Status(500), vfs.StatusError, "got status 500"),
        (Status(429), vfs.StatusError, "got status 429"),
        (Status(503, {"Retry-After": "soon"}), vfs.StatusError, "got status 503"),
        (Status(503, {"Retry-After": "\u00b2"}), vfs.StatusError, "got status 503"),
        (Status(503, {"Retry-After": "0"}), vfs.StatusError, "got status 503"),
    ],
)
def test_a_failure_that_may_pass_is_tried_again_as_often_as_allowed(answer, error, words):
    script = [Ok(), answer, Ok(), answer, answer]
    with reading(*script, retries=1) as (server, file):
        assert file.read(AT, 4096) == BLOCK
        assert (file.stats.retries, len(server.requests)) == (1, 3)
        with pytest.raises(error, match=words):
            file.read(AT + 50_000, 100)
        assert len(server.requests) == 5
        wave(file)


def test_a_body_that_ends_with_the_connection_is_as_good():
    with reading(then=Headers(Content_Length=None)) as (_, file):
        wave(file)
        assert file.stats.retries == 0


def test_a_body_without_an_end_is_not_swallowed():
    error = pytest.raises(vfs.ResponseError, match="more came")
    with reading(Ok(), without_length(64 << 20), retries=0) as (server, file):
        with error:
            file.read(AT, 4096)
        assert file.stats.bytes <= 3 << 20
    assert server.requests[1].body_bytes_sent < 16 << 20


def test_an_answer_that_stays_out_is_asked_for_again():
    with ScriptedServer(CONTENT, [Ok(), Stall(3)]) as server:
        with opened(server, timeout=0.3) as file, takes(0.3, 2):
            assert file.read(AT, 4096) == BLOCK
        assert file.stats.retries == 1


@pytest.mark.parametrize("wait", ["1", lambda: formatdate(time.time() + 2, usegmt=True)])
def test_retry_after_is_honoured(wait):
    wait = wait() if callable(wait) else wait
    script = [Ok(), Status(503, {"Retry-After": wait})]
    with ScriptedServer(CONTENT, script) as server, opened(server) as file, takes(0.9, 4):
        assert file.read(AT, 4096) == BLOCK


def test_retry_after_beyond_the_deadline_is_not_waited_for():
    error = pytest.raises(vfs.DeadlineError, match="120 s")
    then = Status(503, {"Retry-After": "3600"})
    with ScriptedServer(CONTENT, then=then) as server, takes(most=2), error as caught:
        opened(server)
    assert caught.value.__cause__.status == 503


def test_the_deadline_ends_a_call_whatever_the_server_does():
    error = pytest.raises(vfs.DeadlineError, match=r"0\.5 s")
    with reading(Ok(), then=Stall(20), deadline=0.5) as (_, file), takes(0.5, 1.5), error:
        file.read(AT, 4096)


def test_a_request_given_up_at_the_deadline_is_not_in_the_way_of_the_next():
    with reading(Ok(), Stall(20), deadline=0.5, connections=1) as (_, file):
        with pytest.raises(vfs.DeadlineError):
            file.read(AT, 4096)
        assert file.read(AT, 4096) == BLOCK


class DrippingServer(ScriptedServer):
    """Sends all bodies but the first byte by byte, twenty a second."""

    def _send(self, connection, request, reply):
        if request is self.requests[0]:
            return super()._send(connection, request, reply)
        self.broken_off = threading.Event()
        try:
            super()._send(connection, request, replace(reply, cut=0))
            for byte in reply.body:
                if self._closing.wait(0.05):
                    break
                connection.send(bytes([byte]))
        except OSError:
            self.broken_off.set()
        return False


def test_the_deadline_ends_a_body_that_drips_and_lets_go_of_its_connection():
    with DrippingServer(CONTENT) as server, opened(server, deadline=0.5) as file:
        with takes(0.5, 1.5), pytest.raises(vfs.DeadlineError):
            file.read(AT, 4096)
        assert server.broken_off.wait(2)


def test_a_wave_that_failed_is_not_tried_on_behind_the_callers_back():
    script = [Ok(), Status(503, {"Retry-After": "1"}), Status(404)]
    with ScriptedServer(CONTENT, script) as server, opened(server) as file:
        with pytest.raises(vfs.NotFoundError):
            file.read_many([(AT, 100), (AT + 100_000, 100)])
        time.sleep(1.3)
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, vfs.NotFoundError),
        (410, vfs.NotFoundError),
        (401, vfs.AccessError),
        (403, vfs.AccessError),
        (407, vfs.AccessError),
        (400, vfs.StatusError),
        (412, vfs.StatusError),
        (416, vfs.StatusError),
        (418, vfs.StatusError),
        (302, vfs.StatusError),
    ],
)
def test_a_status_that_is_no_answer_is_told_at_once(status, error):
    refused = pytest.raises(error, match=str(status))
    with ScriptedServer(CONTENT, then=Status(status)) as server, refused as caught:
        opened(server)
    assert type(caught.value) is error
    assert caught.value.status == status
    assert len(server.requests) == 1
    assert server.url in str(caught.value)


def test_messages_keep_secrets_of_the_url_to_themselves():
    with ScriptedServer(CONTENT, then=Status(404)) as server:
        url = server.url.replace("://", "://user:hidden@") + "?signature=hidden"
        with pytest.raises(vfs.NotFoundError) as caught:
            opened(url)
    assert "hidden" not in str(caught.value)


def test_the_errors_survive_a_trip_to_another_process():
    for name in vfs.errors.__all__:
        kind = getattr(vfs, name)
        error = kind("words", 404) if issubclass(kind, vfs.StatusError) else kind("words")
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (kind, "words")
        assert getattr(copy, "status", None) == getattr(error, "status", None)
        assert isinstance(copy, vfs.VFSError)


# Versions


def test_a_change_of_the_file_is_told_again_and_again():
    with ScriptedServer(CONTENT, [Ok(), Changed(CONTENT[::-1], '"v2"')]) as server:
        with opened(server) as file:
            for _ in range(3):
                with pytest.raises(vfs.FileChangedError, match=r'"v1".*"v2".*again'):
                    file.read(AT, 4096)
            assert file.read(0, 100) == CONTENT[:100]  # of the version that was opened
        assert [request.headers.get("if-match") for request in server.requests] == [
            None,
            *['"v1"'] * 3,
        ]


@pytest.mark.parametrize(
    "answer", [Headers(ETag='"v2"'), Headers(ETag=None), Status(412), Status(416)]
)
def test_an_answer_of_another_version_is_a_changed_file(answer):
    error = pytest.raises(vfs.FileChangedError, match='"v1"')
    with reading(Ok(), answer) as (_, file), error:
        file.read(AT, 4096)


def test_a_new_date_under_the_same_etag_is_no_change():
    with reading(Ok(), Headers(Last_Modified=formatdate(1))) as (_, file):
        assert file.read(AT, 4096) == BLOCK


@pytest.mark.parametrize("etag", ['W/"v1"', None, "v1"])
def test_without_a_strong_etag_the_date_is_the_validator(etag):
    script = [Ok(), Ok(), Headers(Last_Modified=formatdate(1))]
    with reading(*script, etag=etag) as (server, file):
        modified = file.identity.last_modified
        assert file.identity.etag is None
        assert modified == formatdate(server.modified, usegmt=True)
        assert file.read(AT, 4096) == BLOCK
        with pytest.raises(vfs.FileChangedError, match="1970"):
            file.read(AT + 50_000, 100)
    for request in server.requests[1:]:
        assert "if-match" not in request.headers
        assert request.headers["if-unmodified-since"] == modified


def test_without_any_validator_one_warning_and_nothing_on_disk(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "vfs")
    then = Headers(ETag=None, Last_Modified=None)
    with reading(then=then, cache_dir=tmp_path, cache_size=1 << 20) as (server, file):
        wave(file)
        sent = len(server.requests)
        wave(file)  # memory keeps it
        assert len(server.requests) == sent
        file.remember("name", b"record")
        assert file.recall("name") is None
    assert [record.message for record in caplog.records if "ETag" in record.message] == [
        f"{server.url}: the server sends neither a strong ETag nor Last-Modified; a change of the "
        "file is noticed by its size alone, and nothing is kept on disk"
    ]
    kept = {entry.name: entry.read_bytes().strip(b"\0") for entry in tmp_path.iterdir()}
    assert kept == {"blocks.v1": b"", "blocks.lock": b""}


# Redirects


def test_a_redirect_is_followed_and_remembered():
    with ScriptedServer(CONTENT) as target, redirected(to=target) as (origin, file):
        wave(file)
        assert len(origin.requests) == 1
        assert len(target.requests) == 1 + 8


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_relative_redirect_is_followed(status):
    with ScriptedServer(CONTENT, [Redirect("other?a=1", status)]) as server:
        with opened(server) as file:
            assert file.read(AT, 4096) == BLOCK
        assert [request.path for request in server.requests] == [
            "/file.magnitude",
            "/other?a=1",
            "/other?a=1",
        ]


def test_redirects_in_a_circle_end():
    with ScriptedServer(CONTENT, then=Redirect("/file.magnitude")) as server:
        with pytest.raises(vfs.RedirectError, match="loop"):
            opened(server)
        assert len(server.requests) == 10


@pytest.mark.parametrize(
    "location",
    ["ftp://127.0.0.1/f", "file:///etc/passwd", "http://[::1/", "http://127.0.0.1:99999/"],
)
def test_a_redirect_to_what_is_no_web_address_is_refused(location):
    error = pytest.raises(vfs.RedirectError, match="redirects to")
    with ScriptedServer(CONTENT, then=Redirect(location)) as server, error:
        opened(server)


def test_the_body_of_a_redirect_is_not_swallowed():
    def redirect(server, request):
        return Reply(302, {"Location": "/other"}, bytes(64 << 20))

    with ScriptedServer(CONTENT, [redirect]) as server:
        opened(server).close()
    assert server.requests[0].body_bytes_sent < 16 << 20


@pytest.mark.parametrize("url", ["https://secure.test/file", "HTTPS://secure.test/file"])
def test_a_redirect_never_leaves_https(url):
    transport = HttpSource(url, Options())
    with pytest.raises(vfs.RedirectError, match="leaves https for http"):
        transport._redirected(url, "http://secure.test/file")
    with pytest.raises(vfs.RedirectError):
        transport._redirected(url, "HTTP://secure.test/file")
    assert transport._redirected(url, "/other").lower() == "https://secure.test/other"
    assert transport._redirected("http://a/b", url).lower() == url.lower()


@pytest.mark.parametrize("expired", [401, 403, 404, 410])
def test_an_expired_target_is_looked_up_again_from_the_original_url(expired):
    script = [Ok(), Status(expired)]
    with ScriptedServer(CONTENT, script) as target, redirected(to=target) as (origin, file):
        assert file.read(AT, 4096) == BLOCK
        assert (len(origin.requests), len(target.requests)) == (2, 3)
        assert file.stats.retries == 0


def test_a_target_that_stays_expired_is_looked_up_only_once():
    with ScriptedServer(CONTENT, [Ok()], then=Status(403)) as target:
        with redirected(to=target) as (origin, file):
            with pytest.raises(vfs.AccessError):
                file.read(AT, 4096)
            assert (len(origin.requests), len(target.requests)) == (2, 3)
        with ScriptedServer(b"", then=Redirect(target.url)) as origin:
            with pytest.raises(vfs.AccessError):
                opened(origin)
            assert len(origin.requests) == 1


def plain_session():
    return requests.Session()


class SpecialSession(requests.Session):
    """Is used as it is."""


class OtherClient:
    """Knows no more of `requests` than its method get."""

    def __init__(self):
        self.headers = {"X-Key": "secret", "User-Agent": "other"}

    def get(self, url, *, headers, **options):
        merged = {name: text for name, text in (self.headers | headers).items() if text is not None}
        return requests.get(url, headers=merged, **options)


def by_headers(session):
    session.headers["X-Key"] = "secret"


def by_authentication(session):
    session.auth = ("user", "secret")


def by_cookie(session):
    session.cookies.set("key", "secret")


def by_parameters(session):
    session.params = {"key": "secret"}


def ways_of_authentication():
    for make in (plain_session, SpecialSession):
        for give in (by_headers, by_authentication, by_cookie, by_parameters):
            session = make()
            give(session)
            yield pytest.param({"session": session}, id=f"{make.__name__}-{give.__name__}")
    yield pytest.param({"session": OtherClient()}, id="other client")
    yield pytest.param({"headers": {"Authorization": "Bearer secret"}}, id="option headers")


def tells(request):
    """Say whether a request holds the secret."""
    text = request.path + json.dumps(request.headers)
    return "secret" in text or "dXNlcjpzZWNyZXQ=" in text  # user:secret


@pytest.mark.parametrize("options", list(ways_of_authentication()))
def test_credentials_reach_the_own_origin_and_no_other(options):
    with ScriptedServer(CONTENT) as target:
        with redirected(Ok(), content=CONTENT, to=target, **options) as (origin, file):
            wave(file, 2)
            wave(file, 6)
        assert all(tells(request) for request in origin.requests)
        assert target.requests
        assert not any(tells(request) for request in target.requests)
        assert {request.headers["accept-encoding"] for request in target.requests} == {"identity"}


def test_a_password_in_the_url_stays_with_its_host():
    with (
        ScriptedServer(CONTENT) as target,
        ScriptedServer(b"", then=Redirect(target.url)) as origin,
    ):
        with opened(origin.url.replace("://", "://user:secret@")) as file:
            wave(file)
        assert all(tells(request) for request in origin.requests)
        assert not any(tells(request) for request in target.requests)


def test_a_password_file_is_for_the_own_host_alone(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with ScriptedServer(CONTENT) as target, redirected(to=target) as (origin, file):
        wave(file)
        assert all(tells(request) for request in origin.requests)
        assert not any(tells(request) for request in target.requests)


# Addresses and options


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


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file",
        "/a/file",
        "file:///a/file",
        "ftp://host/file",
        "http://",
        "http:///file",
        "http://host:port/file",
        "http://host:99999/file",
        "http://[::1/file",
    ],
)
def test_what_is_no_web_address_is_refused(url):
    with pytest.raises(vfs.OptionError, match="no URL"):
        opened(url)


def test_an_unknown_option_is_refused_with_the_known_ones():
    with pytest.raises(vfs.OptionError, match=r"'cachedir'.*cache_dir.*connections.*max_bytes"):
        vfs.open("http://127.0.0.1/", cachedir="x")


@pytest.mark.parametrize(
    "option",
    [
        {"connections": 0},
        {"connections": 2.5},
        {"connections": "8"},
        {"connections": None},
        {"retries": -1},
        {"retries": True},
        {"timeout": -1},
        {"timeout": None},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"deadline": "1"},
        {"deadline": float("inf")},
        {"deadline": 1e300},
        {"cache_size": -1},
        {"memory_size": -1},
        {"memory_size": None},
        {"max_requests": -1},
        {"max_bytes": 1.5},
        {"headers": "Authorization: x"},
        {"headers": [("Authorization", "x")]},
        {"cache_key": 5},
        {"session": "cookie"},
    ],
)
def test_an_impossible_value_is_refused(option):
    (name,) = option
    with pytest.raises(vfs.OptionError, match=f"option {name}=.*expected"):
        vfs.open("http://127.0.0.1/", **option)


# Budgets


def test_a_budget_of_requests_refuses_a_wave_before_it_is_sent():
    with ScriptedServer(CONTENT) as server, opened(server, max_requests=3) as file:
        wave(file, 2)
        with pytest.raises(vfs.BudgetError, match=r"max_requests=3.*3 requests used.*1 more"):
            file.read(AT, 4096)
        assert len(server.requests) == file.stats.requests == 3
        file.budget.max_requests = None
        assert file.read(AT, 4096) == BLOCK


def test_a_budget_of_bytes_refuses_a_wave_before_it_is_sent():
    with ScriptedServer(CONTENT) as server, opened(server, max_bytes=(128 << 10) + 4096) as file:
        with pytest.raises(vfs.BudgetError, match=r"max_bytes=135,168.*8,192 more"):
            file.read(AT, 4097)
        assert len(server.requests) == 1
        assert file.read(AT, 4096) == BLOCK
        assert file.stats.bytes == (128 << 10) + 4096
        file.budget.max_bytes += 4096
        assert file.read(AT, 8192) == CONTENT[AT : AT + 8192]


def test_opening_may_pass_a_budget_too():
    with ScriptedServer(CONTENT) as server, pytest.raises(vfs.BudgetError):
        opened(server, max_requests=0)
    assert not server.requests


def test_another_attempt_counts_against_the_budget():
    with ScriptedServer(CONTENT, [Ok(), Disconnect()]) as server:
        with opened(server, max_requests=2) as file, pytest.raises(vfs.BudgetError):
            file.read(AT, 4096)
        assert len(server.requests) == 2


def test_threads_cannot_pass_a_budget_together():
    with ScriptedServer(CONTENT) as server, opened(server, max_requests=4) as file:

        def read(number):
            try:
                file.read(140_000 + 50_000 * number, 1)
            except vfs.BudgetError:
                return 1
            return 0

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(read, range(8))) == 5
        assert len(server.requests) == 4


# Connections


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
    thread.join(5)
    assert inside.is_set()


def test_every_request_asks_for_one_range_as_it_is():
    with ScriptedServer(CONTENT) as server:
        with opened(server, headers={"accept-encoding": "gzip", "range": "bytes=0-"}) as file:
            wave(file)
        assert len(server.requests) == 9
        for request in server.requests:
            assert request.method == "GET"
            assert request.headers["accept-encoding"] == "identity"
            first, last = request.range  # None where there are several
            assert last - first + 1 in (128 << 10, 4096)


def test_a_wave_shares_connections_up_to_the_option():
    with ScriptedServer(CONTENT, then=Stall(0.05)) as server, opened(server, connections=3) as file:
        wave(file)
        assert file.connections == 3
        assert 2 <= len(connections_of(server.requests)) <= 3


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


INTERRUPTED = """
import sys, vfs
file = vfs.open(sys.argv[1], cache_size=0, connections=8)
print("opened", flush=True)
try:
    file.read_many([(140_000 + 50_000 * n, 100) for n in range(8)])
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(file.read(140_000, 4).hex(), flush=True)
"""


def test_an_interrupt_ends_a_slow_wave_and_the_file_stays_usable():
    with ScriptedServer(CONTENT, [Ok(), *[Stall(30)] * 4]) as server:
        command = [sys.executable, "-c", INTERRUPTED, server.url]
        root = str(Path(vfs.__file__).parents[1])
        environment = os.environ | {"PYTHONPATH": root}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
            try:
                assert child.stdout.readline() == "opened\n"
                limit = time.monotonic() + 10
                while len(server.requests) < 9 and time.monotonic() < limit:
                    time.sleep(0.01)
                time.sleep(0.1)
                with takes(most=1):
                    child.send_signal(signal.SIGINT)
                    assert child.stdout.readline() == "interrupted\n"
                with takes(most=1):
                    assert child.stdout.readline() == CONTENT[140_000:140_004].hex() + "\n"
                with takes(most=2):
                    assert child.wait(10) == 0
            finally:
                child.kill()


def test_a_closed_file_does_not_hang_a_reader():
    with ScriptedServer(CONTENT) as server:
        file = opened(server, connections=1, deadline=5)
        file.close()
        assert file.read(AT, 4096) == BLOCK
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
        limit = time.monotonic() + 5
        while workers() > busy - 8 and time.monotonic() < limit:
            time.sleep(0.01)
        assert workers() <= busy - 8


def test_a_file_is_named_without_its_secrets():
    with ScriptedServer(CONTENT) as server:
        host = urlsplit(server.url).netloc
        with opened(f"http://user:hidden@{host}/f?key=hidden#hidden") as file:
            assert file.name == f"http://{host}/f?…"
            assert "hidden" not in repr(file)


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
    """Serve a directory over TLS; give the address, and the list of its connections."""
    connections = []

    class Secure(RangeServer):
        def on_connect(self):
            connections.append(time.monotonic())

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    logging.getLogger("streamfile.web.range_server").setLevel(logging.CRITICAL)
    with Secure(directory) as server:
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        yield server.url.replace("http:", "https:"), connections


def test_tls_connections_opened_ahead_are_the_ones_that_are_used(tmp_path, certificate):
    (tmp_path / "file").write_bytes(CONTENT)
    session = requests.Session()
    session.verify = str(certificate)
    with (
        secure_server(tmp_path, certificate) as (url, connections),
        opened(url + "file", session=session, connections=8) as file,
    ):
        limit = time.monotonic() + 5
        while len(connections) < 8 and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(0.2)  # for the session tickets behind the handshakes
        ranges = [(at, 10) for at in range(AT, AT + 8 * 32768, 32768)]
        assert file.read_many(ranges) == [CONTENT[at : at + 10] for at, _ in ranges]
        assert file.stats.requests == 9
        assert len(connections) == 8


def test_an_unknown_certificate_is_a_typed_error_at_once(tmp_path, certificate):
    (tmp_path / "file").write_bytes(CONTENT)
    with secure_server(tmp_path, certificate) as (url, _):
        began = time.monotonic()
        with pytest.raises(vfs.ConnectError, match="certificate"):
            opened(url + "file")
        assert time.monotonic() - began < 2


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
