"""What is tried again, how often, and how long a call takes at most."""

import contextlib
import signal
import threading
import time
from dataclasses import replace
from email.utils import formatdate

import pytest
from children import child
from remote_content import AT, BLOCK, CONTENT, opened, reading, wave, without_length
from scripted_server import Disconnect, Ok, ScriptedServer, ShortBody, Stall, Status
from waiting import PATIENCE, wait_until

import vfs

NEVER = 3600  # seconds until the servers here answer, which no test lives to see
SOON = 60  # seconds, for what takes less than one where nothing else runs
NOW = 1_700_000_000


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


# Deadlines


def test_retry_after_beyond_the_deadline_is_not_waited_for():
    error = pytest.raises(vfs.DeadlineError, match="120 s")
    then = Status(503, {"Retry-After": "3600"})
    with ScriptedServer(CONTENT, then=then) as server, error as caught:
        opened(server)
    assert caught.value.__cause__.status == 503  # none where the deadline itself ends a call
    assert len(server.requests) == 1


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
