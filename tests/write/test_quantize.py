"""Records of vectors, held against those that SQLite writes."""

import struct
import tracemalloc

import apsw
import magnitude_files as mf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernels import machine_code

from streamfile.errors import ArgumentError
from streamfile.format.rows import VectorRows
from streamfile.write import quantize
from streamfile.write.compiled_records import KERNEL
from streamfile.write.quantize import Quantizer
from streamfile.write.records import encode_rows
from vfs.btree.pages import LocalPages
from vfs.btree.record import decode_record
from vfs.btree.table import Table
from vfs.btree.walk import run

INT_EDGES = [0, 1, 2, 127, 128, 32767, 32768, 2**23 - 1, 2**23, 10**9, 2**31 - 1]
INTS = st.sampled_from([sign * edge for edge in INT_EDGES for sign in (1, -1)]) | st.integers(
    -(2**31), 2**31 - 1
)
WHOLE = st.sampled_from([2.0**bits + step for bits in range(54) for step in (-1, 0, 1)])
MAGNITUDES = WHOLE | st.floats(0) | st.sampled_from([float("nan"), float("inf"), 0.0])
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.integers(0, 9000).map(
    lambda size: "k" * size
)
DIRECTIONS = st.sampled_from([0, 1, -1, 1e-9, 0.5, 3e38, 1e-45, float("nan"), float("inf")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("quantize")


@pytest.fixture(scope="module")
def code(folder):
    """The machine code, compiled once."""
    return machine_code(KERNEL, folder)


@pytest.fixture(scope="module", params=["numpy", "compiled"], autouse=True)
def encoder(request):
    """Which of both encodes all rows, however few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize, "LEAST_COMPILED", 0)
        function = request.getfixturevalue("code") if request.param == "compiled" else None
        patch.setattr(quantize, "compiled_by_default", lambda kernel: function)
        yield request.param


def records(rows):
    """Give row ids and records."""
    bounds = zip(rows.rowids.tolist(), rows.starts.tolist(), rows.sizes.tolist(), strict=True)
    return {rowid: rows.data[start : start + size].tobytes() for rowid, start, size in bounds}


def by_sqlite(folder, keys, ints, magnitudes, first=1):
    """Give the records that SQLite makes."""
    path = folder / "sqlite.db"
    path.unlink(missing_ok=True)
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA page_size = 65536")
    dims = [f"dim_{at} INTEGER" for at in range(np.shape(ints)[1])]
    connection.execute(
        f"CREATE TABLE magnitude (key TEXT COLLATE NOCASE, {', '.join(dims)}, magnitude REAL)"
    )
    with connection:
        connection.executemany(
            f"INSERT INTO magnitude (rowid, key, {', '.join(d.split()[0] for d in dims)}, "
            f"magnitude) VALUES ({', '.join('?' * (len(dims) + 3))})",
            (
                (rowid, key, *map(int, row), float(magnitude))
                for rowid, (key, row, magnitude) in enumerate(
                    zip(keys, ints, magnitudes, strict=True), first
                )
            ),
        )
    root = connection.execute("SELECT rootpage FROM sqlite_schema").get
    connection.close()
    pages = LocalPages(path)
    return records(run(pages, Table(pages, root).find(np.arange(first, first + len(keys)))))


def spelt_out(key, ints, magnitude):
    """Make one record as the file format describes it, for more columns than SQLite has."""

    def varint(value):
        groups = [value & 0x7F]
        while value := value >> 7:
            groups.insert(0, value & 0x7F | 0x80)
        return bytes(groups)

    types, body = varint(2 * len(key) + 13), [key]
    for value in ints:
        bits = (value if value >= 0 else ~value).bit_length() + 1
        size = 0 if value in (0, 1) else (bits + 7) // 8
        types += bytes([size or 8 + value])
        body.append(value.to_bytes(size, "big", signed=True))
    types += b"\x07"
    body.append(struct.pack(">d", magnitude))
    size = next(size for size in range(1, 5) if len(varint(len(types) + size)) == size)
    return varint(len(types) + size) + types + b"".join(body)


@given(st.data(), st.integers(1, 5), st.integers(1, 140))
@example(None, 3, 124)
@settings(max_examples=100, deadline=None)
def test_records_are_those_of_sqlite(folder, data, count, dim):
    if data is None:  # headers of 126 to 130 bytes, with their own size
        keys, ints, magnitudes = ["a" * 57, "b" * 58, ""], np.zeros((3, dim), int), [0.5, 1, 2**47]
    else:
        keys = data.draw(st.lists(KEYS, min_size=count, max_size=count))
        values = data.draw(st.lists(INTS, min_size=1, max_size=20))
        ints = np.resize(values, (count, dim))
        magnitudes = data.draw(st.lists(MAGNITUDES, min_size=count, max_size=count))
    encoded, sizes = encode_rows(
        [key.encode() for key in keys], ints.astype(np.int32), np.array(magnitudes, np.float64)
    )
    ends = np.cumsum(sizes)
    found = [encoded[end - size : end].tobytes() for end, size in zip(ends, sizes, strict=True)]
    assert found == list(by_sqlite(folder, keys, ints, magnitudes).values())
    assert len(encoded) == sizes.sum()


@pytest.mark.parametrize("dim", [*range(121, 130), 1998])
def test_headers_of_every_size(folder, dim):
    keys, ints = ["a", "b" * 57, "c" * 58, "d" * 8186], np.arange(4 * dim).reshape(4, dim) * 7919
    expected = list(by_sqlite(folder, keys, ints, [0.5] * 4).values())
    spelt = [
        spelt_out(key.encode(), row.tolist(), 0.5) for key, row in zip(keys, ints, strict=True)
    ]
    assert spelt == expected
    encoded, _ = encode_rows([key.encode() for key in keys], ints.astype("i4"), np.full(4, 0.5))
    assert encoded.tobytes() == b"".join(expected)


@pytest.mark.parametrize("dim", [3072, 16379, 16380, 16381, 16382, 30000])
def test_more_columns_than_sqlite_has(dim):
    key, ints = b"k" * (1 << 20), np.random.default_rng(0).integers(-(10**7), 10**7, (1, dim))
    encoded, _ = encode_rows([key], ints.astype(np.int32), np.array([2.5]))
    assert encoded.tobytes() == spelt_out(key, ints[0].tolist(), 2.5)


@pytest.mark.parametrize("precision", range(1, 10))
@pytest.mark.parametrize("dim", [1, 50, 300])
def test_vectors_as_sql_stores_them(folder, dim, precision):
    keys = [*mf.random_words(70, 0), "same", "same", "é" * 300, "nul\0", "\0", ""]
    vectors = mf.random_vectors(len(keys), dim, 1)
    vectors[0] = 0
    vectors[0, -1] = 3  # a length that is a whole number, and components of 0 and 1
    ints, lengths = mf.quantize(vectors, precision)
    expected = by_sqlite(folder, keys, ints, lengths, first=1000)
    quantizer = Quantizer(dim, precision)
    assert records(quantizer.encode([key.encode() for key in keys], vectors, 1000)) == expected


@given(st.data(), st.integers(1, 6), st.integers(0, 30), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_components_are_rounded_as_python_does(data, dim, count, precision):
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
    vectors = np.array(
        data.draw(
            st.lists(st.lists(numbers, min_size=dim, max_size=dim), min_size=count, max_size=count)
        ),
        np.float32,
    ).reshape(count, dim)
    rows = Quantizer(dim, precision).encode([b"k"] * count, vectors, 1)
    found = list(records(rows).values())
    for row, record in zip(vectors.tolist(), found, strict=True):
        length = float(np.linalg.norm(np.array(row)))
        if length:
            ints = [round(value / length * 10**precision) for value in row]
            expected, _ = encode_rows([b"k"], np.array([ints], np.int32), np.array([length]))
            assert record == expected.tobytes()


@given(st.data(), st.integers(1, 40), st.lists(st.integers(1, 12), min_size=1, max_size=6))
@example(None, 9000, [1, 2, 3])
@settings(max_examples=100, deadline=None)
def test_the_same_whatever_the_batches_are(data, dim, batches):
    count = sum(batches)
    vectors = np.random.default_rng(0).standard_normal((count, dim))
    if data is not None:
        rows = st.lists(st.integers(0, count - 1), max_size=4)
        for row in data.draw(rows):
            vectors[row, :] = data.draw(DIRECTIONS)
    keys = [b"%d" % row * (1 + 100 * (row % 5 == 0)) for row in range(count)]
    whole, parts = Quantizer(dim, 7), Quantizer(dim, 7)
    expected = records(whole.encode(keys, vectors, 7))
    found, at = {}, 0
    for size in batches:
        rows = parts.encode(keys[at : at + size], vectors[at : at + size], 7 + at)
        found |= records(rows)
        at += size
    assert found == expected
    assert parts.order() == whole.order()


@given(st.data(), st.integers(1, 200), st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_both_encoders_make_the_same(code, data, dim, precision):
    keys = data.draw(st.lists(KEYS.map(str.encode), min_size=1, max_size=60))
    values = st.floats() | DIRECTIONS | st.sampled_from([5e-324, 2.7e-162, 1e154, -1e308, 2.0**40])
    few = data.draw(st.lists(values, min_size=1, max_size=20))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    vectors = rng.choice(few, (len(keys), dim))
    if data.draw(st.booleans()):
        vectors = rng.standard_normal(vectors.shape) * rng.choice([1e-4, 1, 1e4], vectors.shape)
    with np.errstate(over="ignore"):
        vectors = vectors.astype(data.draw(st.sampled_from(["f8", "f4"])))
    made = []
    for function in (None, code):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(quantize, "compiled_by_default", lambda kernel, it=function: it)
            quantizer = Quantizer(dim, precision)
        rows = quantizer.encode(keys, vectors, 5)
        made.append((records(rows), quantizer.order(), quantizer._bins.tolist()))
    assert made[0] == made[1]
    assert sum(made[0][2]) == vectors.size


def test_integers_at_the_edges_of_their_sizes_are_those_of_sqlite(folder):
    edges = [0, 1, 2, 127, 128, 129, 32767, 32768, 32769, 2**23 - 1, 2**23, 10**9]
    ints = np.array([[edge, -edge, -edge - 1, edge] for edge in edges[:-1]] + [[10**9, 0, 0, 1]])
    others = np.sqrt(10**18 - (ints.astype(float) ** 2).sum(axis=1).clip(max=10**18))
    vectors = np.column_stack([ints, others])
    expected = np.column_stack([ints, np.rint(others).astype(np.int64)])
    rows = Quantizer(5, 9).encode([b"k"] * len(ints), vectors, 1)
    magnitudes = np.linalg.norm(vectors, axis=1)
    assert records(rows) == by_sqlite(folder, ["k"] * len(ints), expected, magnitudes)


def test_a_length_whose_square_is_denormal_is_too_short():
    rows = Quantizer(1, 9).encode([b"k"], np.array([[2.7e-162]]), 1)  # 1.2 of what numpy says
    assert decode_record(records(rows)[1])[1] == 10**9


@given(st.integers(2, 400), st.sampled_from(["zero", "nan", "inf"]), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_vectors_of_no_direction(dim, kind, precision):
    vectors = np.ones((6, dim), np.float32)
    vectors[[1, 4]] = {"zero": 0, "nan": np.nan, "inf": np.inf}[kind]
    if kind != "zero":
        vectors[1, 1:] = 2.0
    rows = Quantizer(dim, precision).encode([b"k"] * 6, vectors, 1)
    stored = VectorRows("rows", rows, dim)
    unit = stored.vectors(precision, normalized=True)
    steps = np.rint(unit[[1, 4]].astype(np.float64) * 10**precision)
    assert np.all(np.abs(steps) == 1)
    assert np.allclose(unit[[0, 2, 3, 5]], dim**-0.5, atol=0.6 * 10.0**-precision)
    if dim > 64:
        assert 0.2 < np.mean(steps > 0) < 0.8
        assert np.any(steps[0] != steps[1])
    original = stored.vectors(precision, normalized=False)
    if kind == "zero":
        assert not original[[1, 4]].any()
    elif kind == "nan":  # SQLite stores it as NULL, which is read as NaN
        assert np.isnan(original[[1, 4]]).all()
        assert decode_record(records(rows)[2])[-1] is None
    else:
        assert np.isinf(original[[1, 4]]).all()


def test_the_order_of_dimensions_is_that_of_their_entropy():
    rng = np.random.default_rng(0)
    spread = np.array([0.2, 1.0, 0.0, 3.0, 0.5, 0.2, 2.0])
    vectors = rng.standard_normal((3000, 7)) * spread
    quantizer = Quantizer(7, 7)
    for part in np.array_split(vectors, 4):
        quantizer.encode([b"k"] * len(part), part, 1)
    unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    entropies = []
    for column in unit.T:
        counts = np.unique((column * 100).astype(int), return_counts=True)[1] / 3000
        entropies.append(-(counts * np.log2(counts)).sum())
    assert quantizer.order() == np.argsort(-np.array(entropies), kind="stable").tolist()
    assert quantizer.order()[-1] == 2


def test_a_long_key_is_not_room_for_all_others():
    keys = [b"k" * (1 << 20) if row == 100 else b"k" for row in range(1000)]
    quantizer, vectors = Quantizer(50, 7), np.ones((1000, 50))
    tracemalloc.start()
    try:
        rows = quantizer.encode(keys, vectors, 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (rows.sizes > 1 << 20).nonzero()[0].tolist() == [100]
    assert peak < 32 << 20


def test_no_rows():
    quantizer = Quantizer(3, 7)
    rows = quantizer.encode([], np.empty((0, 3)), 1)
    assert (len(rows.rowids), len(rows.starts), len(rows.sizes)) == (0, 0, 0)
    assert quantizer.order() == [0, 1, 2]


@pytest.mark.parametrize("precision", [-1, 0, 10])
def test_a_precision_that_cannot_be(precision):
    with pytest.raises(ArgumentError, match="expected 1 to 9 decimal places"):
        Quantizer(3, precision)
