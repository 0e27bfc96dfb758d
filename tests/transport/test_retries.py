"""What is tried again, how often, and how long a call takes at most."""

import contextlib
import signal
import threading
import time
from dataclasses import replace
from email.utils import formatdate

import pytest
from children import child
from nginx import find_nginx, nginx_server
from remote_content import AT, BLOCK, CONTENT, opened, reading, wave, without_length
from scripted_server import Disconnect, Ok, ScriptedServer, ShortBody, Stall, Status
from waiting import PATIENCE, wait_until

import vfs

NEVER = 3600  # seconds until the servers here answer, which no test lives to see
SOON = 60  # seconds, for what takes less than one where nothing else runs
NOW = 1_700_000_000
CLOUDFLARE = (520, 521, 522, 523, 524)


@contextlib.contextmanager
def takes(least=0.0, most=float("inf")):
    began = time.monotonic()
    yield
    assert least <= time.monotonic() - began <= most


def hurry(file, deadline):
    """Set a deadline that opening the file need not keep."""
    file._options = replace(file._options, deadline=deadline)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (ShortBody(1000), vfs.ConnectError, "no answer"),
        (ShortBody(0), vfs.ConnectError, "no answer"),
        (Disconnect(), vfs.ConnectError, "no answer"),
        (without_length(1), vfs.ResponseError, "4,096 bytes.* more came"),
        (without_length(0, cut=4095), vfs.ResponseError, "only 4,095 came"),
        (Status(500), vfs.StatusError, "got status 500"),
        (Status(500, {"Retry-After": "soon"}), vfs.StatusError, "got status 500"),
        (Status(502, {"Retry-After": "\u00b2"}), vfs.StatusError, "got status 502"),
        (Status(504, {"Retry-After": "0"}), vfs.StatusError, "got status 504"),
        *((Status(status), vfs.StatusError, f"got status {status}") for status in CLOUDFLARE),
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


def test_an_answer_that_stays_out_is_asked_for_again():
    with reading(Ok(), Stall(NEVER), timeout=1) as (server, file):
        with takes(least=1):
            assert file.read(AT, 4096) == BLOCK
        assert file.stats.retries == len(server.requests) - 2 >= 1


@pytest.mark.parametrize("wait", ["1", formatdate(NOW + 1, usegmt=True)])
def test_retry_after_is_honoured(wait, monkeypatch, caplog):
    monkeypatch.setattr(time, "time", lambda: NOW)
    with reading(Ok(), Status(503, {"Retry-After": wait})) as (_, file), takes(least=1):
        assert file.read(AT, 4096) == BLOCK
    assert "attempt 2 follows in 1.0 s" in caplog.text


def test_a_wave_that_failed_is_not_tried_on_behind_the_callers_back():
    script = [Ok(), Status(503, {"Retry-After": "1"}), Status(404)]
    with ScriptedServer(CONTENT, script) as server, opened(server) as file:
        with pytest.raises(vfs.NotFoundError):
            file.read_many([(AT, 100), (AT + 100_000, 100)])
        time.sleep(1.3)
        assert len(server.requests) == 3


# Failures that requests share


def throttling(rate, burst, status=429, headers=None):
    """Answer so many requests at once, and so many more a second; refuse the others."""
    tokens, filled = [float(burst)], [time.monotonic()]

    def answer(server, request):
        now = time.monotonic()
        tokens[0] = min(burst, tokens[0] + rate * (now - filled[0]))
        filled[0] = now
        if tokens[0] < 1:
            return Status(status, headers)(server, request)
        tokens[0] -= 1
        return server.right_reply(request)

    return answer


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("headers", [{}, {"Retry-After": "0"}, {"Retry-After": "soon"}])
def test_a_server_that_limits_the_rate_is_asked_until_it_answers(status, headers):
    refused = [Status(status, headers)] * 5
    with reading(Ok(), *refused, retries=1) as (server, file):
        assert file.read(AT, 4096) == BLOCK
        assert (file.stats.retries, len(server.requests)) == (5, 7)


def test_no_retries_means_none_even_of_a_server_that_limits_the_rate():
    with reading(Ok(), Status(429), retries=0) as (server, file):
        with pytest.raises(vfs.StatusError, match="429"):
            file.read(AT, 4096)
        assert len(server.requests) == 2


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "0"}])
def test_requests_of_a_wave_share_the_pauses_for_a_server_that_limits_the_rate(headers):
    count = 29
    with reading(then=throttling(20, 4, headers=headers)) as (_, file):
        ranges = [(140_000 + 15_000 * n, 50) for n in range(count)]
        assert file.read_past_cache([(at, at + n) for at, n in ranges]) == [
            CONTENT[at : at + n] for at, n in ranges
        ]
        # What is on its way is refused, though not twice; then few are.
        assert 1 <= file.stats.retries <= count + 20
        assert file.connections < 32
        file.read_past_cache([(at, at + n) for at, n in ranges])
        assert file.stats.retries <= count + 20 + count // 2


def test_a_refusal_makes_requests_of_other_calls_wait_too():
    with reading(Ok(), Status(503, {"Retry-After": "1"})) as (server, file):
        thread = threading.Thread(target=file.read, args=(AT, 4096))
        thread.start()
        wait_until(lambda: file.stats.retries)
        with takes(least=0.5):
            assert file.read(AT + 50_000, 10) == CONTENT[AT + 50_000 : AT + 50_010]
        thread.join()
        assert len(server.requests) == 4


@pytest.mark.parametrize("answer", [Status(500), Disconnect(), ShortBody(5)])
def test_failures_count_only_in_a_row(answer):
    script = [Ok(), *[answer, Ok()] * 12]
    with reading(*script, retries=1, connections=1) as (server, file):
        ranges = [(AT + 20_000 * n, AT + 20_000 * n + 9) for n in range(12)]
        assert file.read_past_cache(ranges) == [CONTENT[a:b] for a, b in ranges]
        assert (file.stats.retries, len(server.requests)) == (12, 25)


def test_a_failure_of_all_requests_of_a_wave_counts_once():
    all_there = threading.Event()

    def down(server, request):
        if len(server.requests) == 9:
            all_there.set()
        return replace(Status(500)(server, request), until=all_there)

    with reading(Ok(), *[down] * 8, retries=1) as (server, file):
        wave(file)
        assert (file.stats.retries, len(server.requests)) == (8, 17)


def test_a_range_that_fails_for_ever_is_given_up_while_others_succeed():
    def answer(server, request):
        bad = request.range[0] == AT // 4096 * 4096
        return (Status(500) if bad else Ok())(server, request)

    with reading(then=answer, retries=1) as (server, file):
        stop = threading.Event()

        def keep_on():
            while not stop.is_set():
                file.read_past_cache([(0, 10)])

        other = threading.Thread(target=keep_on)
        other.start()
        try:
            with pytest.raises(vfs.StatusError, match="500"):
                file.read(AT, 10)
        finally:
            stop.set()
            other.join()
        assert sum(request.range[0] == AT // 4096 * 4096 for request in server.requests) <= 4


def test_after_a_success_all_is_as_before():
    with reading(Ok(), *[Status(500)] * 3) as (_, file):
        assert file.read(AT, 4096) == BLOCK
        assert file.stats.retries == 3
        pauses = file._source._pauses
        assert (pauses._errors, pauses._failures) == (0, 0)
        wave(file)
        assert file.stats.retries == 3


@pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed")
@pytest.mark.parametrize("status", [429, 503])
def test_nginx_that_limits_the_rate_is_read_to_the_end(tmp_path, status):
    content = CONTENT * 4
    (tmp_path / "file").write_bytes(content)
    extra = f"location / {{ limit_req zone=rate burst=3 nodelay; limit_req_status {status}; }}"
    ranges = [(140_000 + 70_000 * n, 140_050 + 70_000 * n) for n in range(29)]
    with nginx_server(tmp_path, extra=extra) as url, opened(f"{url}/file") as file:
        assert file.read_past_cache(ranges) == [content[a:b] for a, b in ranges]
        statuses = [request["status"] for request in url.requests()]
        assert statuses.count(206) == 30
        assert statuses.count(status) == file.stats.retries <= 50


# Deadlines


def test_retry_after_beyond_the_deadline_is_not_waited_for():
    error = pytest.raises(vfs.DeadlineError, match=r"120 s.*503, Retry-After 3,600 s")
    then = Status(503, {"Retry-After": "3600"})
    with ScriptedServer(CONTENT, then=then) as server, error as caught:
        opened(server)
    assert caught.value.__cause__.status == 503  # none where the deadline itself ends a call
    assert len(server.requests) == 1


def test_a_call_after_a_pause_that_was_too_long_asks_again():
    with reading(Ok(), Status(429, {"Retry-After": "3600"}), deadline=5) as (server, file):
        with pytest.raises(vfs.DeadlineError, match="Retry-After 3,600 s"):
            file.read(AT, 4096)
        assert file.read(AT, 4096) == BLOCK
        assert len(server.requests) == 3


def test_the_deadline_ends_a_call_whatever_the_server_does():
    error = pytest.raises(vfs.DeadlineError, match=r"0\.5 s")
    with reading(Ok(), then=Stall(NEVER), timeout=NEVER) as (_, file):
        hurry(file, 0.5)
        with takes(0.5, SOON), error:
            file.read(AT, 4096)


def test_a_request_given_up_at_the_deadline_is_not_in_the_way_of_the_next():
    with reading(Ok(), Stall(NEVER), timeout=NEVER, connections=1) as (_, file):
        hurry(file, 0.5)
        with pytest.raises(vfs.DeadlineError):
            file.read(AT, 4096)
        hurry(file, NEVER)
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
    with DrippingServer(CONTENT) as server, opened(server) as file:
        hurry(file, 0.5)
        with takes(0.5, SOON), pytest.raises(vfs.DeadlineError):
            file.read(AT, 100_000)
        assert server.broken_off.wait(PATIENCE)


# Interrupts


INTERRUPTED = """
import sys, vfs
file = vfs.open(sys.argv[1], cache_size=0, connections=8, timeout=3600, deadline=3600)
print("opened", flush=True)
try:
    file.read_many([(140_000 + 50_000 * n, 100) for n in range(8)])
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(file.read(140_000, 4).hex(), flush=True)
"""


def test_an_interrupt_ends_a_slow_wave_and_the_file_stays_usable():
    server = ScriptedServer(CONTENT, [Ok(), *[Stall(NEVER)] * 4])
    with server, child(INTERRUPTED, server.url, stderr=None) as reader:
        try:
            assert reader.stdout.readline() == "opened\n"
            wait_until(lambda: len(server.requests) == 9)
            reader.send_signal(signal.SIGINT)
            assert reader.stdout.readline() == "interrupted\n"
            assert reader.stdout.readline() == CONTENT[140_000:140_004].hex() + "\n"
            assert reader.wait() == 0
        finally:
            reader.kill()
