"""Files out of ``.magnitude`` files: each fetched once, kept, and gone on with after failures."""

import _thread
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import apsw
import lz4.frame
import pytest
from magnitude_files import random_vectors, random_words, write_magnitude
from scripted_server import Headers, Ok, ScriptedServer, Status
from serving import LoggingServer, asked_range

import vfs
from streamfile.errors import FormatError
from streamfile.readers.kept_blobs import _Copy, blob_size, keep_blob
from streamfile.readers.local import LocalReader
from streamfile.readers.remote import RemoteReader
from vfs.btree.read_ahead import WINDOW

META = "magnitude_meta_1"
SIZE = 24 << 20
ONE_BLOCK = 4 << 20
CHILD = """
import sys
from streamfile.readers import kept_blobs
from streamfile.readers.kept_blobs import keep_blob
from streamfile.readers.remote import RemoteReader
kept_blobs.SAVE_AFTER = 1 << 20
reader = RemoteReader(sys.argv[1], cache_dir=sys.argv[2], cache_size=128 << 20)
print(keep_blob(reader, "magnitude_meta_1").path)
"""


@pytest.fixture(scope="module")
def weights():
    return os.urandom(SIZE)


@pytest.fixture(scope="module")
def elmo(tmp_path_factory, weights):
    """Give a file with an ELMo model of random bytes."""
    path = tmp_path_factory.mktemp("elmo") / "f.magnitude"
    vectors = random_vectors(10_000, 12, 1)  # some MB that a blob's reader must not ask for
    return write_magnitude(path, random_words(10_000, 1), vectors, elmo=True, meta=(weights, b"{}"))


def with_frame(path, frame, *, pieces=2, table=META, keys=50):
    """Write a file whose table holds these bytes."""
    vectors = random_vectors(keys, 12, 1)
    write_magnitude(path, random_words(keys, 1), vectors, elmo=True)
    connection = apsw.Connection(str(path))
    connection.execute(f"DELETE FROM {table}")
    step = max(1, -(-len(frame) // pieces))
    for at in range(0, len(frame), step):
        connection.execute(f"INSERT INTO {table} VALUES (?)", (frame[at : at + step],))
    connection.execute("VACUUM")
    connection.close()
    return path


def open_remote(url, folder, **options):
    return RemoteReader(url, cache_dir=folder, cache_size=128 << 20, **options)


def kept(folder):
    """List what is kept, or on its way to that."""
    return sorted(entry.name for entry in Path(folder, "files").glob("*"))


def refusing(content, after):
    """Serve so many requests, and refuse those behind them."""
    return ScriptedServer(content, [Ok()] * after, then=Status(403))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_remote_blob_is_fetched_once(elmo, weights, tmp_path):
    with LoggingServer(elmo.parent) as server:
        reader = open_remote(server.url + elmo.name, tmp_path)
        opened = reader.stats.bytes
        with keep_blob(reader, META) as file:
            assert file.path.read_bytes() == weights
            fetched = reader.stats.bytes - opened
            stored = len(lz4.frame.compress(weights))
            assert stored < fetched < stored + 150_000
            requests = reader.stats.requests
            with keep_blob(reader, META) as again:
                assert again.path == file.path
            assert reader.stats.requests == requests
        reader.close()
        later = open_remote(server.url + elmo.name, tmp_path)
        with keep_blob(later, META) as file:
            assert file.path.read_bytes() == weights
        assert later.stats.requests == 1  # is the file still the same?
        with keep_blob(later, "magnitude_meta_2") as file:
            assert file.path.read_bytes() == b"{}"
        later.close()


def test_a_local_blob_is_kept_too(elmo, weights, cache):
    reader = LocalReader(str(elmo))
    with keep_blob(reader, META) as file, keep_blob(reader, "magnitude_meta_2") as options:
        assert file.path.read_bytes() == weights
        assert options.path.read_bytes() == b"{}"
    reader.close()
    assert len(kept(cache)) == 2


def test_a_changed_local_file_is_read_again(tmp_path, cache):
    path = with_frame(tmp_path / "f.magnitude", lz4.frame.compress(b"first"))
    with keep_blob(LocalReader(str(path)), META) as file:
        assert file.path.read_bytes() == b"first"
    with_frame(tmp_path / "new", lz4.frame.compress(b"second")).replace(path)
    with keep_blob(LocalReader(str(path)), META) as file:
        assert file.path.read_bytes() == b"second"


@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"store_size": False},
        {"store_size": False, "content_checksum": True, "block_checksum": True},
        {"block_size": 7, "block_linked": False},
    ],
)
def test_decompresses_every_kind_of_frame(tmp_path, cache, pieces, options):
    content = b"".join(bytes([n % 256]) * 40 + os.urandom(n % 100) for n in range(30_000))
    frame = lz4.frame.compress(content, **options)
    path = with_frame(tmp_path / "f.magnitude", frame, pieces=pieces)
    with keep_blob(LocalReader(str(path)), META) as file:
        assert file.path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"x"])
def test_keeps_a_file_of_hardly_any_bytes(tmp_path, cache, content):
    path = with_frame(tmp_path / "f.magnitude", lz4.frame.compress(content), pieces=1)
    with keep_blob(LocalReader(str(path)), META) as file:
        assert file.path.read_bytes() == content


def test_reads_the_table_of_an_approximate_index(tmp_path, cache):
    path = with_frame(tmp_path / "f.magnitude", b"")
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE magnitude_approx (trees INTEGER, index_file BLOB)")
    frame = lz4.frame.compress(content := os.urandom(100_000))
    for part in (frame[:70_000], frame[70_000:]):
        connection.execute("INSERT INTO magnitude_approx VALUES (50, ?)", (part,))
    connection.execute("UPDATE magnitude_format SET value = 1 WHERE key = 'approx'")
    connection.execute("UPDATE magnitude_format SET value = 50 WHERE key = 'approx_trees'")
    connection.close()
    reader = LocalReader(str(path))
    assert (reader.contents.format.approx, reader.contents.format.approx_trees) == (True, 50)
    assert reader.contents.format.max_duplicate_keys >= 1
    with keep_blob(reader, "magnitude_approx") as file:
        assert file.path.read_bytes() == content


@pytest.mark.parametrize(("key", "value"), [("approx_trees", -1), ("max_duplicate_keys", 2**60)])
def test_refuses_an_approximate_index_that_cannot_be(tmp_path, key, value):
    path = with_frame(tmp_path / "f.magnitude", b"")
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE magnitude_approx (trees INTEGER, index_file BLOB)")
    connection.execute("UPDATE magnitude_format SET value = 1 WHERE key LIKE 'approx%'")
    connection.execute(f"UPDATE magnitude_format SET value = {value} WHERE key = '{key}'")
    connection.close()
    with pytest.raises(FormatError, match=f"{key}={value}"):
        LocalReader(str(path))


def test_says_that_there_is_no_such_table(elmo, cache):
    with pytest.raises(FormatError, match="has no table magnitude_approx"):
        keep_blob(LocalReader(str(elmo)), "magnitude_approx")


def test_goes_on_where_the_server_failed(elmo, weights, tmp_path):
    content = elmo.read_bytes()
    with refusing(content, 40) as server:
        reader = open_remote(server.url, tmp_path)
        with pytest.raises(vfs.AccessError):
            keep_blob(reader, META)
        assert reader.stats.bytes > WINDOW + 2 * ONE_BLOCK
        first = reader.stats.bytes
        server.then = Ok()
        with keep_blob(reader, META) as file:
            assert file.path.read_bytes() == weights
        assert reader.stats.bytes - len(content) < WINDOW + ONE_BLOCK
        assert reader.stats.bytes - first < len(content) - ONE_BLOCK
        reader.close()
    assert not [name for name in kept(tmp_path) if "." in name]


def test_goes_on_where_a_killed_process_was(elmo, weights, tmp_path):
    class Killing(LoggingServer):
        child = None

        def observe(self, record):
            super().observe(record)
            if self.child is not None and len(self.log) == 40:
                self.child.kill()

    with Killing(elmo.parent) as server:
        url = server.url + elmo.name
        command = [sys.executable, "-c", CHILD, url, str(tmp_path)]
        server.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        server.child.communicate()
        assert server.child.returncode == -signal.SIGKILL
        assert any(name.endswith(".state") for name in kept(tmp_path))
        reader = open_remote(url, tmp_path)
        with keep_blob(reader, META) as file:
            assert file.path.read_bytes() == weights
        assert 0 < reader.stats.bytes < SIZE - ONE_BLOCK
        reader.close()


def test_starts_afresh_where_the_file_changed(elmo, tmp_path):
    with refusing(elmo.read_bytes(), 40) as server:
        reader = open_remote(server.url, tmp_path)
        with pytest.raises(vfs.AccessError):
            keep_blob(reader, META)
        reader.close()
        other = os.urandom(SIZE)
        path = with_frame(tmp_path / "other", lz4.frame.compress(other))
        server.content, server.etag, server.then = path.read_bytes(), '"v2"', Ok()
        reader = open_remote(server.url, tmp_path)
        with keep_blob(reader, META) as file:
            assert file.path.read_bytes() == other
        assert reader.stats.bytes > SIZE
        reader.close()


def test_a_file_that_changes_meanwhile_is_an_error(elmo, tmp_path):
    with refusing(elmo.read_bytes(), 20) as server:
        server.then = Status(412)
        reader = open_remote(server.url, tmp_path)
        with pytest.raises(vfs.FileChangedError):
            keep_blob(reader, META)
        reader.close()


def test_processes_fetch_a_blob_together(elmo, weights, tmp_path):
    with LoggingServer(elmo.parent) as server:
        command = [sys.executable, "-c", CHILD, server.url + elmo.name, str(tmp_path)]
        children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        paths = {child.communicate()[0].strip() for child in children}
        assert [child.returncode for child in children] == [0, 0, 0]
        asked = [asked_range(record) for record in server.log]
    assert len(paths) == 1
    assert Path(paths.pop()).read_bytes() == weights
    long = [one for one in asked if one[1] - one[0] > 200_000]
    assert len(long) == len(set(long)) > 40


PEAK = """
import re, sys
from pathlib import Path
from streamfile.readers.kept_blobs import keep_blob
from streamfile.readers.remote import RemoteReader

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

reader = RemoteReader(sys.argv[1], cache_dir=sys.argv[2], cache_size=128 << 20)
keep_blob(reader, "magnitude_meta_2").close()
before = peak()
keep_blob(reader, "magnitude_meta_1").close()
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_a_blob(tmp_path):
    size = 96 << 20
    path = tmp_path / "f.magnitude"
    meta = os.urandom(size), b"{}"
    write_magnitude(path, ["a"], random_vectors(1, 12, 1), elmo=True, meta=meta)
    with LoggingServer(tmp_path) as server:
        command = [sys.executable, "-c", PEAK, server.url + path.name, str(tmp_path / "cache")]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    assert int(told.stdout) < size // 2


def test_an_interrupt_leaves_all_usable(elmo, weights, tmp_path, ctrl_c):
    class Interrupting(LoggingServer):
        after = None

        def observe(self, record):
            super().observe(record)
            if len(self.log) == self.after:
                _thread.interrupt_main()

    with Interrupting(elmo.parent) as server:
        reader = open_remote(server.url + elmo.name, tmp_path)
        server.after = 30
        with pytest.raises(KeyboardInterrupt):
            keep_blob(reader, META)
        key = random_words(10_000, 1)[0]
        assert reader.find([key], case_insensitive=False) == {key: 1}
        before = reader.stats.bytes
        with keep_blob(reader, META) as file:
            assert file.path.read_bytes() == weights
        assert reader.stats.bytes - before < SIZE
        reader.close()


@pytest.mark.parametrize(("name", "spent"), [("max_bytes", "bytes"), ("max_requests", "requests")])
def test_a_budget_refuses_before_anything_of_a_blob_is_fetched(
    elmo, weights, tmp_path, name, spent
):
    with LoggingServer(elmo.parent) as server:
        reader = open_remote(server.url + elmo.name, tmp_path)
        limit = {"max_bytes": 10_000_000, "max_requests": 20}[name]
        setattr(reader.budget, name, limit)
        before = reader.stats.requests
        with pytest.raises(vfs.BudgetError, match=name):
            keep_blob(reader, META)
        assert reader.stats.requests - before <= 1
        assert not kept(tmp_path)
        setattr(reader.budget, name, None)
        with keep_blob(reader, META) as file:
            assert file.path.read_bytes() == weights
        assert getattr(reader.stats, spent) > limit
        reader.close()


def test_says_what_it_needs_where_nothing_can_be_kept(elmo, tmp_path):
    stored = f"{len(lz4.frame.compress(b'{}')):,}"
    with LoggingServer(elmo.parent) as server:
        with pytest.raises(vfs.CacheSpaceError, match=f"{stored} bytes .* no disk cache"):
            keep_blob(RemoteReader(server.url + elmo.name, cache_size=0), "magnitude_meta_2")
        small = RemoteReader(server.url + elmo.name, cache_dir=tmp_path, cache_size=8 << 20)
        before = small.stats.bytes
        with pytest.raises(vfs.CacheSpaceError, match="does not fit"):
            keep_blob(small, META)
        assert small.stats.bytes - before < 150_000
        assert not kept(tmp_path)
        small.close()
    anonymous = Headers(ETag=None, Last_Modified=None)
    with ScriptedServer(elmo.read_bytes(), then=anonymous, etag=None) as server:
        reader = open_remote(server.url, tmp_path)
        with pytest.raises(vfs.CacheSpaceError, match="tells no version"):
            keep_blob(reader, META)
        reader.close()


def test_says_what_a_frame_expands_to(tmp_path):
    """As far as its header tells."""
    content = os.urandom(1000) * 3000
    told = lz4.frame.compress(content)
    with_frame(tmp_path / "told", told)
    with_frame(tmp_path / "silent", lz4.frame.compress(content, store_size=False))
    with LoggingServer(tmp_path) as server:
        own = {"cache_dir": tmp_path / "cache", "cache_size": 1 << 20}
        reader = RemoteReader(server.url + "told", **own)
        assert blob_size(reader, META) == len(content)
        with pytest.raises(vfs.CacheSpaceError, match="needs 3,035,136 bytes"):  # whole blocks
            keep_blob(reader, META)
        reader.close()
        reader = RemoteReader(server.url + "silent", **own)
        assert blob_size(reader, META) == len(told) - 8
        reader.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame[:-4], "cut off"),
        (lambda frame: b"", "cut off"),
        (lambda frame: frame + b"\0", "further bytes"),
        (lambda frame: b"HDF" + frame, "no LZ4 frame"),
        (lambda frame: frame[:-2] + b"\0\0", "content has a wrong checksum"),
        (lambda frame: frame[:3000] + b"\0\0\0" + frame[3003:], "wrong checksum"),
    ],
)
def test_refuses_a_damaged_frame_and_keeps_nothing(tmp_path, monkeypatch, cache, change, message):
    monkeypatch.setattr("streamfile.readers.kept_blobs.SAVE_AFTER", 100_000)
    frame = lz4.frame.compress(os.urandom(900_000), content_checksum=True, block_checksum=True)
    path = with_frame(tmp_path / "f.magnitude", change(frame))
    for _ in range(2):
        with pytest.raises(FormatError, match=message):
            keep_blob(LocalReader(str(path)), META)
        assert not kept(cache)


def test_refuses_a_blob_that_the_file_cannot_hold_before_room_is_made(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("STREAMFILE_CACHE_SIZE", str(1 << 20))
    path = with_frame(tmp_path / "f.magnitude", os.urandom(300_000), pieces=1)
    content = path.read_bytes()

    def record(size):
        """Give the beginning of the row: the payload's length, the row id, the header."""
        kind = b"\x04" + three_bytes(2 * size + 12)
        return three_bytes(size + len(kind)) + b"\x01" + kind

    assert content.count(record(300_000)) == 1
    path.write_bytes(content.replace(record(300_000), record(1_040_000)))
    with pytest.raises(vfs.DatabaseError, match="blobs of 1,040,000 bytes in a file of"):
        keep_blob(LocalReader(str(path)), META)


def three_bytes(number):
    """Write a number as a varint of three bytes."""
    return bytes([number >> 14 | 0x80, number >> 7 & 0x7F | 0x80, number & 0x7F])


def test_a_frame_that_expands_without_end_is_stopped(tmp_path, cache):
    frame = lz4.frame.compress(bytes(100 << 20), store_size=False)
    path = with_frame(tmp_path / "f.magnitude", frame)
    with pytest.raises(FormatError, match="expands beyond"):
        keep_blob(LocalReader(str(path)), META)
    assert not kept(cache)


def test_a_file_that_expands_beyond_the_cap_is_stopped(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("STREAMFILE_CACHE_SIZE", str(16 << 20))
    for store in (True, False):
        frame = lz4.frame.compress(os.urandom(2 << 20) * 12, block_size=7, store_size=store)
        path = with_frame(tmp_path / f"{store}.magnitude", frame)
        with pytest.raises(vfs.CacheSpaceError, match="does not fit"):
            keep_blob(LocalReader(str(path)), META)
        assert not kept(cache)


def test_goes_on_from_any_saved_state(tmp_path, cache, monkeypatch):
    """Break off again and again, inside of blocks that refer back, with a checksum of all."""
    monkeypatch.setattr("vfs.btree.read_ahead.PIECE", 20_000)  # several pieces make a block
    content = os.urandom(400_000) + bytes(100_000) + os.urandom(50_000) * 3
    frame = lz4.frame.compress(content, content_checksum=True, store_size=False)
    path = with_frame(tmp_path / "f.magnitude", frame, pieces=3)
    write = _Copy._write

    def breaking(self, blocks):
        self.calls = getattr(self, "calls", 0) + 1
        write(self, blocks)
        if self.calls == 9:
            raise ConnectionError

    monkeypatch.setattr(_Copy, "_write", breaking)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            keep_blob(LocalReader(str(path)), META)
    for _ in range(10):
        with suppress(ConnectionError), keep_blob(LocalReader(str(path)), META) as file:
            assert file.path.read_bytes() == content
            return
    pytest.fail("it did not come to an end")


def test_goes_on_from_an_interrupt_behind_the_last_byte(tmp_path, cache, monkeypatch):
    path = with_frame(tmp_path / "f.magnitude", lz4.frame.compress(b"content"), pieces=1)
    write = _Copy._write

    def breaking(self, blocks):
        write(self, blocks)
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(_Copy, "_write", breaking)
        with pytest.raises(ConnectionError):
            keep_blob(LocalReader(str(path)), META)
    assert [Path(name).suffix for name in kept(cache)] == [".part", ".state"]
    with keep_blob(LocalReader(str(path)), META) as file:
        assert file.path.read_bytes() == b"content"


def test_a_state_of_another_release_is_not_believed(tmp_path, cache):
    path = with_frame(tmp_path / "f.magnitude", lz4.frame.compress(b"content" * 1000))
    reader = LocalReader(str(path))
    files, name = reader.kept(META)

    def other(part):
        part.save(b'[0, "elsewhere"]')
        raise ConnectionError

    with pytest.raises(ConnectionError):
        files.make(name, 5000, other)
    assert len(kept(cache)) == 2
    with keep_blob(reader, META) as file:
        assert file.path.read_bytes() == b"content" * 1000
