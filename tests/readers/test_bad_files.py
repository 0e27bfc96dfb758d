"""Files, servers and directories that cannot be used: typed errors that say what to do."""

import contextlib
import socket
from pathlib import Path

import apsw
import magnitude_files as mf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scripted_server import ScriptedServer, Status, Whole
from serving import LoggingServer

import vfs
from streamfile import FormatError, Magnitude, StreamfileError
from streamfile.readers import local

KEYS = mf.random_words(60, 1)
VECTORS = mf.random_vectors(60, 5, 1)
STORE = {"blocks.v1", "blocks.lock"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bad")


@pytest.fixture(scope="module")
def server(folder):
    with LoggingServer(folder) as running:
        yield running


@pytest.fixture(params=["local", "streamed"])
def opened(request, server, tmp_path):
    """Open a file of the folder; whatever happens, the cache is as usable as before."""
    cache = tmp_path / "cache"
    own = {"cache_dir": cache, "cache_size": 1 << 24, "deadline": 20}

    def open_(path):
        if request.param == "local":
            return Magnitude(path)
        return Magnitude(server.url + path.name, stream=True, stream_options=own)

    yield open_
    if cache.exists():
        assert {entry.name for entry in cache.iterdir()} <= STORE
        good = mf.write_magnitude(server.directory / "good", KEYS, VECTORS)
        for _ in range(2):
            with Magnitude(server.url + good.name, stream=True, stream_options=own) as v:
                assert np.array_equal(v.query(KEYS[3]), v[3][1])


def sql(path, *statements):
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA page_size = 1024; PRAGMA journal_mode = OFF")
    for statement in statements:
        connection.execute(statement)
    connection.close()
    return path


def written(folder, name, *statements, **options):
    """Write a good file, and change it by SQL."""
    path = mf.write_magnitude(folder / name, KEYS, VECTORS, **({"page_size": 1024} | options))
    return sql(path, *statements)


def set_format(key, value):
    return f"UPDATE magnitude_format SET value = {value} WHERE key = '{key}'"


def drop_format(key):
    return f"DELETE FROM magnitude_format WHERE key = '{key}'"


def assert_refused(opened, path, error, words):
    """Open a file; the refusal names it, and says the words."""
    with pytest.raises(error, match=words) as caught:
        opened(path)
    assert path.name in str(caught.value)
    return str(caught.value)


# What is in the file


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"word 0.1 0.2\n" * 100,
        b"PK\x03\x04" + bytes(5000),
        b"<!doctype html>\n<title>Not found</title>" * 5000,
        b"SQLite format 3",
        b"SQLite format 3\0",
        b"SQLite format 3\0" + bytes(5000),
        b"SQLite format 4\0" + bytes(5000),
        bytes(200_000),
    ],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_no_database(folder, opened, content):
    path = folder / "no-database"
    path.write_bytes(content)
    told = assert_refused(opened, path, vfs.DatabaseError, r"SQLite|header is damaged")
    assert "header is damaged" in told or repr(content[:16]) in told


def test_a_database_that_is_no_magnitude_file(folder, opened):
    for name, statements, found in [
        ("other", ["CREATE TABLE films (a)", "CREATE TABLE actors (a)"], "actors, films"),
        ("empty", ["CREATE TABLE a (a)", "DROP TABLE a"], r"\(none\)"),
        ("formatless", ["CREATE TABLE magnitude (key)"], "magnitude"),
        (
            "unindexed",
            ["CREATE TABLE magnitude (key)", "CREATE TABLE magnitude_format (key, value)"],
            "magnitude, magnitude_format",
        ),
    ]:
        path = folder / name
        path.unlink(missing_ok=True)
        sql(path, *statements)
        told = assert_refused(opened, path, FormatError, rf"found the tables {found}$")
        assert "expected the tables magnitude and magnitude_format and an index" in told


def test_a_database_of_many_tables_is_told_in_a_line(folder, opened):
    path = folder / "many"
    path.unlink(missing_ok=True)
    sql(path, *(f"CREATE TABLE table_{n} (a)" for n in range(500)))
    assert len(assert_refused(opened, path, FormatError, "table_0")) < 500


def test_a_wide_table_beside_others_is_no_trouble(folder, opened):
    columns = ", ".join(f"column_{n}" for n in range(1500))
    path = written(
        folder, "beside", f"CREATE TABLE another ({columns})", "CREATE VIEW v AS SELECT 1"
    )
    with opened(path) as v:
        assert KEYS[0] in v


@pytest.mark.parametrize("version", [3, 99, "'new'", 2.5, "NULL"])
def test_another_version_of_the_format(folder, opened, version):
    path = written(folder, "newer", set_format("version", version))
    told = assert_refused(opened, path, FormatError, r"format version .*up to version 2")
    assert "update streamfile" in told


def test_a_file_of_the_first_version_has_no_version_row(folder, opened):
    path = written(folder, "first", drop_format("version"), drop_format("elmo"))
    with opened(path) as v:
        assert v.normalized
        assert np.array_equal(v.query(KEYS[3]), v[3][1])


@pytest.mark.parametrize("field", ["dim", "size", "precision"])
@pytest.mark.parametrize("value", [None, "'many'", -1, 10**15, "NULL", 1.5, "x'01'"])
def test_format_rows_that_cannot_be(folder, opened, field, value):
    change = drop_format(field) if value is None else set_format(field, value)
    path = written(folder, "odd", change)
    assert_refused(opened, path, FormatError, rf"magnitude_format has {field}=.*expected a number")


def test_a_dimension_that_is_not_that_of_the_rows(folder, opened):
    for dim in (1, 4, 6, 3000):
        path = written(folder, f"dim{dim}", set_format("dim", dim), set_format("size", 5))
        with opened(path) as v:
            for task in (lambda: v.query(KEYS), lambda: v[0], lambda: list(v)):
                with pytest.raises(FormatError, match=rf"{path.name}.*a row of the table"):
                    task()
            assert KEYS[0] in v


def test_a_size_that_is_not_the_number_of_rows(folder, opened):
    path = written(folder, "longer", set_format("size", 61))
    with opened(path) as v:
        assert v[59][0] == KEYS[59]
        assert v.query(KEYS).shape == (60, 5)
        for task in (lambda: v[60], lambda: list(v), lambda: v[-1]):
            with pytest.raises(FormatError, match=r"longer.*row 61 is missing"):
                task()
    path = written(folder, "shorter", set_format("size", 7))
    with opened(path) as v:
        assert [key for key, _ in v] == KEYS[:7]
        with pytest.raises(IndexError):
            v[7]


def test_a_size_beyond_what_fits_into_the_file(folder, opened):
    """It would be believed when memory for all vectors is made, or all places listed."""
    path = written(folder, "huge", set_format("size", 10**9))
    assert_refused(opened, path, FormatError, r"size=1000000000; expected a number")


def test_rows_that_are_missing_or_odd(folder, opened):
    path = written(
        folder,
        "holes",
        "DELETE FROM magnitude WHERE rowid = 10",
        "UPDATE magnitude SET dim_2 = 'text' WHERE rowid = 20",
        "UPDATE magnitude SET dim_2 = 1.5 WHERE rowid = 21",
        "UPDATE magnitude SET dim_2 = NULL WHERE rowid = 22",
        "UPDATE magnitude SET key = x'00' WHERE rowid = 23",
        "UPDATE magnitude SET key = NULL WHERE rowid = 24",
        "UPDATE magnitude SET magnitude = 'much' WHERE rowid = 25",
    )
    with opened(path) as v:
        assert np.array_equal(v.query(KEYS[3]), v[3][1])
        with pytest.raises(FormatError, match="row 10 is missing"):
            v[9]
        assert KEYS[9] not in v
        for rowid in range(20, 26):
            with pytest.raises(FormatError, match=r"holes.*a row of the table"):
                v[rowid - 1]
        for key in (KEYS[22], KEYS[23]):
            assert key not in v


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.999])
def test_truncated_files(folder, opened, share):
    path = written(folder, "cut")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    told = assert_refused(opened, path, vfs.DatabaseError, "truncated")
    assert "Was the upload or download complete?" in told


def test_a_file_cut_within_its_header(folder, opened):
    path = folder / "header"
    path.write_bytes(written(folder, "whole").read_bytes()[:60])
    assert_refused(opened, path, vfs.DatabaseError, "not a SQLite database")


# What is at the address


def streaming(url, **options):
    return Magnitude(url, stream=True, stream_options={"cache_size": 0, "retries": 1} | options)


def test_a_file_that_is_not_there(server, tmp_path):
    with pytest.raises(vfs.NotFoundError, match=r"127\.0\.0\.1.*no-such.*404.*check") as caught:
        streaming(server.url + "no-such")
    assert caught.value.status == 404
    with pytest.raises(FileNotFoundError, match=r"no-such"):
        Magnitude(tmp_path / "no-such")


@pytest.mark.parametrize(("status", "error"), [(401, vfs.AccessError), (403, vfs.AccessError)])
def test_a_file_that_wants_credentials(status, error):
    message = rf"file\.magnitude.*{status}.*headers"
    with ScriptedServer(b"", then=Status(status)) as server, pytest.raises(error, match=message):
        streaming(server.url)


def test_a_server_without_ranges(folder):
    content = written(folder, "rangeless").read_bytes()
    with ScriptedServer(content + bytes(1 << 20), then=Whole()) as server:
        with pytest.raises(vfs.RangeError, match=r"127\.0\.0\.1.*ignores Range.*nginx.*download"):
            streaming(server.url)
        assert len(server.requests) == 1


def test_a_name_that_does_not_resolve(monkeypatch):
    def resolve(host, *args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(vfs.ConnectError, match=r"http://nowhere\.invalid/a.*not resolve.*check"):
        streaming("http://nowhere.invalid/a")


def test_a_port_that_nobody_listens_at():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(vfs.ConnectError, match=rf"127\.0\.0\.1:{port}/a.*check the address"):
        streaming(f"http://127.0.0.1:{port}/a")


@pytest.mark.parametrize("url", ["words.magnitude", "ftp://127.0.0.1/a", "http://", "", "http:/a"])
def test_addresses_that_cannot_be_streamed(url):
    with pytest.raises(vfs.OptionError, match="expected http://"):
        streaming(url)


def test_a_cache_directory_that_cannot_be_used(server, folder, tmp_path):
    path = written(folder, "cached")
    (tmp_path / "file").write_text("no directory")
    count = len(server.log)
    with pytest.raises(vfs.CacheDirectoryError, match=r"file/cache.*cache_dir.*cache_size=0"):
        streaming(server.url + path.name, cache_dir=tmp_path / "file/cache", cache_size=1 << 24)
    assert (tmp_path / "file").read_text() == "no directory"
    assert len(server.log) == count


def test_a_directory_that_was_made_unusable_later_is_done_without(server, folder, tmp_path):
    """What is cached is a copy: an object goes on without it."""
    path = written(folder, "uncached")
    options = {"cache_dir": tmp_path / "cache", "cache_size": 1 << 24}
    with streaming(server.url + path.name, **options) as v:
        for entry in (tmp_path / "cache").iterdir():
            entry.unlink()
        assert np.array_equal(v.query(KEYS[3]), v[3][1])


@pytest.mark.parametrize("option", ["cachedir", "retry", "Cache_dir"])
def test_options_that_do_not_exist(server, option):
    with pytest.raises(vfs.OptionError, match=rf"'{option}'.*cache_dir.*retries"):
        streaming(server.url + "a", **{option: 1})


# Damage


class Sound(list):
    """Contents, which a failing test need not show."""

    def __repr__(self):
        return "Sound()"


@pytest.fixture(scope="module")
def sound(folder):
    """Content of files with leaves, interior pages and overflow chains."""
    many = mf.random_words(300, 1)
    contents = []
    for page_size, dim, keys in [(512, 5, many), (1024, 400, many[:20]), (4096, 5, many[:60])]:
        vectors = mf.random_vectors(len(keys), dim, 1)
        path = mf.write_magnitude(folder / "sound", keys, vectors, page_size=page_size)
        contents.append((path.read_bytes(), keys))
    return Sound(contents)


def use(path, keys):
    """Ask all kinds of things of a file that may be damaged."""
    refused = (StreamfileError, vfs.VFSError)
    with contextlib.suppress(refused), Magnitude(path) as v:
        for task in (
            lambda: v.query(keys),
            lambda: v.query(keys[:5], normalized=False),
            lambda: [key in v for key in keys[:5]],
            lambda: list(v),
            lambda: v[len(v) // 2] if len(v) else None,
        ):
            with contextlib.suppress(refused):
                task()
        with contextlib.suppress(refused), Magnitude(path, case_insensitive=True) as w:
            w.query(keys)


places = st.floats(0, 1, exclude_max=True)
bytes_ = st.sampled_from([0, 1, 2, 5, 10, 13, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)
damage = settings(max_examples=200)


@pytest.fixture(params=["sql", "pages"])
def finding(request, monkeypatch):
    """Whether SQLite finds keys in local files, or the walk that streamed files use."""
    if request.param == "pages":
        monkeypatch.setattr(local, "MOST_SQL_COLUMNS", 0)


@damage
@example(which=0, flips=[(0.875, 0)])
@given(which=st.integers(0, 2), flips=st.lists(st.tuples(places, bytes_), min_size=1, max_size=8))
def test_flipped_bytes_give_an_answer_or_an_error_of_ours(finding, folder, sound, which, flips):
    content, keys = sound[which]
    damaged = bytearray(content)
    for place, byte in flips:
        damaged[int(place * len(damaged))] = byte
    path = folder / "flipped"
    path.write_bytes(damaged)
    use(path, keys)


@damage
@given(
    which=st.integers(0, 2),
    page=places,
    at=st.integers(0, 40) | st.integers(-200, -1),
    new=st.binary(min_size=1, max_size=9) | st.lists(bytes_, min_size=1, max_size=9).map(bytes),
)
@example(which=1, page=0.5, at=0, new=b"\x0d")
def test_damaged_pages_give_an_answer_or_an_error_of_ours(
    finding, folder, sound, which, page, at, new
):
    """Where a page's header, its pointers and its last cells are."""
    content, keys = sound[which]
    size = [512, 1024, 4096][which]
    damaged = bytearray(content)
    begin = int(page * (len(content) // size)) * size
    place = begin + at if at >= 0 else begin + size + at
    damaged[place : place + len(new)] = new
    path = folder / "damaged"
    path.write_bytes(damaged[: len(content)])
    use(path, keys)


@damage
@given(row=st.integers(0, 59), at=st.integers(0, 14), new=bytes_, second=bytes_)
def test_damaged_records_give_an_answer_or_an_error_of_ours(
    finding, folder, sound, row, at, new, second
):
    """Lengths, header and types of a row of the vectors' table, and what follows."""
    content, keys = sound[2]
    damaged = bytearray(content)
    # The first of the places where the key is text in a record of seven columns.
    found = content.find(bytes([8, 13 + 2 * len(keys[row])]))
    places = [i for i in range(len(content) - 10) if content[i] == 8 and content[i + 1] >= 13]
    place = places[row % len(places)] - 3 if found < 0 else found - 3
    damaged[place + at : place + at + 2] = bytes([new, second])
    path = folder / "record"
    path.write_bytes(damaged)
    use(path, keys)


def test_a_record_shorter_than_its_header_says(folder, opened):
    """At the end of what was read, where nothing lies behind it."""
    path = folder / "short"
    mf.write_magnitude(path, ["a"], mf.random_vectors(1, 700, 1), page_size=4096)
    content = bytearray(path.read_bytes())
    leaf = 4096 * (root_of(path, "magnitude") - 1)
    cell = leaf + int.from_bytes(content[leaf + 8 : leaf + 10], "big")
    for length in (4, 9, 30, 127):
        damaged = bytearray(content)
        moved = leaf + 4096 - length - 2  # the record ends where its page does
        damaged[moved : leaf + 4096] = bytes([length, 1]) + content[cell + 3 : cell + 3 + length]
        damaged[leaf + 8 : leaf + 10] = (moved - leaf).to_bytes(2, "big")
        path.write_bytes(damaged)
        with opened(path) as v, pytest.raises(FormatError, match="a row of the table"):
            v[0]
    Path(path).unlink()


def root_of(path, name):
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    return connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).get
