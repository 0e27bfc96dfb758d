import errno
import logging
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
from cached_blocks import SEED, blocks, content
from children import fork_succeeds
from hypothesis import given, settings
from hypothesis import strategies as st
from needed import small_disk

import vfs
from vfs.cache import directory, disk
from vfs.cache.blocks import BlockCache
from vfs.cache.disk import BLOCK, SET, WAYS, DiskStore
from vfs.options import Options


def size_of(directory):
    return sum(entry.stat().st_size for entry in directory.iterdir())


def disk_options(directory, sets=4, **options):
    return Options(cache_dir=directory, cache_size=sets * SET, **options)


@pytest.fixture
def store(tmp_path):
    opened = DiskStore(tmp_path, SET)
    yield opened
    opened.close()


def test_what_is_put_is_there_again_also_in_another_store(tmp_path):
    store = DiskStore(tmp_path, 4 * SET)
    kept = blocks(range(100))
    store.put(kept)
    assert store.get(kept) == kept
    assert store.get([(SEED, 1000), (bytes(16), 1)]) == {}
    other = DiskStore(tmp_path, 4 * SET)
    assert other.get([*kept, (SEED, 1000)]) == kept
    store.close()
    other.close()


def test_a_block_put_again_replaces_the_older_one(store):
    store.put({(SEED, 1): b"old"})
    store.put({(SEED, 1): b"newer"})
    assert store.get([(SEED, 1)]) == {(SEED, 1): b"newer"}


def test_a_set_holds_as_many_blocks_as_it_has_slots(store):
    store.put(blocks(range(WAYS)))
    assert store.get(blocks(range(WAYS))) == blocks(range(WAYS))
    store.put(blocks([1000]))
    assert len(store.get(blocks([*range(WAYS), 1000]))) == WAYS


def test_the_least_recently_used_is_replaced_first(store):
    for number in range(WAYS):
        store.put(blocks([number]))
    used = [0, 5, 17]
    assert len(store.get(blocks(used))) == 3
    store.put(blocks(range(1000, 1000 + WAYS - 3)))
    assert store.get(blocks(range(WAYS))) == blocks(used)


def test_kept_blocks_survive_a_flood_of_others(store):
    store.put(blocks(range(10)), keep=True)
    for start in range(1000, 1000 + 20 * WAYS, 10):
        store.put(blocks(range(start, start + 10)))
        store.get(blocks(range(start, start + 10)))
    assert store.get(blocks(range(10))) == blocks(range(10))


def test_kept_blocks_alone_replace_one_another(store):
    for number in range(3 * WAYS):
        store.put(blocks([number]), keep=True)
    last = range(2 * WAYS, 3 * WAYS)
    assert store.get(blocks(range(3 * WAYS))) == blocks(last)


def test_blocks_put_together_do_not_replace_one_another(store):
    store.put(blocks(range(WAYS)))
    last = blocks([*range(500, 510), *range(10)])
    store.put(last)
    assert store.get(last) == last


def test_any_damaged_byte_makes_a_miss_and_never_another_block(tmp_path):
    store = DiskStore(tmp_path, SET)
    kept = blocks(range(5))
    store.put(kept)
    path = tmp_path / "blocks.v1"
    sound = path.read_bytes()
    rng = random.Random(0)
    places = [*range(5 * 64), *(BLOCK + rng.randrange(5 * BLOCK) for _ in range(300))]
    misses = 0
    for at in places:
        path.write_bytes(sound)
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes([sound[at] ^ 1 << rng.randrange(8)]))
        found = store.get(kept)
        assert found.items() <= kept.items()
        misses += len(kept) - len(found)
    # Unused are the padding, the time of use, and what lies behind a short block.
    assert misses > 5 * 44 + 250
    store.close()


@pytest.mark.parametrize("noise", [b"", b"\xff", b"\0" * BLOCK, b"\xff" * SET, b"a" * (SET // 2)])
def test_a_file_of_noise_is_an_empty_store(tmp_path, noise):
    (tmp_path / "blocks.v1").write_bytes(noise)
    store = DiskStore(tmp_path, SET)
    assert store.get(blocks(range(50))) == {}
    store.put(blocks(range(50)))
    assert store.get(blocks(range(50))) == blocks(range(50))
    assert size_of(tmp_path) <= SET
    store.close()


@pytest.mark.parametrize("length", [0, 1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_a_file_cut_off_under_an_open_store(tmp_path, length):
    store = DiskStore(tmp_path, SET)
    store.put(blocks(range(10)))
    os.truncate(tmp_path / "blocks.v1", length)
    found = store.get(blocks(range(10)))
    assert found.items() <= blocks(range(10)).items()
    assert len(found) < 10
    store.put(blocks(range(10)))
    assert store.get(blocks(range(10))) == blocks(range(10))
    assert size_of(tmp_path) <= SET
    store.close()


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "keep", "get", "reopen"]),
            st.lists(st.integers(0, 400), max_size=90, unique=True),
        ),
        max_size=12,
    ),
    st.integers(SET, 3 * SET),
)
def test_whatever_is_put_the_cap_holds_and_no_block_is_wrong(tmp_path, steps, capacity):
    store = DiskStore(tmp_path, capacity)
    for step, numbers in steps:
        if step == "reopen":
            store.reopen()
        elif step == "get":
            assert store.get(blocks(numbers)).items() <= blocks(numbers).items()
        else:
            store.put(blocks(numbers), keep=step == "keep")
            last = blocks(numbers[-1:])
            assert store.get(last) == last
        assert size_of(tmp_path) <= capacity
    store.close()


def test_a_smaller_capacity_shrinks_the_file_at_once_and_for_all(tmp_path):
    first = DiskStore(tmp_path, 8 * SET)
    first.put(blocks(range(300)))
    second = DiskStore(tmp_path, 2 * SET)
    assert size_of(tmp_path) <= 2 * SET
    for store in (first, second, first):
        found = store.get(blocks(range(300)))
        assert found.items() <= blocks(range(300)).items()
        store.put(blocks(range(400, 450)))
        assert store.get(blocks(range(400, 450))) == blocks(range(400, 450))
        assert size_of(tmp_path) <= 2 * SET
    first.close()
    second.close()


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**40), st.integers(1, 3000))
def test_a_key_selects_another_set_only_where_its_own_goes(file, number, sets):
    chosen = disk._set_of((file, number), sets)
    assert 0 <= chosen < sets
    for fewer in {max(1, chosen), chosen + 1, (chosen + sets) // 2 + 1, sets}:
        assert (disk._set_of((file, number), fewer) == chosen) == (fewer > chosen)


def test_the_sets_are_selected_about_equally_often():
    counts = [0] * 200
    for number in range(200 * WAYS):
        counts[disk._set_of((SEED, number), 200)] += 1
    assert WAYS / 2 < min(counts) <= max(counts) < WAYS * 2


@pytest.mark.parametrize(("before", "after"), [(12, 12), (12, 11), (12, 5), (12, 1), (3, 2)])
@pytest.mark.parametrize("at_once", [4096, 2])
def test_a_store_that_shrinks_keeps_in_each_set_what_was_used_last(
    tmp_path, monkeypatch, before, after, at_once
):
    clock = iter(range(1, 10**6))
    monkeypatch.setattr(time, "time_ns", lambda: 10**18 + next(clock))
    monkeypatch.setattr(disk, "MOVED_AT_ONCE", at_once)
    store = DiskStore(tmp_path, before * SET)
    kept = range(5000, 5020)
    store.put(blocks(kept), keep=True)
    for start in range(0, before * 50, 10):
        store.put(blocks(range(start, start + 10)))
    used = random.Random(0).sample(range(before * 50), 30)
    for number in used:
        assert store.get(blocks([number])) == blocks([number])
    latest_last = [n for n in range(before * 50) if n not in used] + used + list(kept)
    expected = {}
    for number in latest_last:
        expected.setdefault(disk._set_of((SEED, number), after), []).append(number)
    with (tmp_path / "blocks.v1").open("r+b") as file:
        disk.shrink(file.fileno(), after)
    assert size_of(tmp_path) == after * SET
    # Those put together were used at the same time, so at the edge either may stay.
    for numbers in expected.values():
        found = {key[1] for key in store.get(blocks(numbers))}
        assert len(found) == min(WAYS, len(numbers))
        sure = [n for n in numbers if numbers.index(n) >= len(numbers) - WAYS + 10]
        assert found >= set(sure)
    assert store.get(blocks([*used[-20:], *kept])) == blocks([*used[-20:], *kept])
    store.close()


def test_an_older_block_of_the_same_key_does_not_come_back(tmp_path):
    small = DiskStore(tmp_path, 2 * SET)
    keys = [(SEED, number) for number in range(60)]
    small.put(dict.fromkeys(keys, b"old"))
    small.close()
    large = DiskStore(tmp_path, 40 * SET)
    large.put(dict.fromkeys(keys, b"new"))
    for sets in (20, 2, 1):
        with (tmp_path / "blocks.v1").open("r+b") as file:
            disk.shrink(file.fileno(), sets)
        assert set(large.get(keys).values()) == {b"new"}
    large.close()


def test_noise_displaces_nothing_where_a_store_shrinks(tmp_path):
    store = DiskStore(tmp_path, SET)
    store.put(blocks(range(WAYS)))
    with (tmp_path / "blocks.v1").open("ab") as file:
        file.write(random.Random(0).randbytes(5 * SET + 7))
    DiskStore(tmp_path, SET).close()
    assert size_of(tmp_path) == SET
    assert store.get(blocks(range(WAYS))) == blocks(range(WAYS))
    store.close()


def test_a_read_that_began_before_the_file_shrank_does_not_grow_it(tmp_path, monkeypatch):
    first = DiskStore(tmp_path, 8 * SET)
    first.put(blocks(range(300)))
    pread, shrunk = os.pread, []

    def read_then_shrink(file, length, at):
        data = pread(file, length, at)
        if at > 4 * SET and length < BLOCK and not shrunk:
            shrunk.append(DiskStore(tmp_path, SET))
        return data

    monkeypatch.setattr(os, "pread", read_then_shrink)
    found = first.get(blocks(range(300)))
    monkeypatch.undo()
    assert shrunk
    assert found.items() <= blocks(range(300)).items()
    assert size_of(tmp_path) <= SET


def test_a_larger_capacity_grows_the_file_only_where_nobody_else_has_it(tmp_path):
    first = DiskStore(tmp_path, SET)
    second = DiskStore(tmp_path, 4 * SET)
    assert size_of(tmp_path) == SET
    second.put(blocks(range(200)))
    assert size_of(tmp_path) == SET
    first.close()
    second.close()
    third = DiskStore(tmp_path, 4 * SET)
    assert size_of(tmp_path) == 4 * SET
    third.close()


def test_a_capacity_below_the_smallest_is_refused(tmp_path):
    with pytest.raises(OSError, match="below the smallest"):
        DiskStore(tmp_path, SET - 1)


def test_a_closed_store_raises_oserror(tmp_path):
    store = DiskStore(tmp_path, SET)
    store.close()
    for action in (lambda: store.get(blocks([1])), lambda: store.put(blocks([1]))):
        with pytest.raises(OSError, match=r"\[Errno 9\]"):
            action()


WORKER = """
import random, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from cached_blocks import blocks
from vfs.cache.disk import SET, DiskStore
store = DiskStore(Path(sys.argv[1]), int(sys.argv[2]))
rng = random.Random(int(sys.argv[3]))
over, hits = Path(sys.argv[5]), 0
while hits <= 100 or not over.exists():
    some = blocks(rng.sample(range(400), 20))
    if rng.random() < 0.4:
        store.put(some, keep=rng.random() < 0.2)
    found = store.get(some)
    assert all(some[key] == data for key, data in found.items())
    hits += len(found)
    if rng.random() < 0.01:
        store.close()
        store = DiskStore(Path(sys.argv[1]), rng.choice([2, 3]) * SET)
print(hits)
"""


def test_processes_share_a_store_and_one_is_killed(tmp_path, tmp_path_factory):
    cap = 3 * SET
    here = str(Path(__file__).parents[1] / "support")
    over = tmp_path_factory.mktemp("over") / "over"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), str(cap), str(number), here, str(over)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(here).parents[1],
        )
        for number in range(4)
    ]
    largest, samples = 0, 0
    while any(worker.poll() is None for worker in workers):
        size = size_of(tmp_path)
        largest, samples = max(largest, size), samples + (size > 0)
        if samples == 120:
            workers[0].kill()
        if samples == 250:
            over.touch()
        time.sleep(0.01)
    outputs = [worker.communicate() for worker in workers]
    assert workers[0].returncode == -signal.SIGKILL
    for worker, (out, err) in list(zip(workers, outputs, strict=True))[1:]:
        assert worker.returncode == 0, err
        assert int(out) > 100
    assert SET <= largest <= cap
    store = DiskStore(tmp_path, SET)
    assert size_of(tmp_path) <= SET
    store.put(blocks(range(WAYS)), keep=True)
    assert store.get(blocks(range(WAYS))) == blocks(range(WAYS))
    store.close()


def test_threads_share_a_store(tmp_path):
    store = DiskStore(tmp_path, 2 * SET)
    failures = []

    def work(seed):
        rng = random.Random(seed)
        try:
            for _ in range(60):
                some = blocks(rng.sample(range(300), 10))
                store.put(some)
                assert store.get(some).items() <= some.items()
        except (OSError, AssertionError, ValueError) as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    store.close()


# The cache over memory and disk.


def test_a_cache_finds_blocks_in_memory_and_on_disk(tmp_path):
    cache = BlockCache(disk_options(tmp_path))
    numbered = {number: content(number) for number in range(50)}
    cache.put(SEED, numbered, on_disk=True)
    assert cache.get(SEED, range(60), on_disk=False) == numbered
    cache.close()
    cache = BlockCache(disk_options(tmp_path))
    assert cache.get(SEED, range(60), on_disk=False) == {}
    assert cache.get(SEED, range(60), on_disk=True) == numbered
    assert cache.get(SEED, range(60), on_disk=False) == numbered  # from now on in memory
    assert cache.get(bytes(16), range(60), on_disk=True) == {}
    cache.close()


def test_blocks_that_must_not_rest_on_disk_do_not(tmp_path):
    cache = BlockCache(disk_options(tmp_path))
    cache.put(SEED, {1: content(1)}, on_disk=False)
    cache.close()
    cache = BlockCache(disk_options(tmp_path))
    assert cache.get(SEED, [1], on_disk=True) == {}
    cache.close()


@pytest.mark.parametrize("memory_size", [0, 1, BLOCK - 1, BLOCK, 10 * BLOCK])
def test_memory_is_bounded(tmp_path, memory_size):
    cache = BlockCache(Options(cache_size=0, memory_size=memory_size))
    for start in range(0, 200, 20):
        cache.put(SEED, {n: bytes(BLOCK) for n in range(start, start + 20)}, on_disk=True)
    found = cache.get(SEED, range(200), on_disk=True)
    assert len(found) == memory_size // BLOCK
    assert all(number >= 190 for number in found)
    assert cache.disk is None


def test_a_full_disk_leaves_memory_and_one_warning(tmp_path, monkeypatch, caplog):
    cache = BlockCache(disk_options(tmp_path))
    cache.put(SEED, {1: content(1)}, on_disk=True)

    def full(file, data, at):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with caplog.at_level(logging.WARNING):
        for number in range(2, 9):
            cache.put(SEED, {number: content(number)}, on_disk=True)
    monkeypatch.undo()
    assert [record.name for record in caplog.records] == ["vfs.cache.blocks"]
    assert "No space left" in caplog.text
    assert cache.get(SEED, range(1, 9), on_disk=True) == {n: content(n) for n in range(1, 9)}
    cache.put_record(SEED, b"record")
    assert cache.get_record(SEED) is None
    cache.close()


@pytest.mark.parametrize("function", ["pread", "pwrite", "fstat"])
def test_a_disk_that_fails_under_a_read_leaves_memory(tmp_path, monkeypatch, caplog, function):
    cache = BlockCache(disk_options(tmp_path, memory_size=0))
    cache.put(SEED, {1: content(1)}, on_disk=True)

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, function, broken)
    with caplog.at_level(logging.WARNING):
        assert cache.get(SEED, [1], on_disk=True) == {}
    monkeypatch.undo()
    assert "Input/output error" in caplog.text
    assert cache.get(SEED, [1], on_disk=True) == {}
    cache.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_really_full_file_system(tmp_path, caplog):
    with small_disk(tmp_path, "600k"):
        cache = BlockCache(disk_options(tmp_path, sets=20))
        numbered = {number: bytes([number]) * BLOCK for number in range(250)}
        for number, data in numbered.items():
            cache.put(SEED, {number: data}, on_disk=True)
        assert "memory only" in caplog.text
        assert cache.get(SEED, range(250), on_disk=True) == numbered
        cache.close()


@pytest.mark.parametrize("length", [0, 1, BLOCK - 24, BLOCK - 23, BLOCK, 5 * BLOCK + 7, 60_000])
def test_records_come_back_whole(tmp_path, length):
    record = random.Random(length).randbytes(length)
    cache = BlockCache(disk_options(tmp_path))
    assert cache.get_record(SEED) is None
    cache.put_record(SEED, b"older" * 3000)
    cache.put_record(SEED, record)
    cache.close()
    cache = BlockCache(disk_options(tmp_path))
    assert cache.get_record(SEED) == record
    assert cache.get_record(bytes(16)) is None
    cache.close()


def test_a_record_survives_a_flood_of_blocks(tmp_path):
    cache = BlockCache(disk_options(tmp_path, sets=1))
    record = random.Random(0).randbytes(10 * BLOCK)
    cache.put_record(SEED, record)
    for number in range(500):
        cache.put(bytes(16), {number: content(number)}, on_disk=True)
    assert cache.get_record(SEED) == record
    cache.close()


def test_a_damaged_or_incomplete_record_is_none(tmp_path):
    cache = BlockCache(disk_options(tmp_path, sets=1))
    path = tmp_path / "blocks.v1"
    cache.put_record(SEED, random.Random(0).randbytes(5 * BLOCK))
    sound = path.read_bytes()
    for way in range(6):
        path.write_bytes(sound)
        assert cache.get_record(SEED) is not None
        with path.open("r+b") as file:
            file.seek(BLOCK + way * BLOCK + 10)
            file.write(b"damaged")
        assert cache.get_record(SEED) is None
    cache.close()


def test_blocks_of_two_records_are_not_mixed(tmp_path):
    cache = BlockCache(disk_options(tmp_path, sets=1))
    first, second = bytes(3 * BLOCK), b"x" * (3 * BLOCK)
    cache.put_record(SEED, first)
    middle = cache.disk.get([(SEED, 1)])
    cache.put_record(SEED, second)
    cache.disk.put(middle)
    assert cache.get_record(SEED) is None
    cache.close()


def test_a_record_that_says_it_is_huge_is_none(tmp_path, monkeypatch):
    cache = BlockCache(disk_options(tmp_path))
    cache.disk.put({(SEED, 0): bytes(16) + (2**60).to_bytes(8, "little") + b"a"})
    get, asked = cache.disk.get, []
    monkeypatch.setattr(cache.disk, "get", lambda keys: asked.extend(keys) or get(keys))
    assert cache.get_record(SEED) is None
    assert asked == [(SEED, 0)]
    cache.close()


def test_a_record_too_long_for_the_store_is_not_written(tmp_path):
    cache = BlockCache(disk_options(tmp_path, sets=1))
    cache.put(SEED, {1: content(1)}, on_disk=True)
    cache.put_record(bytes(16), bytes(2 * SET))
    assert cache.get_record(bytes(16)) is None
    assert cache.disk.get(blocks([1])) == blocks([1])
    cache.close()


# Where the directory is.


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Have a regular file where directories would be made, which stops root too."""
    monkeypatch.delenv("STREAMFILE_CACHE_DIR", raising=False)
    monkeypatch.delenv("STREAMFILE_CACHE_SIZE", raising=False)
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: str(blocker / "cache"))
    return blocker


def directory_of(cache):
    return cache.disk._path.parent


def test_the_directory_is_that_of_the_option_then_of_the_environment(
    tmp_path, monkeypatch, nowhere
):
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(tmp_path / "environment"))
    cache = BlockCache(Options(cache_dir=tmp_path / "option" / "new"))
    assert directory_of(cache) == tmp_path / "option" / "new"
    assert (tmp_path / "option" / "new").stat().st_mode & 0o777 == 0o700
    cache.close()
    assert not (tmp_path / "environment").exists()
    cache = BlockCache(Options())
    assert directory_of(cache) == tmp_path / "environment"
    cache.close()


def test_the_usual_directory_is_the_platforms(tmp_path, monkeypatch, nowhere):
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: str(tmp_path / "usual"))
    cache = BlockCache(Options())
    assert directory_of(cache) == tmp_path / "usual"
    assert SET <= cache.disk.size() <= cache.kept.capacity <= 512 << 20
    cache.close()


def test_where_the_usual_directory_cannot_be_written_the_temporary_one_is_used(
    tmp_path, monkeypatch, nowhere, caplog
):
    monkeypatch.setattr(directory.tempfile, "gettempdir", lambda: str(tmp_path))
    cache = BlockCache(Options(cache_size=SET))
    assert directory_of(cache).parent == tmp_path
    assert caplog.records == []
    cache.close()


def test_a_temporary_directory_of_another_user_is_not_used(tmp_path, monkeypatch, nowhere, caplog):
    monkeypatch.setattr(directory.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    cache = BlockCache(Options(cache_size=SET))
    assert cache.disk is None
    assert "belongs to another user" in caplog.text
    assert list((tmp_path / "streamfile-4000000").iterdir()) == []


def test_without_any_directory_there_is_memory_and_one_line_in_the_log(
    monkeypatch, nowhere, caplog
):
    monkeypatch.setattr(directory.tempfile, "gettempdir", lambda: str(nowhere))
    with caplog.at_level(logging.DEBUG):
        cache = BlockCache(Options())
    assert len(caplog.records) == 1
    assert "memory only" in caplog.text
    cache.put(SEED, {1: content(1)}, on_disk=True)
    cache.put_record(SEED, b"record")
    assert cache.get(SEED, [1], on_disk=True) == {1: content(1)}
    assert cache.get_record(SEED) is None


def test_a_named_directory_that_cannot_be_used_is_an_error(monkeypatch, nowhere):
    named = nowhere / "cache"
    with pytest.raises(vfs.CacheDirectoryError, match=str(named)) as caught:
        BlockCache(Options(cache_dir=named))
    assert "STREAMFILE_CACHE_DIR" in str(caught.value)
    assert isinstance(caught.value, vfs.VFSError | OSError)
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(named))
    with pytest.raises(vfs.CacheDirectoryError, match=str(named)):
        BlockCache(Options())


@pytest.mark.parametrize("text", ["much", "1.5", "-1", "1e9", "10M"])
def test_a_size_in_the_environment_that_is_no_size(tmp_path, monkeypatch, text):
    monkeypatch.setenv("STREAMFILE_CACHE_SIZE", text)
    with pytest.raises(vfs.OptionError, match="STREAMFILE_CACHE_SIZE"):
        BlockCache(Options(cache_dir=tmp_path))


def test_the_size_is_that_of_the_option_then_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMFILE_CACHE_SIZE", str(3 * SET))
    cache = BlockCache(Options(cache_dir=tmp_path))
    assert cache.kept.capacity == 3 * SET == size_of(tmp_path)
    cache.close()
    cache = BlockCache(Options(cache_dir=tmp_path, cache_size=SET))
    assert size_of(tmp_path) == SET
    cache.close()


def test_a_size_of_zero_is_no_disk_cache(tmp_path, monkeypatch):
    for options in (Options(cache_dir=tmp_path / "a", cache_size=0), Options()):
        monkeypatch.setenv("STREAMFILE_CACHE_SIZE", "0")
        monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(tmp_path / "a"))
        cache = BlockCache(options)
        cache.put(SEED, {1: content(1)}, on_disk=True)
        assert cache.get(SEED, [1], on_disk=True) == {1: content(1)}
        assert not (tmp_path / "a").exists()
        cache.close()


def test_a_platform_without_file_locks_has_no_disk_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "SUPPORTED", False)
    assert BlockCache(Options(cache_dir=tmp_path)).disk is None


def test_closing_lets_go_of_the_files(tmp_path):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None  # noqa: PTH112, PTH208
    for _ in range(5):
        cache = BlockCache(disk_options(tmp_path))
        cache.close()
        cache.close()
    if before is None:
        pytest.skip("open files cannot be counted here")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_cache_after_a_fork(tmp_path):
    cache = BlockCache(disk_options(tmp_path))
    cache.put(SEED, {1: content(1)}, on_disk=True)
    cache._lock.acquire()  # as another thread may have done at that moment
    cache.disk._writing.acquire()

    def use():
        cache.renew()
        cache.put(SEED, {2: content(2)}, on_disk=True)
        right = {1: content(1), 2: content(2)}
        assert cache.get(SEED, [1, 2], on_disk=True) == right

    assert fork_succeeds(use)
    cache._lock.release()
    cache.disk._writing.release()
    assert cache.get(SEED, [2], on_disk=True) == {2: content(2)}
    cache.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_store_that_cannot_be_opened_again_after_a_fork_is_done_without(
    tmp_path, monkeypatch, caplog
):
    cache = BlockCache(disk_options(tmp_path))
    cache.put(SEED, {1: content(1)}, on_disk=True)

    def broken(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", broken)
    cache.renew()
    monkeypatch.undo()
    assert "Too many open files" in caplog.text
    assert cache.get(SEED, [1], on_disk=True) == {1: content(1)}
    cache.close()


def test_a_cache_too_small_to_hold_anything_is_refused(tmp_path, monkeypatch):
    with pytest.raises(vfs.OptionError, match="at least 266,240, or 0 for none"):
        BlockCache(Options(cache_dir=tmp_path, cache_size=SET - 1))
    monkeypatch.setenv("STREAMFILE_CACHE_SIZE", "1000")
    with pytest.raises(vfs.OptionError, match="1,000 bytes is too small"):
        BlockCache(Options(cache_dir=tmp_path))
    assert not list(tmp_path.iterdir())
