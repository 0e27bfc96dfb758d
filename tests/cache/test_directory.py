"""Trust in the cache directory: what others could have put there is not used, and not touched."""

import contextlib
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import platformdirs
import pytest
from cached_blocks import SEED, blocks, content
from needed import allowed, small_disk
from scripted_server import ScriptedServer

import vfs
from vfs.cache import directory
from vfs.cache.blocks import BlockCache
from vfs.cache.directory import default_kept_files
from vfs.cache.disk import SET, DiskStore
from vfs.cache.kept_files import KeptFiles
from vfs.options import Options

NAME = bytes(16)
OTHER = 65534  # a user who is not this one
VICTIM = b"precious " * 1000

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no owners here")
as_root = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away"
)


@pytest.fixture
def cached(tmp_path):
    path = tmp_path / "cached"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def second(tmp_path, monkeypatch, cached):
    """Have two default directories, of which this is the second."""
    monkeypatch.delenv("STREAMFILE_CACHE_DIR", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: str(cached))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(directory.tempfile, "gettempdir", lambda: str(temporary))
    return temporary / f"streamfile-{os.getuid()}"


def opened(path=None):
    return BlockCache(Options(cache_dir=path, cache_size=4 * SET))


def refuse(cached, match=None):
    """Expect that a named directory is an error, in all ways that lead to it."""
    with pytest.raises(vfs.CacheDirectoryError, match=match) as caught:
        opened(cached)
    for part in (repr(str(cached)), "cache_dir", "STREAMFILE_CACHE_DIR", "cache_size=0"):
        assert part in str(caught.value)


def skip(second, caplog):
    """Expect that a default directory is skipped, and that the next one works."""
    cache = opened()
    assert cache.disk._path.parent == second
    assert second.stat().st_mode & 0o777 == 0o700
    cache.put(SEED, {1: content(1)}, on_disk=True)
    cache.close()
    cache = opened()
    assert cache.get(SEED, [1], on_disk=True) == {1: content(1)}
    cache.close()
    assert caplog.records == []


# What lies in the place of the store, of its lock and of the folder of files.


def link_to_file(path):
    victim = path.parent.parent / "victim"
    victim.write_bytes(VICTIM)
    path.symlink_to(victim)


def link_to_directory(path):
    victim = path.parent.parent / "victim"
    victim.mkdir()
    (victim / NAME.hex()).write_bytes(VICTIM)
    path.symlink_to(victim)


def hard_link(path):
    victim = path.parent.parent / "victim"
    victim.write_bytes(VICTIM)
    path.hardlink_to(victim)


def bound(path):
    with contextlib.chdir(path.parent) if hasattr(contextlib, "chdir") else pytest.skip("3.11"):
        socket.socket(socket.AF_UNIX).bind(path.name)


def device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root can make devices, where that is allowed")


def of_another(path):
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    path.touch(mode=0o600)
    os.chown(path, OTHER, OTHER)


def writable(path):
    path.write_bytes(b"")
    path.chmod(0o666)


PLACED = {
    "a link to a file": link_to_file,
    "a link to a directory": link_to_directory,
    "a link to nothing": lambda path: path.symlink_to(path.parent.parent / "victim"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a hard link": hard_link,
    "a pipe": os.mkfifo,
    "a socket": bound,
    "a device": device,
    "of another user": of_another,
    "writable by others": writable,
}


@pytest.fixture(params=PLACED)
def placed(request):
    return PLACED[request.param]


@pytest.fixture(params=["blocks.v1", "blocks.lock", "files"])
def misplaced(request, placed, cached):
    """Put something in the place of a file or a folder of the cache."""
    placed(cached / request.param)
    yield cached / request.param
    victim = cached.parent / "victim"
    if placed in (link_to_file, hard_link):
        assert victim.read_bytes() == VICTIM
    elif placed is link_to_directory:
        assert [path.read_bytes() for path in victim.iterdir()] == [VICTIM]
    else:
        assert not victim.exists()


def test_what_is_misplaced_in_a_named_directory_is_an_error(cached, misplaced):
    refuse(cached)


def test_a_default_directory_with_what_is_misplaced_is_skipped(misplaced, second, caplog):
    skip(second, caplog)


def test_a_file_is_read_from_the_server_where_the_store_leads_elsewhere(cached, second):
    link_to_file(cached / "blocks.v1")
    whole = bytes(range(256)) * 2000
    with ScriptedServer(whole) as server:
        for _ in range(2):
            with vfs.open(server.url) as file:
                assert file.read(300_000, 1000) == whole[300_000:301_000]
    assert (cached.parent / "victim").read_bytes() == VICTIM


@pytest.mark.parametrize("name", ["blocks.v1", "blocks.lock"])
def test_a_directory_in_the_place_of_a_file(cached, second, caplog, name):
    (cached / name).mkdir()
    refuse(cached, "Is a directory")
    skip(second, caplog)


@pytest.mark.parametrize("place", [link_to_directory, writable, os.mkfifo, hard_link])
def test_kept_files_are_not_kept_behind_a_link(cached, place):
    """Local files are searched without a block store, and so without its checks."""
    place(cached / "files")
    files = KeptFiles(cached, 64 * SET)
    assert files.get(NAME) is None
    with pytest.raises(vfs.CacheDirectoryError, match="files"):
        files.make(NAME, 10, lambda part: os.write(part.file, b"0123456789"))
    if place is link_to_directory:
        assert (cached.parent / "victim" / NAME.hex()).read_bytes() == VICTIM
        (cached / "files").unlink()
        files.make(NAME, 10, lambda part: os.write(part.file, b"0123456789")).close()
        assert (cached / "files" / NAME.hex()).read_bytes() == b"0123456789"


@pytest.mark.parametrize("place", [link_to_file, hard_link])
@pytest.mark.parametrize("name", ["blocks.v1", "blocks.lock"])
def test_a_kept_file_makes_room_in_no_other_file(cached, place, name):
    place(cached / name)
    files = KeptFiles(cached, 4 * SET)
    with pytest.raises(OSError, match=name):
        files.make(NAME, 2 * SET, lambda part: None)
    assert (cached.parent / "victim").read_bytes() == VICTIM


# The directory itself.


@as_root
def test_a_directory_of_another_user(cached, second, caplog, monkeypatch):
    os.chown(cached, OTHER, OTHER)
    refuse(cached, f"belongs to another user .number {OTHER}.*chown it")
    skip(second, caplog)
    assert default_kept_files()._directory == second
    assert list(cached.iterdir()) == []
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(cached))
    with pytest.raises(vfs.CacheDirectoryError, match="belongs to another user"):
        opened()
    with pytest.raises(vfs.CacheDirectoryError, match="belongs to another user"):
        default_kept_files()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777, 0o720, 0o702, 0o2775])
def test_a_directory_that_others_may_write(cached, second, caplog, monkeypatch, mode):
    cached.chmod(mode)
    refuse(cached, f"mode {mode:o}.*chmod 700.*{cached / 'streamfile'}")
    skip(second, caplog)
    assert default_kept_files()._directory == second
    assert list(cached.iterdir()) == []
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(cached))
    with pytest.raises(vfs.CacheDirectoryError, match="chmod 700"):
        default_kept_files()


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_what_the_message_proposes_works(cached, mode):
    cached.chmod(mode)
    inside = cached / "streamfile"
    opened(inside).close()
    assert inside.stat().st_mode & 0o777 == 0o700
    cached.chmod(0o700)
    opened(cached).close()


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o2755])
def test_a_directory_that_others_may_only_read(cached, mode):
    cached.chmod(mode)
    opened(cached).close()
    assert {path.stat().st_mode & 0o777 for path in cached.iterdir()} == {0o600}


def test_a_link_of_this_user_to_a_directory(tmp_path, cached, second, caplog):
    link = tmp_path / "link"
    link.symlink_to(cached)
    cache = opened(link)
    cache.put(SEED, {1: content(1)}, on_disk=True)
    cache.close()
    assert (cached / "blocks.v1").is_file()


@as_root
def test_a_link_of_another_user_to_a_directory(tmp_path, cached):
    link = tmp_path / "link"
    link.symlink_to(cached)
    os.chown(link, OTHER, OTHER, follow_symlinks=False)
    refuse(link, "a symbolic link that another user made")
    assert list(cached.iterdir()) == []


@pytest.mark.parametrize("umask", [0, 0o002, 0o077, 0o277, 0o777])
def test_what_is_created_is_for_this_user_alone_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        for _ in range(2):
            cache = opened(tmp_path / "a" / "b" / "c")
            cache.put(SEED, {1: content(1)}, on_disk=True)
            cache.kept.make(NAME, 10, lambda part: os.write(part.file, b"0123456789")).close()
            cache.close()
    finally:
        os.umask(before)
    for folder in ("a", "a/b", "a/b/c", "a/b/c/files"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700
    for file in ("blocks.v1", "blocks.lock"):
        assert (tmp_path / "a/b/c" / file).stat().st_mode & 0o777 == 0o600


def test_a_relative_directory_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = opened("cache")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    cache.renew()  # as in a forked process
    cache.kept.make(NAME, 10, lambda part: os.write(part.file, b"0123456789")).close()
    cache.close()
    assert (tmp_path / "cache" / "files" / NAME.hex()).is_file()
    assert list((tmp_path / "elsewhere").iterdir()) == []


# Paths that lead nowhere.


def loop(path):
    path.symlink_to(path)
    return path / "cache"


def below_a_file(path):
    path.write_bytes(b"")
    return path / "cache"


def long_name(path):
    return path / ("x" * 300)


def long_path(path):
    return path.joinpath(*["x" * 200] * 30)


def with_nul(path):
    return path.parent / "a\0b"


NOWHERE = [loop, below_a_file, long_name, long_path, with_nul]


@pytest.mark.parametrize("make", NOWHERE)
def test_a_named_path_that_leads_nowhere_is_an_error(tmp_path, make):
    path = make(tmp_path / "there")
    with pytest.raises(vfs.CacheDirectoryError, match="cannot be used"):
        opened(path)
    with pytest.raises(vfs.CacheDirectoryError), vfs.open("http://127.0.0.1:9/x", cache_dir=path):
        pass


@pytest.mark.parametrize("make", NOWHERE)
def test_a_default_path_that_leads_nowhere_is_skipped(tmp_path, monkeypatch, second, caplog, make):
    path = make(tmp_path / "there")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: str(path))
    skip(second, caplog)
    found = default_kept_files()
    assert found is None or found._directory == second


@pytest.mark.parametrize("make", [loop, below_a_file, long_name, long_path])
def test_local_files_need_no_directory(tmp_path, monkeypatch, make):
    path = make(tmp_path / "there")
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(path))
    with pytest.raises(vfs.CacheDirectoryError):
        default_kept_files().make(NAME, 10, lambda part: None)


def test_without_a_temporary_directory_there_is_memory(monkeypatch, second, cached, caplog):
    def missing():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(directory.tempfile, "gettempdir", missing)
    cached.chmod(0o777)
    cache = opened()
    assert cache.disk is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "memory only" in caplog.text
    cache.put(SEED, {1: content(1)}, on_disk=True)
    assert cache.get(SEED, [1], on_disk=True) == {1: content(1)}
    assert default_kept_files() is None


def test_a_read_only_file_system(cached, second, caplog):
    with small_disk(cached, 1 << 20):
        allowed(["mount", "-o", "remount,ro", str(cached)])
        refuse(cached, "Read-only file system")
        skip(second, caplog)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ENOLCK])
@pytest.mark.parametrize("function", ["open", "ftruncate", "mkdir"])
def test_a_disk_that_fails_while_a_directory_is_opened(
    cached, second, caplog, monkeypatch, function, number
):
    right = getattr(os, function)

    def failing(path, *arguments, **options):
        name = Path(f"/proc/self/fd/{path}").readlink() if isinstance(path, int) else path
        if str(cached) in str(name):
            raise OSError(number, os.strerror(number))
        return right(path, *arguments, **options)

    if function == "mkdir":
        cached.rmdir()
    monkeypatch.setattr(os, function, failing)
    refuse(cached, os.strerror(number))
    skip(second, caplog)


# A process that holds the lock, and is stopped.

HOLDER = """
import fcntl, os, signal, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(file, int(sys.argv[2]))
print("held", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


@contextlib.contextmanager
def holding(path, kind):
    """Have a stopped process that holds a lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(int(kind))], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


LONG = 20.0  # seconds; waiting for the lock has no end


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_a_stopped_process_does_not_stop_others(cached, caplog, kind):
    fcntl = pytest.importorskip("fcntl")
    store = opened(cached)
    store.put(SEED, {1: content(1)}, on_disk=True)
    exclusive = kind == "exclusive"
    with holding(cached / "blocks.lock", fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH):
        began = time.monotonic()
        cache = opened(cached)
        assert cache.get(SEED, [1], on_disk=True) == {1: content(1)}
        for number in range(2, 30):
            for each in (cache, store):
                each.put(SEED, {number: content(number)}, on_disk=True)
                assert each.get(SEED, [number], on_disk=True) == {number: content(number)}
        assert time.monotonic() - began < LONG
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == (2 if exclusive else 0)  # once for each store
        assert all("stopped" in message and "blocks.lock" in message for message in told)
        cache.close()
    for each in (store, opened(cached)):
        each.put(SEED, {100: content(100)}, on_disk=True)
        assert each.disk.get(blocks([100])) == blocks([100])  # written again
        assert each.disk.get(blocks([20])) == ({} if exclusive else blocks([20]))
        each.close()


@pytest.mark.parametrize("before", [None, 8], ids=["no store", "a larger store"])
def test_a_store_that_cannot_be_made_for_the_lock_is_done_without(cached, caplog, before):
    fcntl = pytest.importorskip("fcntl")
    if before:
        DiskStore(cached, before * SET).close()
    with holding(cached / "blocks.lock", fcntl.LOCK_EX):
        began = time.monotonic()
        cache = opened(cached)
        assert time.monotonic() - began < LONG
        assert cache.disk is None
        assert len(caplog.records) == 1
        assert "memory only" in caplog.text
        cache.put(SEED, {1: content(1)}, on_disk=True)
        assert cache.get(SEED, [1], on_disk=True) == {1: content(1)}
        cache.close()


def test_a_call_ends_by_its_deadline_beside_a_stopped_process(cached):
    fcntl = pytest.importorskip("fcntl")
    whole = bytes(range(256)) * 4000
    options = {"cache_dir": cached, "cache_size": 8 << 20, "deadline": 5}
    with ScriptedServer(whole) as server, holding(cached / "blocks.lock", fcntl.LOCK_EX):
        began = time.monotonic()
        with vfs.open(server.url, **options) as file:
            for at in range(150_000, 1_000_000, 50_000):
                assert file.read(at, 10) == whole[at : at + 10]
        assert time.monotonic() - began < LONG


# A store that changes while it is open.


@pytest.mark.parametrize("length", [0, 1, 4095, SET - 1, SET + 4097, 3 * SET + 5])
def test_a_store_that_another_process_cuts_off_gives_misses(cached, caplog, length):
    cache = BlockCache(Options(cache_dir=cached, cache_size=4 * SET, memory_size=0))
    numbers = range(100)
    cache.put(SEED, {number: content(number) for number in numbers}, on_disk=True)
    os.truncate(cached / "blocks.v1", length)
    for _ in range(2):
        found = cache.get(SEED, numbers, on_disk=True)
        assert found.items() <= {number: content(number) for number in numbers}.items()
        assert len(found) < 100
    cache.put(SEED, {7: content(7)}, on_disk=True)
    assert cache.get(SEED, [7], on_disk=True) == {7: content(7)}
    assert caplog.records == []
    cache.close()


def test_a_store_that_is_deleted_while_it_is_open_still_answers(cached):
    cache = opened(cached)
    cache.put(SEED, {1: content(1)}, on_disk=True)
    for path in cached.iterdir():
        path.unlink()
    assert cache.disk.get(blocks([1])) == blocks([1])
    other = opened(cached)
    assert other.disk.get(blocks([1])) == {}
    other.close()
    cache.close()
