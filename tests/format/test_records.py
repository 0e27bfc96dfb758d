"""Both decoders of whole pages, held against plain SQLite and against each other."""

import random

import apsw
import magnitude_files as mf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import machine_code

import vfs
from streamfile import FormatError, Magnitude
from streamfile._jit import compiled
from streamfile.format.records import Scratch
from streamfile.readers.local import LocalReader
from streamfile.search import page_decoder, scan
from streamfile.search.compiled_decoder import KERNEL, CompiledDecoder
from vfs.cache.kept_files import KeptFiles

EDGES = [0, 1, 2, 127, 128, 32767, 32768, 2**23 - 1, 2**23, 2**31 - 1, 2**31, 2**47, 2**63 - 1]
VALUES = st.sampled_from([sign * edge for edge in EDGES for sign in (1, -1)]) | st.integers(
    -(2**63), 2**63 - 1
)
USUAL = st.integers(-(2**23), 2**23 - 1) | st.integers(-1, 1)
LENGTHS = st.none() | st.floats(allow_nan=False, width=32) | st.integers(0, 2**40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("decode")


@pytest.fixture(scope="module")
def code(folder):
    """The machine code, compiled once."""
    return machine_code(KERNEL, folder)


@pytest.fixture(params=["numpy", "compiled"])
def decoder(request, monkeypatch):
    """Which decoder reads all files, large or small."""
    if request.param == "compiled":
        function = request.getfixturevalue("code")
        monkeypatch.setattr(scan, "LEAST_COMPILED", 0)
        monkeypatch.setattr(page_decoder, "compiled", lambda *_: function)
    return request.param


def write(path, keys, ints, lengths, *, precision=7, page_size=1024):
    path.unlink(missing_ok=True)
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA page_size = {page_size}")
    mf.fill(
        connection,
        keys,
        np.array(ints, np.int64).reshape(len(keys), -1),
        lengths,
        precision=precision,
        elmo=False,
        subwords=False,
        meta=None,
    )
    connection.close()
    return path


def decoded(path, count=None, *, normalized=True):
    """Give keys and vectors of a scan."""
    reader = LocalReader(str(path))
    count = reader.contents.format.size if count is None else count

    def take(block):
        return block.first, block.keys.decode(), block.vectors.copy()

    found = list(scan.scan(reader, count, take, normalized=normalized))
    reader.close()
    assert [first for first, _, _ in found] == np.cumsum(
        [0, *(len(keys) for _, keys, _ in found)]
    ).tolist()[:-1]
    return [key for _, keys, _ in found for key in keys], np.concatenate([v for _, _, v in found])


def stored(path, precision, *, normalized=True):
    """Give the same by SQL, computed as the format says."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    rows = connection.execute("SELECT * FROM magnitude ORDER BY rowid").fetchall()
    connection.close()
    values = np.array([row[1:-1] for row in rows], np.int64).astype(np.float32)
    if normalized:
        return [row[0] for row in rows], values / np.float32(10**precision)
    lengths = np.array([np.nan if row[-1] is None else row[-1] for row in rows], np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        factors = (lengths / 10**precision).astype(np.float32)
        return [row[0] for row in rows], values * factors[:, None]


@pytest.mark.parametrize("values", [USUAL, VALUES], ids=["usual", "all"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_rows_are_those_of_sqlite(folder, code, values, data):
    count, dim = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 30))
    seed = data.draw(st.integers(0, 2**32))
    few = data.draw(st.lists(values, min_size=1, max_size=30))
    ints = np.array(random.Random(seed).choices(few, k=count * dim), np.int64).reshape(count, dim)
    keys = data.draw(st.lists(st.text("aé\uf000", max_size=3), min_size=count, max_size=count))
    long = data.draw(st.sets(st.integers(0, count - 1), max_size=2))
    keys = [key * 700 if at in long else key for at, key in enumerate(keys)]  # they overflow
    lengths = data.draw(st.lists(LENGTHS, min_size=count, max_size=count))
    precision, page_size = data.draw(st.integers(0, 18)), data.draw(st.sampled_from([512, 1024]))
    path = write(folder / "any", keys, ints, lengths, precision=precision, page_size=page_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "BATCH", 4096)
        patch.setattr(scan, "LEAST_COMPILED", 0)
        for function in (None, code):
            patch.setattr(page_decoder, "compiled", lambda *_, function=function: function)
            for normalized in (True, False):
                found_keys, found = decoded(path, normalized=normalized)
                expected_keys, expected = stored(path, precision, normalized=normalized)
                assert found_keys == expected_keys
                np.testing.assert_array_equal(found, expected)


def test_usual_pages_are_taken_by_the_compiled_decoder(folder, code):
    rng = np.random.default_rng(1)
    ints = rng.integers(-(2**23), 2**23, (50, 20)) >> rng.integers(0, 25, (50, 20))
    path = write(folder / "usual", [f"k{i}" * 5 for i in range(50)], ints, [1.5] * 50)
    reader = LocalReader(str(path))
    pages, told = reader.contents.pages, reader.contents.format
    decoder = CompiledDecoder(code, pages.layout.usable, told.dim, told.precision)
    block = pages.block(reader.run(lambda contents: contents.table.leaves(50)))
    rowids, vectors, keys = decoder.decode(*block, Scratch())
    assert rowids.tolist() == list(range(1, 51))
    assert (keys.decode(), vectors.tolist()) == tuple(
        one if isinstance(one, list) else one.tolist() for one in stored(path, 7)
    )


def test_the_first_rows_alone(folder, decoder):
    ints = np.arange(900).reshape(300, 3)
    path = write(folder / "first", [str(i) for i in range(300)], ints, [1.0] * 300)
    for count in (1, 17, 299, 300):
        keys, vectors = decoded(path, count)
        assert keys == [str(i) for i in range(count)]
        np.testing.assert_array_equal(vectors, stored(path, 7)[1][:count])


def outcome(path):
    try:
        keys, vectors = decoded(path)
    except (FormatError, vfs.DatabaseError) as failure:
        return str(failure)
    return keys, vectors.tobytes()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_pages_give_the_same_or_the_same_error_with_both(damaged, code, data):
    path, whole = damaged
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        page = data.draw(st.integers(1, len(whole) // 512 - 1))
        at = page * 512 + data.draw(st.integers(0, 40) | st.integers(0, 511))
        changed[at] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "LEAST_COMPILED", 0)
        outcomes = []
        for function in (None, code):
            patch.setattr(page_decoder, "compiled", lambda *_, function=function: function)
            try:
                outcomes.append(outcome(path))
            except (FormatError, vfs.DatabaseError) as failure:  # found when it was opened
                outcomes.append(str(failure))
    assert outcomes[0] == outcomes[1]


@pytest.fixture(scope="module")
def damaged(folder):
    ints = np.random.default_rng(2).integers(-(2**15), 2**15, (60, 8))
    path = write(folder / "whole", [f"k{i}" for i in range(60)], ints, [1.5] * 60, page_size=512)
    return folder / "damaged", path.read_bytes()


def test_code_that_others_could_have_written_is_not_run(folder, code, monkeypatch):
    from streamfile import _jit

    files = KeptFiles(folder / "cache", 64 << 20)
    monkeypatch.setattr(_jit, "_known", {})
    assert compiled(KERNEL, files) is not None
    monkeypatch.setattr(_jit, "_known", {})
    (kept,) = (folder / "cache" / "files").iterdir()
    kept.chmod(0o666)
    assert compiled(KERNEL, files) is None


def test_without_a_place_or_without_numba_there_is_none(folder, monkeypatch):
    import sys

    assert compiled(KERNEL, None) is None
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    assert compiled(KERNEL, KeptFiles(folder / "nothing", 64 << 20)) is None
    assert not (folder / "nothing").exists()


def test_a_ranking_is_the_same_bit_for_bit(folder, decoder, monkeypatch):
    path = mf.write_magnitude(
        folder / "rank", [f"k{i}" for i in range(500)], mf.random_vectors(500, 12, 3)
    )
    with Magnitude(path) as v:
        got = v.most_similar("k7", topn=30)
    monkeypatch.setattr(scan, "LEAST_COMPILED", 1 << 60)
    with Magnitude(path) as v:
        assert v.most_similar("k7", topn=30) == got
