"""A call ends with its deadline, whatever the server does, and leaves nothing behind."""

import contextlib
import gc
import socket
import threading
import time

import magnitude_files as mf
import pytest
from leftovers import descriptors, sockets_to, threads
from remote_content import AT, BLOCK, CONTENT, opened, reading
from scripted_server import Disconnect, Held, Ok, Redirect, ScriptedServer, Stall, Status, Whole
from serving import LoggingServer
from waiting import wait_until

import vfs
from streamfile import Magnitude
from vfs.deadline import Deadline, carried, current, ongoing, within
from vfs.workers import Workers

MARGIN = 1.0  # seconds that an end may be late
NEVER = 3600


@contextlib.contextmanager
def ends_within(seconds):
    """Check that a block ends by the deadline, with its error, and leaves no thread behind."""
    before, began = threads(), time.monotonic()
    with pytest.raises(
        vfs.DeadlineError, match=f"deadline of {seconds:g} s.*connections"
    ) as caught:
        yield caught
    assert time.monotonic() - began <= seconds + MARGIN
    wait_until(lambda: threads() <= before)


# The clock


def test_the_time_of_a_call_is_the_same_for_all_that_it_does():
    assert ongoing() is None
    with within(5) as call:
        assert current() is call
        assert 4 < call.left <= 5
        with within(50) as inner, within(None):
            assert current() is inner is call
        with within(1) as shorter:
            assert current() is shorter is not call
        assert current() is call
    assert ongoing() is None


def test_progress_restarts_the_usual_time_but_not_the_callers():
    for seconds, renewed in [(None, True), (120.0, False)]:
        deadline = Deadline(seconds)
        deadline._end -= 60
        assert deadline.left < 61
        deadline.progress()
        assert (deadline.left > 61) is renewed


def test_a_worker_thread_has_the_deadline_of_who_asked_it():
    workers = Workers(1)
    try:
        with within(7) as call:
            assert workers.submit(current).result() is call
        assert workers.submit(ongoing).result() is None
        with carried(call):
            assert workers.submit(ongoing).result() is call
    finally:
        workers.close()


# Servers


def dripping(data, seconds=0.2):
    """Serve bytes one by one, each a part of a second later."""

    def serve(connection, closing):
        connection.recv(1 << 16)
        for byte in data:
            if closing.wait(seconds):
                return
            connection.sendall(bytes([byte]))

    return serve


def silent(connection, closing):
    """Say nothing."""
    closing.wait()


HEAD = b"HTTP/1.1 206 Partial Content\r\n"
RANGE = f"Content-Range: bytes 0-131071/{len(CONTENT)}\r\nContent-Length: 131072\r\n".encode()


@contextlib.contextmanager
def raw_server(serve):
    """Run a function for each connection; give the URL."""
    closing, running = threading.Event(), []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    running.append(threading.Thread(target=run, args=(connection,)))
                    running[-1].start()

        def run(connection):
            with connection, contextlib.suppress(OSError):
                serve(connection, closing)

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/file"
        finally:
            closing.set()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in [acceptor, *running]:
                thread.join()


@pytest.mark.parametrize(
    "serve",
    [
        pytest.param(silent, id="silence"),
        pytest.param(dripping(HEAD * 100), id="status line"),
        pytest.param(dripping(HEAD + b"X-Header: " + b"x" * 1000), id="header"),
        pytest.param(dripping(HEAD + b"X-Header: x\r\n" * 100), id="headers"),
        pytest.param(dripping(HEAD + RANGE + b"\r\n" + bytes(1000), 0.02), id="body"),
        pytest.param(dripping(b"HTTP/1.1 100 Continue\r\n\r\n" * 99, 0.01), id="interim answers"),
    ],
)
def test_the_deadline_ends_an_open_that_gets_its_answer_byte_by_byte(serve):
    with raw_server(serve) as url:
        with ends_within(1):
            opened(url, deadline=1)
        wait_until(lambda: not sockets_to(url))


def test_the_deadline_ends_an_open_where_no_connection_is_taken():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        with contextlib.ExitStack() as stack:
            for _ in range(3):  # fill the queue of the system
                full = stack.enter_context(socket.socket())
                full.setblocking(False)
                full.connect_ex(address)
            with ends_within(1):
                opened(f"http://127.0.0.1:{address[1]}/file", deadline=1)


def slow_circle(server, request):
    """Redirect to the same place, after a while."""
    reply = Redirect(f"/{len(server.requests)}")(server, request)
    reply.delay = 0.3
    return reply


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        (Stall(NEVER), {"timeout": NEVER}),
        (Stall(NEVER), {"timeout": 0.2, "retries": 100}),
        (slow_circle, {}),
        (Status(503), {}),
        (Status(429), {"retries": 100}),
        (Status(500), {"retries": 100}),
        (Disconnect(), {"retries": 100}),
    ],
)
@pytest.mark.parametrize("connections", [1, 32])
def test_the_deadline_ends_an_open_and_a_wave_that_are_tried_again(answer, options, connections):
    options = options | {"deadline": 1, "connections": connections}
    with ScriptedServer(CONTENT, then=answer) as server:
        with ends_within(1):
            opened(server, **options)
        wait_until(lambda: not sockets_to(server.url))
    with reading(Ok(), then=answer, **options) as (_, file):
        began = time.monotonic()
        with pytest.raises(vfs.DeadlineError):
            file.read_many([(AT + 50_000 * n, 10) for n in range(5)])
        assert time.monotonic() - began <= 1 + MARGIN


def test_a_deadline_tells_the_last_failure():
    with ScriptedServer(CONTENT, then=Status(503)) as server, ends_within(1) as caught:
        opened(server, deadline=1)
    assert "(last came: asked for bytes 0-131071, got status 503)" in str(caught.value)
    assert caught.value.__cause__.status == 503


def test_opening_shares_one_deadline_with_what_follows_it(folder, server):
    """The first bytes and the roots of the trees, each in time for itself."""
    path = mf.write_magnitude(
        folder / "loose", mf.random_words(8000, 1), mf.random_vectors(8000, 8, 1), vacuum=False
    )
    server.latency = 0.7
    try:
        options = {"cache_size": 0, "deadline": 1}
        with ends_within(1):
            Magnitude(server.url + path.name, stream=True, stream_options=options)
    finally:
        server.latency = 0


# Public methods


ROWS = 20_000
WORDS = mf.random_words(ROWS, 5)


@pytest.fixture(scope="module")
def deep(folder):
    """A file whose trees have three levels."""
    vectors = mf.random_vectors(ROWS, 8, 5)
    return mf.write_magnitude(folder / "deep", WORDS, vectors, page_size=1024)


METHODS = {
    "query a key": lambda v: v.query(WORDS[7000]),
    "query lists": lambda v: v.query([WORDS[9000:9020], ["unknown"]]),
    "an unknown word": lambda v: v.query("unknownword"),
    "get_vector": lambda v: v.get_vector(WORDS[7000]),
    "distance": lambda v: v.distance(WORDS[7000], WORDS[12_000]),
    "similarity": lambda v: v.similarity(WORDS[7000], [WORDS[12_000], "other"]),
    "most_similar": lambda v: v.most_similar(WORDS[7000]),
    "most_similar_cosmul": lambda v: v.most_similar_cosmul(WORDS[7000]),
    "closer_than": lambda v: v.closer_than(WORDS[7000], WORDS[8000]),
    "doesnt_match": lambda v: v.doesnt_match(WORDS[7000:7003]),
    "in": lambda v: WORDS[7000] in v,
    "get_index": lambda v: v.get_index(WORDS[7000]),
    "key_to_index": lambda v: v.key_to_index[WORDS[7000]],
    "index_to_key": lambda v: v.index_to_key[7000:7010],
    "a place": lambda v: v[7000],
    "a slice": lambda v: v[7000:7010],
    "a step of an iteration": lambda v: next(iter(v)),
    "a step of the keys": lambda v: next(iter(v.index_to_key)),
    "all vectors": lambda v: v.get_vectors_mmap(),
    "a concatenation": lambda v: Magnitude(v, v).query("unknownword"),
    "a key in a concatenation": lambda v: WORDS[7000] in Magnitude(v, v),
}


@pytest.mark.parametrize("method", list(METHODS))
def test_all_waves_of_a_public_method_share_one_deadline(deep, server, method, monkeypatch):
    monkeypatch.setattr("vfs.remote_file.HEAD", 8192)
    options = {"cache_size": 0, "deadline": 0.6, "connections": 4}

    def open_it():
        return Magnitude(server.url + deep.name, stream=True, stream_options=options)

    with open_it() as v:
        opening = v.stats.waves
        METHODS[method](v)
        assert v.stats.waves >= opening + 2  # else there is nothing to share
    with open_it() as v:
        server.latency = 0.4
        began = time.monotonic()
        try:
            with pytest.raises(vfs.DeadlineError, match=r"0\.6 s"):
                METHODS[method](v)
        finally:
            server.latency = 0
        assert time.monotonic() - began <= 0.6 + MARGIN
        METHODS[method](v)  # the next call has a time of its own


def test_each_step_of_an_iteration_has_a_time_of_its_own(deep, server):
    options = {"cache_size": 0, "deadline": 1}
    with Magnitude(server.url + deep.name, stream=True, stream_options=options) as v:
        steps = iter(v)
        next(steps)
        time.sleep(1.1)
        assert len(list(steps)) == ROWS - 1


def test_a_long_transfer_that_goes_on_is_not_ended_but_for_a_given_deadline(
    deep, server, monkeypatch
):
    monkeypatch.setattr("vfs.deadline.USUAL", 1.0)
    monkeypatch.setattr("streamfile.search.scan.BATCH", 32 << 10)
    for deadline in (None, 1):
        options = {"cache_size": 0, "connections": 4} | ({"deadline": deadline} if deadline else {})
        with Magnitude(server.url + deep.name, stream=True, stream_options=options) as v:
            v.query(WORDS[7000])
            server.latency = 0.15
            began = time.monotonic()
            try:
                if deadline is None:
                    assert v.most_similar(WORDS[7000], topn=1)
                    assert time.monotonic() - began > 1
                else:
                    with pytest.raises(vfs.DeadlineError):
                        v.most_similar(WORDS[7000], topn=1)
            finally:
                server.latency = 0


# What is left behind


def kept_errors(url, error, count=10, **options):
    """Open a file in vain, and keep the errors with all that they refer to."""
    errors = []
    for _ in range(count):
        with pytest.raises(error) as caught:
            opened(url, **options)
        errors.append(caught)
    return errors


@pytest.mark.parametrize(
    ("answer", "error", "options"),
    [
        (Status(404), vfs.NotFoundError, {}),
        (Status(403), vfs.AccessError, {}),
        (Whole(), vfs.RangeError, {}),
        (Redirect("ftp://127.0.0.1/"), vfs.RedirectError, {}),
        (Ok(), vfs.BudgetError, {"max_bytes": 1000}),
        (Stall(NEVER), vfs.DeadlineError, {"deadline": 0.2, "timeout": NEVER}),
        (Disconnect(), vfs.ConnectError, {"retries": 0}),
        (Status(500), vfs.StatusError, {"retries": 1}),
    ],
)
def test_a_failed_open_leaves_no_socket_and_no_thread(answer, error, options):
    before = threads()
    with ScriptedServer(CONTENT, then=answer) as server:
        errors = kept_errors(server.url, error, **options)
        wait_until(lambda: not sockets_to(server.url) and threads() <= before)
    assert len(errors) == 10


def test_a_failed_open_of_a_magnitude_file_leaves_no_socket_and_no_thread():
    before = threads()
    with ScriptedServer(CONTENT) as server:
        errors = []
        for _ in range(5):
            with pytest.raises(vfs.DatabaseError) as caught:
                Magnitude(server.url, stream=True, stream_options={"cache_size": 0})
            errors.append(caught)
        wait_until(lambda: not sockets_to(server.url) and threads() <= before)


@pytest.mark.parametrize("end", [Status(404), Whole(), Status(403)])
def test_a_wave_that_fails_breaks_off_its_other_requests(end):
    never = threading.Event()
    script = [Ok(), *[Held(never)] * 6, end]
    with reading(*script, connections=8, timeout=NEVER) as (server, file):
        with pytest.raises(vfs.TransportError):
            file.read_many([(AT + 40_000 * n, 10) for n in range(7)])
        wait_until(lambda: sockets_to(server.url) <= 1)
        assert file.read(AT, 4096) == BLOCK


def test_an_interrupted_wave_breaks_off_its_requests(monkeypatch):
    never = threading.Event()
    with reading(Ok(), then=Held(never), connections=8, timeout=NEVER) as (server, file):

        def interrupt(attempts):
            if len(server.requests) >= 8:
                raise KeyboardInterrupt

        monkeypatch.setattr(file._source._habits, "look", interrupt)
        with pytest.raises(KeyboardInterrupt):
            file.read_many([(AT + 40_000 * n, 10) for n in range(7)])
        wait_until(lambda: sockets_to(server.url) <= 1)


@pytest.mark.parametrize("end", ["close", "forget"])
def test_a_file_that_is_closed_or_forgotten_leaves_nothing(end):
    before, files = threads(), descriptors()
    with ScriptedServer(CONTENT) as server:
        running = descriptors()
        for _ in range(5):
            file = opened(server)
            file.read_many([(AT + 40_000 * n, 10) for n in range(7)])
            if end == "close":
                file.close()
            del file
            gc.collect()
        wait_until(lambda: not sockets_to(server.url) and threads() <= before)
        wait_until(lambda: descriptors() <= running)
    assert descriptors() <= files


def test_a_closed_file_has_no_sockets_at_once():
    with ScriptedServer(CONTENT) as server:
        file = opened(server)
        file.read_many([(AT + 40_000 * n, 10) for n in range(7)])
        file.close()
        assert sockets_to(server.url) == 0


def test_a_request_given_up_is_not_in_the_way_of_other_calls():
    with reading(Ok(), Stall(NEVER), timeout=NEVER, deadline=1, connections=1) as (_, file):
        with pytest.raises(vfs.DeadlineError):
            file.read(AT, 4096)
        assert file.read(AT, 4096) == BLOCK


@pytest.fixture(scope="module")
def server(folder):
    with LoggingServer(folder) as running:
        yield running
