"""What is asked, which answers are believed, and what is told of the others."""

import logging
import pickle
from urllib.parse import urlsplit

import pytest
from remote_content import AT, BLOCK, CONTENT, opened, reading, wave, without_length
from scripted_server import Headers, Ok, ScriptedServer, Status, Whole, WrongRange

import vfs


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
    with reading(Ok(), then=other) as (_, file), error:
        file.read(AT, 4096)


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


# What is told


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


def test_a_file_is_named_without_its_secrets():
    with ScriptedServer(CONTENT) as server:
        host = urlsplit(server.url).netloc
        with opened(f"http://user:hidden@{host}/f?key=hidden#hidden") as file:
            assert file.name == f"http://{host}/f?…"
            assert "hidden" not in repr(file)


def test_the_errors_survive_a_trip_to_another_process():
    for name in vfs.errors.__all__:
        kind = getattr(vfs, name)
        error = kind("words", 404) if issubclass(kind, vfs.StatusError) else kind("words")
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (kind, "words")
        assert getattr(copy, "status", None) == getattr(error, "status", None)
        assert isinstance(copy, vfs.VFSError)


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
        f"{server.url}: the server tells neither a strong ETag nor a date of change older than a "
        "second; a change of the file is noticed by its size alone, and nothing is kept on disk. "
        "Web servers send both for plain files; lighttpd only for names whose suffix has a type in "
        "mimetype.assign"
    ]
    kept = {entry.name: entry.read_bytes().strip(b"\0") for entry in tmp_path.iterdir()}
    assert kept == {"blocks.v1": b"", "blocks.lock": b""}
