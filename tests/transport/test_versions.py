"""Which answers belong to one version of a file: what validators contradict, prove, leave open."""

import logging
from email.utils import formatdate

import pytest
from remote_content import AT, BLOCK, CONTENT, reading
from scripted_server import FIRST_MODIFIED, Changed, Headers, Ok, ScriptedServer, Status, Whole

import vfs
from vfs.identity import Identity

OTHER = CONTENT[::-1]
DATE = formatdate(FIRST_MODIFIED, usegmt=True)
NEW_DATE = formatdate(FIRST_MODIFIED + 3600, usegmt=True)


def identity(etag, modified=DATE, size=10, **more):
    return Identity(size, etag, modified, **more)


CONTRADICTIONS = [
    (identity('"1"'), identity('"2"')),
    (identity('W/"1"'), identity('W/"2"')),
    (identity("1"), identity("2")),
    (identity('"1"'), identity('W/"2"')),
    (identity('W/"1"'), identity('W/"1"', NEW_DATE)),
    (identity('"1"'), identity('W/"1"', NEW_DATE)),
    (identity('"1"'), identity(None, NEW_DATE)),
    (identity(None), identity(None, NEW_DATE)),
    (identity('"1"', None), identity('"2"', None)),
    (identity('"1"'), identity('"1"', size=11)),
]
UNPROVEN = [
    (identity('"1"'), identity('"1"', NEW_DATE)),
    (identity('W/"1"', None), identity('W/"1"', None)),
    (identity('W/"1"', None), identity('"1"', None)),
    (identity(None, recent=True), identity(None)),
    (identity(None, None), identity(None, None)),
    (identity('"1"'), identity(None, None)),
]
PROOFS = [
    (identity('"1"'), identity('"1"')),
    (identity('"1"', None), identity('"1"')),
    (identity('"1"'), identity('W/"1"')),
    (identity('W/"1"'), identity('w/"1"')),
    (identity('W/"1"'), identity("1")),
    (identity('"1"'), identity(None)),
    (identity(None), identity(None)),
]


@pytest.mark.parametrize(
    ("pairs", "contradicts", "proven"),
    [(CONTRADICTIONS, True, None), (UNPROVEN, False, False), (PROOFS, False, True)],
)
def test_what_two_answers_tell_of_each_other(pairs, contradicts, proven):
    for one, other in pairs:
        for first, second in ((one, other), (other, one)):
            assert first.contradicts(second) is contradicts, (first, second)
            assert contradicts or first.proven_by(second) is proven, (first, second)


@pytest.mark.parametrize(
    ("seconds", "durable"), [(-10, False), (0, False), (1, True), (60, True), (None, True)]
)
def test_a_date_of_this_second_proves_nothing(seconds, durable):
    headers = {"Last-Modified": DATE, "ETag": 'W/"1"'}
    if seconds is not None:
        headers["Date"] = formatdate(FIRST_MODIFIED + seconds, usegmt=True)
    assert Identity.from_headers(10, headers).durable is durable
    assert Identity.from_headers(10, headers | {"ETag": '"1"'}).durable


@pytest.mark.parametrize("etag", ['W/"v1"', "v1", None])
@pytest.mark.parametrize("told", ['W/"v2"', "v2", '"v2"'])
def test_a_tag_that_differs_is_a_change_whatever_its_kind(etag, told):
    first = Headers(ETag=etag, Last_Modified=None)
    with reading(first, Headers(ETag='W/"v1"', Last_Modified=None)) as (server, file):
        assert file.read(AT, 4096) == BLOCK
        server.content, server.then = OTHER, Headers(ETag=told, Last_Modified=None)
        with pytest.raises(vfs.FileChangedError, match="v2"):
            file.read(AT + 100_000, 4096)
        with pytest.raises(vfs.FileChangedError, match="v2"):
            file.read_many([(AT, 4096), (AT + 200_000, 4096)])


@pytest.mark.parametrize(
    "tags",
    [['"v1"', 'W/"v1"'], ['W/"v1"', '"v1"'], ['"v1"', None], [None, '"v1"'], ["v1", '"v1"']],
)
def test_a_tag_that_gets_weak_or_strong_or_is_left_out_is_no_change(tags):
    first, later = (Headers(ETag=tag) for tag in tags)
    with reading(first, then=later) as (server, file):
        server.etag = tags[1] or server.etag  # what conditions are compared with
        assert file.read(AT, 4096) == BLOCK
        assert file.read(AT + 100_000, 4096) == CONTENT[AT + 100_000 :][:4096]
        answers = [request.range for request in server.requests]
        assert len(set(answers)) == 3


def test_an_answer_without_any_validator_does_not_belong_to_a_version_that_has_one():
    bare = Headers(ETag=None, Last_Modified=None)
    with reading(Ok(), bare) as (server, file):
        assert file.read(AT, 4096) == BLOCK  # it was asked for again
        assert len(server.requests) == 3
        server.then = bare
        with pytest.raises(vfs.FileChangedError, match="no validator"):
            file.read(AT + 100_000, 4096)
        assert len(server.requests) == 6


@pytest.mark.parametrize(
    "answer",
    [Headers(ETag='"v2"'), Headers(Last_Modified=NEW_DATE, ETag=None), Status(412), Status(416)],
)
def test_a_contradiction_that_does_not_stay_is_no_change(answer):
    with reading(Ok(), answer) as (server, file):
        assert file.read(AT, 4096) == BLOCK
        assert len(server.requests) == 3
        server.then = answer
        with pytest.raises(vfs.FileChangedError, match=r'"v1".*validators="size"'):
            file.read(AT + 100_000, 4096)


def test_a_change_of_the_file_is_told_again_and_again():
    with ScriptedServer(CONTENT, [Ok(), Changed(OTHER, '"v2"')]) as server:
        with vfs.open(server.url, cache_size=0) as file:
            for _ in range(3):
                with pytest.raises(vfs.FileChangedError, match=r'"v1".*"v2".*again'):
                    file.read(AT, 4096)
            assert file.read(0, 100) == CONTENT[:100]  # of the version that was opened
        conditions = [request.headers.get("if-match") for request in server.requests]
        assert conditions == [None, *['"v1"'] * 9]


def test_validators_that_differ_by_server_are_told_as_that():
    by_turns = [Headers(ETag='"other"'), Ok()]
    with reading(Ok(), *by_turns) as (server, file):
        assert file.read(AT, 4096) == BLOCK
        server.then = Headers(ETag='"other"')
        with pytest.raises(vfs.FileChangedError, match="several servers") as caught:
            file.read(AT + 100_000, 4096)
    assert "Open it again" not in str(caught.value)


def test_a_file_of_differing_validators_is_read_by_its_size_if_asked_for(tmp_path, caplog):
    turns = [Headers(ETag='"one"'), Headers(ETag='"two"', Last_Modified=NEW_DATE)] * 20
    with ScriptedServer(CONTENT, turns) as server:
        for _ in range(2):
            with vfs.open(server.url, validators="size", cache_dir=tmp_path) as file:
                wanted = [(at, 4096) for at in range(AT, AT + 200_000, 50_000)]
                assert file.read_many(wanted) == [CONTENT[at : at + n] for at, n in wanted]
                assert not file.identity.durable
        assert not any(
            {"if-match", "if-unmodified-since"} & set(r.headers) for r in server.requests
        )
        assert [r.range for r in server.requests].count((0, (128 << 10) - 1)) == 2
        with vfs.open(server.url, validators="size", cache_size=0) as file:
            server.script.clear()
            server.content = OTHER[:-1]
            with pytest.raises(vfs.FileChangedError):
                file.read(AT, 10)
    assert not caplog.records


def test_another_value_of_the_option_is_refused():
    with pytest.raises(vfs.OptionError, match=r'"strict" or "size"'):
        vfs.open("http://127.0.0.1:9/f", validators="none")


# An equal strong tag with a new date


def dated(server, content=CONTENT):
    server.content, server.modified = content, server.modified + 3600


def test_the_same_bytes_uploaded_again_are_the_same_version(tmp_path):
    options = {"cache_dir": tmp_path, "cache_size": 8 << 20}
    with ScriptedServer(CONTENT) as server:
        with vfs.open(server.url, **options) as file:
            assert file.read(AT, 4096) == BLOCK
            dated(server)
            before = len(server.requests)
            assert file.read(AT + 100_000, 4096) == CONTENT[AT + 100_000 :][:4096]
            compared = len(server.requests) - before - 1
            assert 1 <= compared <= 16
            file.read(AT + 200_000, 4096)
            assert len(server.requests) == before + compared + 2
        server.requests.clear()
        with vfs.open(server.url, **options) as file:
            assert file.read(AT, 4096) == BLOCK
            assert [request.range for request in server.requests] == [(0, 4095)]
        dated(server)
        with vfs.open(server.url, **options) as file:
            assert file.read(AT, 4096) == BLOCK
            assert (0, (128 << 10) - 1) not in [request.range for request in server.requests]
        server.requests.clear()
        with vfs.open(server.url, **options) as file:
            assert file.read(AT, 4096) == BLOCK
            assert len(server.requests) == 1


@pytest.mark.parametrize("changed", [OTHER, bytes(4096) + OTHER[4096:]])
def test_other_bytes_under_an_equal_tag_are_a_change(tmp_path, changed):
    options = {"cache_dir": tmp_path, "cache_size": 8 << 20}
    with ScriptedServer(CONTENT) as server:
        with vfs.open(server.url, **options) as file:
            file.read_many([(at, 4096) for at in range(AT, AT + 160_000, 8192)])
            dated(server, changed)
            for _ in range(2):
                with pytest.raises(vfs.FileChangedError, match="other bytes"):
                    file.read(AT + 250_000, 4096)
        for _ in range(2):
            with vfs.open(server.url, **options) as file:
                wanted = [(AT, 4096), (0, 4096), (AT + 100_000, 4096)]
                assert file.read_many(wanted) == [changed[at : at + n] for at, n in wanted]


def test_two_dates_by_turns_are_compared_once():
    turns = [Headers(Last_Modified=date) for date in (DATE, NEW_DATE)]
    with reading(Ok(), then=turns[1]) as (server, file):
        file.read(AT, 4096)
        server.script += turns * 4
        before = len(server.requests)
        for n in range(1, 6):
            file.read(AT + n * 50_000, 100)
        assert len(server.requests) == before + 5


# Forms of answers


@pytest.mark.parametrize(
    "told",
    [
        "Bytes {}-{}/{}",
        "BYTES  {}-{}/{}",
        "bytes={}-{}/{}",
        "bytes {} - {} / {}",
        " bytes {}-{}/{} ",
    ],
)
def test_the_place_of_a_range_may_be_written_in_other_ways(told):
    answer = Headers(Content_Range=told.format(AT, AT + 4095, len(CONTENT)))
    with reading(Ok(), answer) as (_, file):
        assert file.read(AT, 4096) == BLOCK


def test_a_range_without_the_size_of_the_file_is_told_as_that():
    error = pytest.raises(vfs.ResponseError, match="size of the file is missing")
    with ScriptedServer(CONTENT, [Headers(Content_Range="bytes 0-131071/*")]) as server, error:
        vfs.open(server.url, cache_size=0)


@pytest.mark.parametrize("coding", ["aws-chunked", "", "none", "binary", "identity", "Identity"])
def test_codings_that_change_nothing_are_no_compression(coding):
    with reading(Ok(), Headers(Content_Encoding=coding)) as (_, file):
        assert file.read(AT, 4096) == BLOCK


@pytest.mark.parametrize("coding", ["gzip", "br", "aws-chunked, gzip", "deflate"])
def test_other_codings_are_compression(coding):
    error = pytest.raises(vfs.ResponseError, match="compress")
    with reading(Ok(), Headers(Content_Encoding=coding)) as (_, file), error:
        file.read(AT, 4096)


def test_an_equal_length_told_twice_is_one():
    with reading(Ok(), Headers(Content_Length="4096, 4096")) as (_, file):
        assert file.read(AT, 4096) == BLOCK
    error = pytest.raises(vfs.TransportError)
    with reading(Ok(), then=Headers(Content_Length="4096, 4097"), retries=0) as (_, file), error:
        file.read(AT, 4096)


@pytest.mark.parametrize("size", [1, 5000, 128 << 10])
def test_a_small_file_may_come_whole(size, tmp_path):
    content = CONTENT[:size]
    with ScriptedServer(content, then=Whole()) as server:
        for memory in (32 << 20, 0):
            options = {"cache_dir": tmp_path, "memory_size": memory}
            with vfs.open(server.url, **options) as file:
                wanted = [(0, size), (size // 2, 10)]
                assert file.read_many(wanted) == [content[at : at + n] for at, n in wanted]
                assert file.size == size
        assert len(server.requests) == 2
        with vfs.open(server.url, cache_size=0, memory_size=0) as file:
            assert file.read(size // 2, 10) == content[size // 2 :][:10]


def test_a_whole_file_is_no_answer_to_a_part_of_it():
    error = pytest.raises(vfs.RangeError, match="600000 bytes")
    with reading(Ok(), Whole()) as (_, file), error:
        file.read(AT, 4096)


def test_a_page_to_log_in_is_told_as_one():
    page = b"<html><form>user, password</form></html>"
    answer = Status(200, {"Content-Type": "text/html; charset=utf-8"}, page)
    with ScriptedServer(CONTENT, [answer]) as server:
        with pytest.raises(vfs.AccessError, match=r"web page.*log in") as caught:
            vfs.open(server.url, cache_size=0)
        assert caught.value.status == 200
        assert len(server.requests) == 1


def test_a_server_that_wants_ranges_within_the_file_tells_its_size():
    content = CONTENT[:50_000]

    def answer(server, request):
        if request.range[1] >= len(content):
            return Status(416, {"Content-Range": "bytes */50000"})(server, request)
        return server.right_reply(request)

    with ScriptedServer(content, then=answer) as server:
        with vfs.open(server.url, cache_size=0) as file:
            assert (file.size, file.read(0, 50_000)) == (50_000, content)
        assert [r.range for r in server.requests] == [(0, 131071), (0, 49_999)]


def test_a_server_that_refuses_every_range_is_told_as_that():
    never = Status(416, {"Content-Range": "bytes */50000"})
    with ScriptedServer(CONTENT, then=never) as server:
        with pytest.raises(vfs.TransportError, match="416"):
            vfs.open(server.url, cache_size=0)
        assert len(server.requests) == 2


def test_servers_that_tell_one_byte_wrongly_are_not_asked_for_one(tmp_path, caplog):
    caplog.set_level(logging.WARNING)

    def answer(server, request):
        if request.range == (0, 0):
            return server.whole()
        return server.right_reply(request)

    with ScriptedServer(CONTENT, then=answer) as server:
        for _ in range(3):
            with vfs.open(server.url, cache_dir=tmp_path) as file:
                assert file.read(0, 4096) == CONTENT[:4096]
                assert file.read(AT, 4096) == BLOCK
                assert file.validate().size == len(CONTENT)
    assert not caplog.records
