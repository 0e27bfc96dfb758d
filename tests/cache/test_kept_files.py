import contextlib
import errno
import gc
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import platformdirs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from needed import small_disk

import vfs
from streamfile.web.range_server import RangeServer
from vfs.cache import directory, disk
from vfs.cache.blocks import BlockCache
from vfs.cache.directory import default_kept_files
from vfs.cache.disk import BLOCK, SET, DiskStore
from vfs.cache.kept_files import KeptFiles
from vfs.cache.room import STATES, cap_for
from vfs.identity import local_name
from vfs.options import MIB, Options

pytestmark = pytest.mark.skipif(not disk.SUPPORTED, reason="no file locks")

HERE = Path(__file__).parent
CAP = 40 * SET


def name(number):
    return hashlib.blake2b(bytes([number]), digest_size=16).digest()


def body(number, size):
    return random.Random(number).randbytes(size)


def writes(data, log=None):
    """Give a writer that reserves too little at first, too much then, and at last what it needs."""

    def write(part):
        if log is not None:
            log.append(part.state)
        part.reserve(len(data) + 100)
        os.pwrite(part.file, data, 0)
        part.reserve(len(data))

    return write


def never(part):
    raise AssertionError("written again")


def keep(files, number, size=SET):
    files.make(name(number), 0, writes(body(number, size))).close()


def names(directory):
    folder = directory / "files"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def kept(directory):
    return {number for number in range(100) if name(number).hex() in names(directory)}


def total(directory):
    """Sum the files under a directory at one moment: two looks that see the same."""
    seen = None
    while True:
        looked = []
        for folder, _, files in os.walk(directory):
            for file in sorted(files):
                with contextlib.suppress(FileNotFoundError):
                    facts = os.stat(os.path.join(folder, file))  # noqa: PTH116, PTH118
                    looked.append((file, facts.st_ino, facts.st_size, facts.st_blocks * 512))
        if looked == seen:
            return max(sum(size for _, _, size, _ in seen), sum(size for *_, size in seen))
        seen = looked


def start(code, *arguments):
    """Run Python with this module's names."""
    places = [str(HERE), str(HERE.parent / "support")]
    names = f"import sys; sys.path[:0] = {places!r}; from test_kept_files import *\n"
    return subprocess.Popen(
        [sys.executable, "-c", names + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=HERE.parents[1],
    )


def ended(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out.split()


@pytest.fixture
def files(tmp_path):
    return KeptFiles(tmp_path, CAP)


def test_a_file_is_written_once_and_opened_from_then_on(tmp_path, files):
    data = body(1, 3 * BLOCK + 5)
    assert files.get(name(1)) is None
    assert names(tmp_path) == set()
    with files.make(name(1), BLOCK, writes(data)) as made:
        assert made.path.read_bytes() == data
        assert names(tmp_path) == {name(1).hex()}
        files.make(name(1), 0, never).close()  # beside the one who made it
    for opened in (files.make(name(1), 0, never), KeptFiles(tmp_path, CAP).get(name(1))):
        assert opened.path.read_bytes() == data
        opened.close()
        opened.close()
    assert files.get(name(2)) is None


def test_an_empty_file_can_be_kept(files):
    files.make(name(1), 0, lambda part: None).close()
    with files.make(name(1), 0, never) as made:
        assert made.path.stat().st_size == 0


def test_a_part_has_the_size_that_is_reserved_and_zeros(files):
    def write(part):
        assert part.size == part.path.stat().st_size == 100
        part.reserve(3 * SET)
        assert part.size == part.path.stat().st_size == 3 * SET
        assert os.pread(part.file, 4 * SET, 0) == bytes(3 * SET)
        os.pwrite(part.file, b"end", 50)
        part.reserve(53)

    with files.make(name(1), 100, write) as made:
        assert made.path.read_bytes() == bytes(50) + b"end"


def test_a_writer_that_leaves_another_length_than_it_reserved_is_refused(tmp_path, files):
    with pytest.raises(ValueError, match="11 bytes were written where 10 were reserved"):
        files.make(name(1), 10, lambda part: os.pwrite(part.file, bytes(11), 0))
    assert names(tmp_path) == set()


MAKER = """
def write(part):
    print("wrote", flush=True)
    time.sleep(0.3)
    writes(body(1, 100_000))(part)
print("ready", flush=True)
sys.stdin.readline()
with KeptFiles(Path(sys.argv[1]), CAP).make(name(1), 10, write) as made:
    assert made.path.read_bytes() == body(1, 100_000)
"""


def test_processes_that_want_the_same_file_write_it_once(tmp_path):
    makers = [start(MAKER, tmp_path) for _ in range(4)]
    for maker in makers:
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        maker.stdin.write("\n")
        maker.stdin.flush()
    assert [line for maker in makers for line in ended(maker)] == ["wrote"]
    assert names(tmp_path) == {name(1).hex()}


def test_threads_that_want_the_same_file_write_it_once(files):
    log, found = [], []

    def make():
        with files.make(name(1), 0, writes(body(1, 50_000), log)) as made:
            found.append(made.path.read_bytes())

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log == [b""]
    assert found == [body(1, 50_000)] * 6


HALF = """
def write(part):
    part.reserve(200_000)
    os.pwrite(part.file, body(1, 100_000), 0)
    if sys.argv[2]:
        part.save(b"older")
        part.save(sys.argv[2].encode())
    print("half", flush=True)
    sys.stdin.read()  # until it is killed
KeptFiles(Path(sys.argv[1]), CAP).make(name(1), 100_000, write)
"""


def half_written(directory, state):
    """Kill a process that has written half a file."""
    process = start(HALF, directory, state)
    assert process.stdout.readline() == "half\n", process.stderr.read()
    process.kill()
    process.communicate()


def test_a_killed_writers_state_is_taken_up(tmp_path, files):
    half_written(tmp_path, "100000")
    assert names(tmp_path) == {f"{name(1).hex()}.part", f"{name(1).hex()}.state"}
    assert files.get(name(1)) is None

    def write(part):
        assert part.state == b"100000"
        assert part.size == 200_000
        assert os.pread(part.file, 200_000, 0) == body(1, 100_000) + bytes(100_000)
        os.pwrite(part.file, b"rest", 100_000)
        part.reserve(100_004)

    with files.make(name(1), 50, write) as made:
        assert made.path.read_bytes() == body(1, 100_000) + b"rest"
    assert names(tmp_path) == {name(1).hex()}


def test_a_killed_writer_without_a_state_leaves_nothing_to_the_next(tmp_path, files):
    half_written(tmp_path, "")

    def write(part):
        assert (part.state, part.size) == (b"", 10)
        part.reserve(1000)
        assert os.pread(part.file, 2000, 0) == bytes(1000)

    files.make(name(1), 10, write).close()


@pytest.mark.parametrize("damage", [b"", b"100000", bytes(16), bytes(16) + b"100000"])
def test_a_damaged_state_is_none(tmp_path, files, damage):
    half_written(tmp_path, "100000")
    (tmp_path / "files" / f"{name(1).hex()}.state").write_bytes(damage)
    log = []
    files.make(name(1), 10, writes(b"", log)).close()
    assert log == [b""]


def test_a_state_is_of_no_use_to_another_part(tmp_path, files):
    half_written(tmp_path, "100000")
    folder, part = tmp_path / "files", f"{name(1).hex()}.part"
    state = (folder / f"{name(1).hex()}.state").read_bytes()

    def write(part):
        assert part.state == b""
        part.reserve(1000)
        raise KeyboardInterrupt

    (folder / part).unlink()
    with pytest.raises(KeyboardInterrupt):
        files.make(name(1), 0, write)
    assert names(tmp_path) == set()
    (folder / f"{name(1).hex()}.state").write_bytes(state)
    half_written(tmp_path, "")
    log = []
    files.make(name(1), 10, writes(b"", log)).close()
    assert log == [b""]


def test_to_begin_anew_forgets_the_state(tmp_path, files):
    half_written(tmp_path, "100000")

    def write(part):
        assert part.state == b"100000"
        part.reserve(0)
        part.reserve(200_000)
        assert part.state == b""
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.make(name(1), 0, write)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("failure", [ValueError("x"), vfs.ConnectError("y"), KeyboardInterrupt()])
def test_where_writing_fails_only_what_has_a_state_stays(tmp_path, files, failure):
    def write(part):
        if part.state == b"":
            os.pwrite(part.file, b"abc", 0)
        raise failure

    def write_and_save(part):
        os.pwrite(part.file, b"abc", 0)
        part.save(b"3")
        raise failure

    with pytest.raises(type(failure)) as caught:
        files.make(name(1), 100, write)
    assert caught.value is failure
    assert names(tmp_path) == set()
    with pytest.raises(type(failure)):
        files.make(name(1), 100, write_and_save)
    with pytest.raises(type(failure)):
        files.make(name(1), 100, write)
    log = []
    with files.make(name(1), 100, log.append) as made:
        assert made.path.read_bytes() == b"abc" + bytes(97)
    assert log[0].state == b"3"
    assert names(tmp_path) == {name(1).hex()}


def test_a_state_has_a_most_length(files):
    def write(part):
        part.save(bytes(16_344))
        for state in (b"", bytes(16_345)):
            with pytest.raises(ValueError, match="expected 1 to 16,344"):
                part.save(state)
        assert sum(path.stat().st_size for path in part.path.parent.glob("*.state")) == 16_384

    files.make(name(1), 0, write).close()


def test_who_waits_takes_over_from_a_killed_writer(tmp_path):
    first = start(HALF, tmp_path, "100000")
    assert first.stdout.readline() == "half\n"
    second = start(
        "print('go', flush=True)\n"
        "KeptFiles(Path(sys.argv[1]), CAP).make(name(1), 0, lambda part: print(part.state))",
        tmp_path,
    )
    assert second.stdout.readline() == "go\n"
    time.sleep(0.2)
    assert second.poll() is None
    first.kill()
    first.communicate()
    assert ended(second) == ["b'100000'"]


# Space.


def test_too_large_a_file_is_refused_with_the_numbers_and_evicts_nothing(tmp_path, files):
    keep(files, 1)
    with pytest.raises(vfs.CacheSpaceError) as caught:
        files.make(name(2), CAP, never)
    message = str(caught.value)
    for part in (f"{CAP + STATES:,}", f"cap of {CAP:,}", f"{CAP - SET:,} are free", "cache_size"):
        assert part in message
    assert "STREAMFILE_CACHE_SIZE" in message
    assert kept(tmp_path) == {1}
    assert names(tmp_path) == {name(1).hex()}

    def grow(part):
        part.save(b"x")
        part.reserve(CAP)

    with pytest.raises(vfs.CacheSpaceError):
        files.make(name(2), SET, grow)
    assert names(tmp_path) == {name(1).hex()}


def test_a_file_of_all_the_room_fits_and_a_byte_more_does_not(tmp_path, files):
    most = CAP - SET - STATES
    with pytest.raises(vfs.CacheSpaceError):
        files.make(name(1), most + 1, never)
    files.make(name(1), most, lambda part: None).close()
    assert kept(tmp_path) == {1}


def test_the_states_of_another_part_have_their_room(files):
    left = CAP - SET - 20 * SET - STATES

    def write(part):
        part.reserve(20 * SET)
        with pytest.raises(vfs.CacheSpaceError):
            files.make(name(2), left - STATES + 1, never)
        files.make(name(2), left - STATES, lambda part: None).close()

    files.make(name(1), 0, write).close()


def test_the_least_recently_used_is_evicted_first(tmp_path, files):
    for number in range(6):
        keep(files, number, 6 * SET)
    assert kept(tmp_path) == set(range(6))
    files.get(name(0)).close()
    keep(files, 6, 6 * SET)
    assert kept(tmp_path) == {0, 2, 3, 4, 5, 6}
    files.make(name(2), 0, never).close()
    keep(files, 7, 12 * SET)
    assert kept(tmp_path) == {0, 2, 5, 6, 7}


def test_an_open_file_is_not_evicted(tmp_path, files):
    for number in range(3):
        keep(files, number, 12 * SET)
    opened = files.get(name(0))
    keep(files, 3, 12 * SET)
    assert kept(tmp_path) == {0, 2, 3}
    others = [files.get(name(2)), files.get(name(3))]
    with pytest.raises(vfs.CacheSpaceError, match="close other files"):
        keep(files, 4, 12 * SET)
    others.pop().close()
    keep(files, 4, 12 * SET)
    assert kept(tmp_path) == {0, 2, 4}
    assert opened.path.read_bytes() == body(0, 12 * SET)
    del opened, others
    gc.collect()
    keep(files, 5, 36 * SET)
    assert kept(tmp_path) == {5}


def test_a_file_just_made_is_held(tmp_path, files):
    made = files.make(name(1), 20 * SET, lambda part: None)
    with pytest.raises(vfs.CacheSpaceError):
        keep(files, 2, 30 * SET)
    made.close()
    keep(files, 2, 30 * SET)
    assert kept(tmp_path) == {2}


def test_a_part_that_nobody_writes_goes_before_finished_files(tmp_path, files):
    keep(files, 0, 20 * SET)
    half_written(tmp_path, "x")
    keep(files, 2, 10 * SET)
    assert f"{name(1).hex()}.part" in names(tmp_path)
    keep(files, 3, 9 * SET - 2 * STATES)
    assert names(tmp_path) == {name(number).hex() for number in (0, 2, 3)}


def test_a_part_that_nobody_writes_goes_after_a_day(tmp_path, files):
    half_written(tmp_path, "x")
    part = tmp_path / "files" / f"{name(1).hex()}.part"
    os.utime(part, (time.time() - 23 * 3600,) * 2)
    DiskStore(tmp_path, CAP, files.room).close()
    assert part.exists()
    os.utime(part, (time.time() - 25 * 3600,) * 2)
    process = start(HALF.replace("name(1)", "name(2)"), tmp_path, "y")
    assert process.stdout.readline() == "half\n"
    living = tmp_path / "files" / f"{name(2).hex()}.part"
    os.utime(living, (time.time() - 25 * 3600,) * 2)
    DiskStore(tmp_path, CAP, files.room).close()
    assert names(tmp_path) == {living.name, living.with_suffix(".state").name}
    process.kill()
    process.communicate()


def test_a_part_replaced_while_it_is_looked_at_is_not_evicted(tmp_path, files, monkeypatch):
    half_written(tmp_path, "")
    part = tmp_path / "files" / f"{name(1).hex()}.part"
    replacement = tmp_path / "replacement"
    replacement.write_bytes(b"of a living writer")
    real = os.open

    def replaced(path, *arguments):
        file = real(path, *arguments)
        if path == part and replacement.exists():
            replacement.replace(part)
        return file

    monkeypatch.setattr(os, "open", replaced)
    with pytest.raises(vfs.CacheSpaceError):
        files.make(name(2), CAP - SET - STATES, never)
    monkeypatch.undo()
    assert part.read_bytes() == b"of a living writer"


def test_what_is_not_ours_is_counted_and_left_alone(tmp_path, files):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "note.txt").write_bytes(bytes(10 * SET))
    (folder / "UPPER").write_bytes(b"a")
    (folder / name(1).hex()).symlink_to(folder / "note.txt")
    (folder / name(2).hex()).mkdir()
    os.mkfifo(folder / name(3).hex())
    (folder / f"{name(4).hex()}.state").write_bytes(b"orphan")
    (folder / f"{name(5).hex()}.new").write_bytes(b"orphan")
    assert [files.get(name(number)) for number in (1, 2, 3)] == [None] * 3
    keep(files, 6, 20 * SET)
    with pytest.raises(vfs.CacheSpaceError):
        keep(files, 7, 30 * SET)
    assert {"note.txt", "UPPER", name(1).hex(), name(2).hex(), name(6).hex()} <= names(tmp_path)
    assert not [file for file in names(tmp_path) if file.endswith((".state", ".new", ".part"))]
    with pytest.raises(OSError, match="directory"):
        keep(files, 2)
    assert (folder / name(2).hex()).is_dir()
    assert not (folder / f"{name(2).hex()}.part").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_nothing(tmp_path, files, code):
    def write(part):
        part.save(b"x")
        raise OSError(code, os.strerror(code))

    with pytest.raises(vfs.CacheSpaceError, match=r"is full .* cache_dir"):
        files.make(name(1), 100, write)
    assert names(tmp_path) == set()


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    KeptFiles(Path(sys.argv[1]), CAP).make(name(1), 1000, lambda part: part.reserve(600_000))
except vfs.CacheSpaceError as failure:
    print(failure.__cause__.errno)
"""


def test_a_file_larger_than_the_system_allows(tmp_path):
    assert ended(start(LIMITED, tmp_path)) == [str(errno.EFBIG)]
    assert names(tmp_path) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_really_full_file_system_is_noticed_at_the_reservation(tmp_path):
    with small_disk(tmp_path, "600k"):
        with pytest.raises(vfs.CacheSpaceError, match="No space left"):
            KeptFiles(tmp_path, CAP).make(name(1), 700_000, never)
        assert names(tmp_path) == set()
        keep(KeptFiles(tmp_path, CAP), 2, 300_000)


# Beside the block store.


def numbered(numbers):
    return {number: hashlib.blake2b(str(number).encode()).digest() * 64 for number in numbers}


def open_cache(directory, cap=CAP):
    return BlockCache(Options(cache_dir=directory, cache_size=cap, memory_size=0))


def test_the_store_gives_way_and_keeps_what_was_used_last(tmp_path):
    cache = open_cache(tmp_path)
    record = body(0, 100_000)
    cache.put_record(name(0), record)
    blocks = numbered(range(1500))
    for at in range(0, 1500, 50):
        some = {number: blocks[number] for number in range(at, at + 50)}
        cache.put(name(1), some, on_disk=True)
    cache.kept.make(name(1), 36 * SET, lambda part: None).close()
    assert cache.disk.size() == 3 * SET
    assert total(tmp_path) <= CAP
    for again in (cache, open_cache(tmp_path)):
        assert again.get_record(name(0)) == record
        found = again.get(name(1), range(1500), on_disk=True)
        assert found.items() <= blocks.items()
        assert {number for number in found if number >= 1400} == set(range(1400, 1500))
        assert len(found) > 120
        again.close()


def test_the_store_takes_at_opening_what_the_files_leave(tmp_path):
    keep(KeptFiles(tmp_path, CAP), 1, 10 * SET - BLOCK)  # and a block of checksums
    cache = open_cache(tmp_path)
    assert cache.disk.size() == 30 * SET
    cache.close()
    (tmp_path / "files" / name(1).hex()).unlink()
    cache = open_cache(tmp_path)
    assert cache.disk.size() == 40 * SET
    cache.close()


def test_a_smaller_cap_evicts_at_opening(tmp_path):
    files = KeptFiles(tmp_path, CAP)
    keep(files, 1, 10 * SET - BLOCK)
    keep(files, 2, 10 * SET - BLOCK)
    cache = open_cache(tmp_path, 12 * SET)
    assert kept(tmp_path) == {2}
    assert cache.disk.size() == 2 * SET
    with cache.kept.get(name(2)):
        cache.close()
        cache = open_cache(tmp_path, 5 * SET)  # which it cannot reach
        assert cache.disk.size() == SET
        assert kept(tmp_path) == {2}
    cache.close()


def test_a_record_may_take_a_quarter_of_what_the_store_has(tmp_path):
    cache = open_cache(tmp_path)
    cache.put_record(name(1), bytes(2 * SET))
    assert cache.get_record(name(1)) == bytes(2 * SET)
    cache.kept.make(name(1), 36 * SET, lambda part: None).close()
    cache.put_record(name(2), bytes(SET))
    assert cache.get_record(name(2)) is None
    cache.put_record(name(2), bytes(SET // 2))
    assert cache.get_record(name(2)) == bytes(SET // 2)
    cache.close()


def test_files_can_be_kept_where_the_store_has_failed(tmp_path, monkeypatch):
    cache = open_cache(tmp_path)

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", broken)
    cache.put(name(1), numbered([1]), on_disk=True)
    monkeypatch.undo()
    assert cache.disk is None
    keep(cache.kept, 1, 30 * SET)
    assert total(tmp_path) <= CAP
    cache.close()
    assert cache.kept is None


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 14 * SET), st.integers(0, 3))))
def test_whatever_is_kept_the_cap_holds_and_no_file_is_wrong(tmp_path, steps):
    cap = 12 * SET
    cache = open_cache(tmp_path, cap)
    opened = {}
    for number, size, action in steps:
        if action == 0:
            cache.put(name(9), numbered(range(size % 2000, size % 2000 + 200)), on_disk=True)
        elif action == 1:
            opened.pop(number, None)
        else:
            # The content says its length, so that any reader can check it.
            data = size.to_bytes(8, "big") + bytes(size)
            with contextlib.suppress(vfs.CacheSpaceError):
                made = cache.kept.make(name(number), 8, writes(data))
                written = made.path.read_bytes()
                assert int.from_bytes(written[:8], "big") == len(written) - 8
                if action == 2:
                    opened[number] = made
                else:
                    made.close()
        assert total(tmp_path) <= cap
        assert opened.keys() <= kept(tmp_path)
    cache.close()


BLOCKS = """
rng, made = random.Random(int(sys.argv[2])), 0
over = Path(sys.argv[3])
while not made or not over.exists():
    cache = open_cache(Path(sys.argv[1]))
    for _ in range(20):
        some = numbered(rng.sample(range(3000), 100))
        cache.put(name(1), some, on_disk=True)
        assert cache.get(name(1), some, on_disk=True).items() <= some.items()
    if rng.random() < 0.3:
        number = rng.randrange(3)
        size = rng.randrange(20 * SET)
        try:
            cache.kept.make(name(number), size, lambda part: None).close()
            made += 1
        except vfs.CacheSpaceError:
            pass
    cache.close()
"""

GROWING = """
def write(part):
    for size in range(SET, 20 * SET, 50_000):
        part.reserve(size)
        os.pwrite(part.file, bytes(50_000), size - 50_000)
        part.save(str(size).encode())
        time.sleep(0.01)
    print("grown")
KeptFiles(Path(sys.argv[1]), CAP).make(name(9), 0, write)
"""


def test_the_cap_holds_while_a_part_grows_and_others_write_and_one_is_killed(
    tmp_path, tmp_path_factory
):
    over = tmp_path_factory.mktemp("over") / "over"
    workers = [start(BLOCKS, tmp_path, number, over) for number in range(3)]
    growing = start(GROWING, tmp_path)
    workers.append(growing)
    largest = samples = 0
    sizes = set()
    while any(worker.poll() is None for worker in workers):
        largest, samples = max(largest, total(tmp_path)), samples + 1
        with contextlib.suppress(FileNotFoundError):
            sizes.add((tmp_path / "blocks.v1").stat().st_size)
        if len(sizes) > 5:
            workers[0].kill()
            if samples > 1000 and growing.poll() is not None:
                over.touch()
        time.sleep(0.002)
    workers.pop(0).communicate()
    assert [ended(worker) for worker in workers] == [[], [], ["grown"]]
    assert CAP - 2 * SET <= largest <= CAP


# Forks.

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_cache_keeps_files_after_a_fork(tmp_path):
    cache = open_cache(tmp_path)
    keep(cache.kept, 1)
    opened = cache.kept.get(name(1))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            cache.renew()
            opened.close()
            keep(cache.kept, 2)
            status = int(cache.kept.get(name(1)).path.read_bytes() != body(1, SET))
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert kept(tmp_path) == {1, 2}
    with pytest.raises(vfs.CacheSpaceError):  # the child's closing has not let go of it
        keep(cache.kept, 3, 38 * SET)
    opened.close()
    keep(cache.kept, 3, 38 * SET)
    cache.close()


FORKING = """
def write(part):
    part.reserve(1000)
    if sys.argv[2] == "stay":
        part.save(b"x")
    if os.fork() == 0:
        if sys.argv[2] == "leave":
            raise ValueError  # out of make, which is the parent's to end
        print(os.getpid(), flush=True)
    sys.stdin.read()
try:
    KeptFiles(Path(sys.argv[1]), CAP).make(name(1), 0, write)
except ValueError:
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


@needs_fork
@pytest.mark.parametrize(("action", "state"), [("stay", b"x"), ("leave", b"")])
def test_a_forked_child_neither_holds_a_writers_lock_nor_ends_its_part(
    tmp_path, files, action, state
):
    process = start(FORKING, tmp_path, action)
    child = int(process.stdout.readline())
    try:
        assert f"{name(1).hex()}.part" in names(tmp_path)
        process.kill()
        process.wait()
        log = []
        files.make(name(1), 0, writes(b"done", log)).close()
    finally:
        os.kill(child, signal.SIGKILL)
        process.kill()
        process.communicate()
    assert log == [state]


# Names, and how they are reached.


def test_the_default_files_are_those_of_the_environment(tmp_path, monkeypatch):
    directory = tmp_path / "a" / "b"
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(directory))
    monkeypatch.setenv("STREAMFILE_CACHE_SIZE", str(7 * SET))
    files = default_kept_files()
    assert files.capacity == 7 * SET
    assert files.get(name(1)) is None
    assert not (tmp_path / "a").exists()
    keep(files, 1)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert kept(directory) == {1}
    default_kept_files().make(name(1), 0, never).close()
    monkeypatch.setenv("STREAMFILE_CACHE_SIZE", "0")
    assert default_kept_files() is None
    monkeypatch.setenv("STREAMFILE_CACHE_SIZE", "much")
    with pytest.raises(vfs.OptionError, match="STREAMFILE_CACHE_SIZE"):
        default_kept_files()


def test_the_default_files_without_an_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("STREAMFILE_CACHE_DIR", raising=False)
    monkeypatch.delenv("STREAMFILE_CACHE_SIZE", raising=False)
    usual, blocker = tmp_path / "usual", tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: str(usual))
    monkeypatch.setattr(directory.tempfile, "gettempdir", lambda: str(tmp_path))
    files = default_kept_files()
    cache = BlockCache(Options())
    assert files.capacity == cache.kept.capacity <= 512 << 20
    keep(files, 1)
    cache.kept.make(name(1), 0, never).close()
    cache.close()
    assert kept(usual) == {1}
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: str(blocker / "cache"))
    keep(default_kept_files(), 2, 10)
    assert kept(tmp_path / f"streamfile-{os.getuid()}") == {2}
    monkeypatch.setattr(directory.tempfile, "gettempdir", lambda: str(blocker))
    assert default_kept_files() is None


def test_a_directory_that_cannot_be_used(tmp_path, monkeypatch):
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(blocker / "cache"))
    files = default_kept_files()
    assert files.get(name(1)) is None
    with pytest.raises(vfs.CacheDirectoryError, match=r"cache.*STREAMFILE_CACHE_DIR"):
        files.make(name(1), 0, never)


def test_a_platform_without_file_locks_keeps_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "SUPPORTED", False)
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(tmp_path))
    assert default_kept_files() is None
    assert BlockCache(Options(cache_dir=tmp_path)).kept is None


def test_a_local_files_name_changes_with_the_file(tmp_path):
    path, link = tmp_path / "a", tmp_path / "link"
    path.write_bytes(b"12")
    link.symlink_to(path)
    first = local_name(str(path), "matrix")
    assert len(first) == 16
    assert first == local_name(str(link), "matrix")
    seen = {first, local_name(str(path), "index")}
    facts = path.stat()
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    seen.add(local_name(str(path), "matrix"))
    path.write_bytes(b"123")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    seen.add(local_name(str(path), "matrix"))
    other = tmp_path / "b"
    other.write_bytes(b"45")
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    other.replace(path)
    seen.add(local_name(str(path), "matrix"))
    assert len(seen) == 5
    with pytest.raises(FileNotFoundError):
        local_name(str(tmp_path / "none"), "matrix")


def test_a_remote_files_name_changes_with_its_version(tmp_path):
    folder, cache = tmp_path / "served", tmp_path / "cache"
    folder.mkdir()
    (folder / "a").write_bytes(b"first")
    with RangeServer(folder) as server:
        options = {"cache_dir": cache, "cache_size": CAP}
        with vfs.open(f"{server.url}a", **options) as remote:
            first = remote.kept_name("matrix")
            assert first != remote.kept_name("index")
            remote.kept_files.make(first, 0, writes(b"made")).close()
        with vfs.open(f"{server.url}a", **options) as remote:
            assert remote.kept_name("matrix") == first
            remote.kept_files.make(first, 0, never).close()
            (folder / "a").write_bytes(b"second")
            remote.validate()
            assert remote.kept_name("matrix") != first
        with vfs.open(f"{server.url}a", cache_size=0) as remote:
            assert remote.kept_files is None


@pytest.mark.parametrize("size", [1, 300_000, 8 * MIB, 66 * MIB, 150 * MIB, 400 * MIB])
def test_files_fit_under_the_cap_that_is_told_for_them(tmp_path, size):
    cap = cap_for(size)
    assert cap < size + 6 * MIB
    files = KeptFiles(tmp_path, cap)
    with files.growing(tmp_path / "none", size // 2):
        pass
    with files.growing(tmp_path / "none", size):
        pass
