"""Checksums of kept files: what is damaged on the disk is made again, and never used."""

import os
import random
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from children import stopped
from leftovers import descriptors
from waiting import PATIENCE, wait_until

import vfs
from vfs.cache import disk
from vfs.cache.checksums import PIECE, DamagedFileError, Digests
from vfs.cache.disk import SET
from vfs.cache.kept_files import KeptFiles
from vfs.deadline import within

pytestmark = pytest.mark.skipif(not disk.SUPPORTED, reason="no file locks")

ROOT = Path(__file__).parents[2]
CAP = 40 * SET
NAME, OTHER = b"n" * 16, b"o" * 16
MARGIN = 5  # seconds beyond a deadline, on a busy machine
DATA = random.Random(1).randbytes(2 * PIECE + 1234)


@pytest.fixture
def files(tmp_path):
    return KeptFiles(tmp_path, CAP)


@pytest.fixture
def warnings(caplog):
    """Counts what is told."""
    return lambda: [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]


class Writer:
    """Writes data, in order or not, and counts how often."""

    def __init__(self, data=DATA, step=100_000, shuffled=False):
        self.data, self.calls = data, 0
        self.begins = list(range(0, len(data), step))
        self.step, self.shuffled = step, shuffled

    def __call__(self, part):
        self.calls += 1
        part.reserve(len(self.data))
        begins = self.begins.copy()
        if self.shuffled:
            random.Random(2).shuffle(begins)
        for at in begins:
            part.write(self.data[at : at + self.step], at)


def never(part):
    raise AssertionError("written again")


def paths(files, name=NAME):
    """Give where a file is, and its checksums."""
    folder = files._directory
    return folder / "files" / name.hex(), folder / "sums" / name.hex()


def flip(path, rng):
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content))
    content[at] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def zero_a_page(path, rng):
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content)) // 4096 * 4096
    content[at : at + 4096] = bytes(len(content[at : at + 4096]))
    path.write_bytes(content)


def cut(path, rng):
    os.truncate(path, rng.randrange(path.stat().st_size))


def extend(path, rng):
    with path.open("ab") as file:
        file.write(bytes(rng.randrange(1, 5000)))


def empty(path, rng):
    path.write_bytes(b"")


def gone(path, rng):
    path.unlink()


def unreadable(path, rng):
    path.chmod(0)


def fifo(path, rng):
    path.unlink()
    os.mkfifo(path)


def link(path, rng):
    target = path.with_name("target")
    path.rename(target)
    path.symlink_to(target)


DAMAGES = [flip, zero_a_page, cut, extend, empty, gone, fifo, link]


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("step", [1000, PIECE // 2, PIECE, PIECE + 1, 10 * PIECE])
def test_data_written_in_any_steps_and_order_is_checked(files, step, shuffled):
    with files.make(NAME, 0, Writer(step=step, shuffled=shuffled)) as made:
        assert made.read() == DATA
        view, checked = made.map()
        checked.check(PIECE - 1, PIECE + 1)
        assert not checked.complete
        checked.check()
        assert checked.complete
        assert bytes(view) == DATA
    files.make(NAME, 0, never).close()


def test_threads_write_one_file(files):
    def write(part):
        part.reserve(len(DATA))
        begins = range(0, len(DATA), 50_000)
        threads = [
            threading.Thread(target=part.write, args=(DATA[at : at + 50_000], at)) for at in begins
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with files.make(NAME, 0, write) as made:
        assert made.read() == DATA


@pytest.mark.parametrize("which", ["content", "checksums"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_a_miss_once_and_made_again(files, damage, which, warnings):
    writer = Writer()
    files.make(NAME, 0, writer).close()
    file = paths(files)[which == "checksums"]
    damage(file, random.Random(3))
    assert files.get(NAME) is None
    for _ in range(2):
        with files.make(NAME, 0, writer) as made:
            assert made.read() == DATA
    assert writer.calls == 2
    assert stat.S_ISREG(paths(files)[0].lstat().st_mode)
    silent = which == "content" and damage in (gone, fifo, link)  # no file of ours
    assert len(warnings()) == (not silent)
    for line in warnings():
        assert str(paths(files)[0]) in line
        assert "made again" in line


def test_a_file_that_may_not_be_read_is_made_again(files):
    if not os.geteuid():
        pytest.skip("root may read everything")
    writer = Writer()
    for path in paths(files):
        files.make(NAME, 0, writer).close()
        unreadable(path, None)
        with files.make(NAME, 0, writer) as made:
            assert made.read() == DATA
    assert writer.calls == 3


def test_no_bit_of_a_file_or_of_its_checksums_is_believed_flipped(files):
    rng, data = random.Random(4), DATA[: PIECE + 300]
    writer = Writer(data)
    for trial in range(1, 61):
        files.make(NAME, 0, writer).close()
        assert writer.calls == trial
        flip(paths(files)[trial % 4 == 0], rng)
        with files.make(NAME, 0, writer) as made:
            assert made.read() == data
        assert writer.calls == trial + 1


@pytest.mark.parametrize("both", [False, True])
def test_files_of_equal_length_that_changed_places_are_not_believed(files, both):
    first, second = Writer(DATA), Writer(DATA[::-1])
    files.make(NAME, 0, first).close()
    files.make(OTHER, 0, second).close()
    for one, other in list(zip(paths(files), paths(files, OTHER), strict=True))[: 1 + both]:
        one.rename(aside := one.with_name("aside"))
        other.rename(one)
        aside.rename(other)
    with files.make(NAME, 0, first) as made, files.make(OTHER, 0, second) as other:
        assert made.read() == DATA
        assert other.read() == DATA[::-1]
    assert (first.calls, second.calls) == (2, 2)


def test_a_file_of_an_earlier_version_without_checksums_is_a_miss(tmp_path, files):
    files.make(NAME, 0, Writer()).close()
    paths(files)[1].unlink()
    writer = Writer()
    files.make(NAME, 0, writer).close()
    assert writer.calls == 1


@pytest.mark.parametrize("place", [0, 1, "part"])
def test_a_folder_in_the_place_of_a_file_is_told_before_it_is_written(files, place):
    writer = Writer()
    files.make(NAME, 0, writer).close()
    path = Path(f"{paths(files)[0]}.part") if place == "part" else paths(files)[place]
    for one in paths(files):
        one.unlink()
    path.mkdir()
    with pytest.raises(vfs.CacheDirectoryError, match=f"{path.name}.*directory|irectory.*{path}"):
        files.make(NAME, 0, writer)
    assert writer.calls == 1


@pytest.mark.parametrize("kind", ["part", "state", "new"])
def test_a_fifo_in_the_place_of_an_unfinished_file_holds_nobody(files, kind):
    paths(files)[0].parent.mkdir()
    os.mkfifo(f"{paths(files)[0]}.{kind}")

    def write(part):
        part.reserve(5)
        part.write(b"begin", 0)
        part.save(b"5", 5)

    if kind == "part":
        with pytest.raises(vfs.CacheDirectoryError, match="no regular file"):
            files.make(NAME, 0, write)
    else:
        with files.make(NAME, 0, write) as made:
            assert made.read() == b"begin"


def test_what_is_damaged_before_it_is_finished_is_not_given_away(files):
    calls = []

    def write(part):
        Writer()(part)
        calls.append(os.pread(part.file, 1, 70_000))
        os.pwrite(part.file, bytes([calls[-1][0] ^ 1]), 70_000)  # as a failing disk does

    with pytest.raises(vfs.CacheDirectoryError, match=r"than were written.*cache_dir"):
        files.make(NAME, 0, write)
    assert len(calls) == 1
    assert not paths(files)[0].exists()
    assert files.get(NAME) is None


def test_who_has_a_file_open_keeps_it_when_others_discard_it(files):
    opened = files.make(NAME, 0, Writer())
    view, checked = opened.map()
    checked.check()
    with files.get(NAME, unchecked=True) as other:
        other.discard("a test")
    assert not paths(files)[0].exists()
    assert not paths(files)[1].exists()
    assert bytes(view) == DATA
    assert opened.read() == DATA
    writer = Writer(b"new")
    with files.make(NAME, 0, writer) as made:
        opened.discard("of the old one")
        assert made.read() == b"new"
    files.make(NAME, 0, never).close()


@pytest.mark.parametrize("damage", [cut, empty, extend])
def test_a_map_tells_a_changed_length_before_use(files, damage):
    opened = files.make(NAME, 0, Writer())
    _, checked = opened.map(at_once=True)
    checked.check()
    damage(paths(files)[0], random.Random(5))
    for _ in range(2):
        with pytest.raises(DamagedFileError, match=f"bytes, where {len(DATA):,} were written"):
            checked.check(0, 1)
    with pytest.raises(DamagedFileError):
        opened.map()
    with pytest.raises(DamagedFileError):
        opened.read()


def test_only_what_is_asked_for_is_checked(files):
    with files.make(NAME, 0, Writer()) as opened:
        view, checked = opened.map()
        with paths(files)[0].open("r+b") as file:
            file.seek(PIECE + 5)
            file.write(bytes([DATA[PIECE + 5] ^ 1]))
        checked.check(0, PIECE)
        checked.check(2 * PIECE)
        assert bytes(view[:PIECE]) == DATA[:PIECE]
        with pytest.raises(DamagedFileError):
            checked.check(PIECE, PIECE + 1)


def test_the_files_folder_and_the_checksums_stay_under_the_cap(tmp_path):
    cap = 4 * SET
    files = KeptFiles(tmp_path, cap)
    for number in range(12):
        files.make(bytes([number]) * 16, 0, Writer(bytes(SET))).close()
        existing = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert sum(path.stat().st_blocks * 512 for path in existing) <= cap
        names = [{path.name for path in (tmp_path / one).iterdir()} for one in ("files", "sums")]
        assert names[0] == names[1]


def test_checksums_without_a_file_are_deleted(tmp_path, files):
    files.make(NAME, 0, Writer()).close()
    paths(files)[0].unlink()
    files.make(OTHER, 0, Writer()).close()
    assert [path.name for path in (tmp_path / "sums").iterdir()] == [OTHER.hex()]


def test_the_checksum_of_the_beginning_is_that_of_the_same_bytes_however_written(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    with path.open("rb") as file:

        def of_beginning(steps, length):
            digests = Digests()
            for begin, end in steps:
                digests.add(memoryview(DATA[begin:end]), begin)
            return digests.of_beginning(file.fileno(), length)

        whole = [(0, len(DATA))]
        for length in (0, 1, PIECE - 1, PIECE, PIECE + 1, len(DATA)):
            expected = of_beginning([(0, length)], length)
            assert expected is not None
            assert of_beginning(whole, length) == expected
            assert of_beginning([(100, len(DATA)), (0, 100)], length) == expected
            assert of_beginning([(0, len(DATA) - 5)], length) == expected or length == len(DATA)
        assert of_beginning([(0, 100), (200, len(DATA))], 101) is None
        assert of_beginning([(0, PIECE)], PIECE + 1) is None
        assert len({of_beginning(whole, length) for length in range(0, len(DATA), 50_000)}) > 9
        changed = bytearray(DATA)
        changed[5] ^= 1
        path.write_bytes(changed)
        assert of_beginning(whole, 100) is None


# Unfinished files


def half(files):
    """Leave an unfinished file and its state, as an interrupted process does."""

    def write(part):
        part.reserve(len(DATA))
        for at in range(0, PIECE + 5000, 5000):
            part.write(DATA[at : at + 5000], at)
        part.save(b"state", PIECE // 5000 * 5000 + 5000)
        part.write(DATA[:5000][::-1], PIECE // 5000 * 5000 + 5000)  # behind the state
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.make(NAME, 0, write)
    return PIECE // 5000 * 5000 + 5000


@pytest.mark.parametrize("at", [0, 5000, PIECE - 1, PIECE, "last"])
def test_a_bit_that_flips_before_writing_goes_on_is_not_believed(files, at, warnings):
    end = half(files)
    part = Path(f"{paths(files)[0]}.part")
    content = bytearray(part.read_bytes())
    content[end - 1 if at == "last" else at] ^= 4
    part.write_bytes(content)
    states = []

    def write(part):
        states.append(part.state)
        Writer()(part)

    with files.make(NAME, 0, write) as made:
        assert made.read() == DATA
    assert states == [b""]
    assert len(warnings()) == 1
    assert str(part) in warnings()[0]


@pytest.mark.parametrize("damage", [cut, empty, extend])
def test_an_unfinished_file_of_another_length(files, damage):
    end = half(files)
    part = Path(f"{paths(files)[0]}.part")
    if damage is cut:
        os.truncate(part, end - 1)
    else:
        damage(part, random.Random(6))
    states = []

    def write(part):
        states.append(part.state)
        begin = end if part.state else 0
        part.reserve(len(DATA))
        part.write(DATA[begin:], begin)

    with files.make(NAME, 0, write) as made:
        assert made.read() == DATA
    assert states == [b"state" if damage is extend else b""]


def test_a_state_behind_damage_or_behind_what_was_written_is_not_saved(files):
    def write(part):
        part.reserve(len(DATA))
        part.write(DATA, 0)
        for length in (PIECE, len(DATA)):
            part.save(b"state", length)
            assert part.state == b"state"
        part.save(b"state", len(DATA) + 1)
        assert part.state == b""
        part.save(b"state", 100)
        os.pwrite(part.file, b"x", 50)
        part.save(b"state", 100)
        assert part.state == b""
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.make(NAME, 0, write)
    assert list(paths(files)[0].parent.iterdir()) == []


def test_writing_goes_on_behind_what_was_checked(files, warnings):
    end = half(files)

    def write(part):
        assert part.state == b"state"
        assert os.pread(part.file, end, 0) == DATA[:end]
        part.write(DATA[end:], end)

    with files.make(NAME, 0, write) as made:
        assert made.read() == DATA
    assert warnings() == []


def test_the_state_of_another_file_is_not_believed(files):
    half(files)
    folder = paths(files)[0].parent
    for kind in ("part", "state"):
        (folder / f"{NAME.hex()}.{kind}").rename(folder / f"{OTHER.hex()}.{kind}")
    (folder / f"{OTHER.hex()}.part").write_bytes(bytes(len(DATA)))
    states = []
    files.make(OTHER, 0, lambda part: states.append(part.state)).close()
    assert states == [b""]


# Processes that are stopped


STOPPED = """
import sys
from pathlib import Path
from vfs.cache.kept_files import KeptFiles
files = KeptFiles(Path(sys.argv[1]), int(sys.argv[2]))
def wait(*_):
    print("holds", flush=True)
    sys.stdin.read()
if sys.argv[3] == "part":
    files.make(b"n" * 16, 0, wait)
elif sys.argv[3] == "lock":
    with files.locked():
        wait()
else:
    import fcntl
    with open(sys.argv[3]) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        wait()
"""


@pytest.mark.parametrize("what", ["part", "lock", "file"])
def test_a_stopped_process_holds_others_no_longer_than_their_deadline(tmp_path, files, what):
    path = tmp_path / ("blocks.lock" if what == "lock" else f"files/{NAME.hex()}")
    if what == "file":
        files.make(NAME, 0, Writer()).close()
    elif what == "part":
        path = Path(f"{path}.part")
    with stopped(STOPPED, tmp_path, CAP, path if what == "file" else what):
        begun = time.monotonic()
        with within(1), pytest.raises(vfs.DeadlineError) as caught:
            files.make(NAME, 0, Writer())
        assert time.monotonic() - begun < 1 + MARGIN
    for text in (str(path), "1 s", "stopped", "cache_dir", "STREAMFILE_CACHE_DIR"):
        assert text in str(caught.value)
    with files.make(NAME, 0, Writer()) as made:
        assert made.read() == DATA


def test_a_free_lock_is_taken_after_the_deadline_too(files):
    writer = Writer()
    with within(1e-9):
        for _ in range(2):
            with files.make(NAME, 0, writer) as made:
                assert made.read() == DATA
    assert writer.calls == 1


def test_who_waits_takes_over_as_soon_as_the_stopped_process_has_ended(tmp_path, files):
    found = []
    with stopped(STOPPED, tmp_path, CAP, "part") as process:
        thread = threading.Thread(target=lambda: found.append(files.make(NAME, 0, Writer())))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        process.kill()
        thread.join(PATIENCE)
    assert found[0].read() == DATA


def test_the_usual_deadline_is_renewed_by_a_writer_that_goes_on(files, monkeypatch):
    monkeypatch.setattr("vfs.deadline.USUAL", 1.0)
    begun = threading.Event()

    def slow(part):
        part.reserve(len(DATA))
        for at in range(0, len(DATA), 20_000):
            part.write(DATA[at : at + 20_000], at)
            begun.set()
            time.sleep(0.1)

    thread = threading.Thread(target=lambda: files.make(NAME, 0, slow).close())
    thread.start()
    begun.wait(PATIENCE)
    with files.make(NAME, 0, never) as made:  # after 2.5 seconds
        assert made.read() == DATA
    thread.join()


def test_a_wait_leaves_no_file_open(tmp_path, files):
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs Linux's /proc")
    before = descriptors()
    with stopped(STOPPED, tmp_path, CAP, "part"), within(0.2), suppress(vfs.DeadlineError):
        files.make(NAME, 0, Writer())
    with stopped(STOPPED, tmp_path, CAP, "lock"), within(0.2), suppress(vfs.DeadlineError):
        files.make(NAME, 0, Writer())
    wait_until(lambda: descriptors() == before)
