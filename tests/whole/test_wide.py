"""Files of more columns than any stock SQLite takes: ELMo's 3,072 dimensions."""

import random

import magnitude_files as mf
import numpy as np
import pytest
from serving import LoggingServer
from wide_sqlite import PRECISION, why_no_wide_sqlite, wide_sqlite

from streamfile import Magnitude

ROWS, DIM = 5000, 3072
HEAD = 128 << 10
CHAIN = 2  # overflow pages of a row, at least

pytestmark = pytest.mark.skipif(bool(why_no_wide_sqlite()), reason=why_no_wide_sqlite())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("wide")


@pytest.fixture(scope="module")
def path(folder):
    return wide_sqlite().write_wide_magnitude(folder / "wide", ROWS, DIM)


@pytest.fixture(scope="module")
def rows(path):
    """Some rows by place, those with keys that differ in case included."""
    chosen = random.Random(1).sample(range(4, ROWS - 4), 120)
    places = [*chosen, *range(4), *range(ROWS - 4, ROWS)]
    found = wide_sqlite().rows(path, rowids=[place + 1 for place in places])
    return {
        place: mf.SqlRow(key, rowid, *mf.decode(dims, magnitude, PRECISION))
        for place, rowid, key, dims, magnitude in zip(
            places, found.rowids, found.keys, found.dims, found.magnitudes, strict=True
        )
    }


@pytest.fixture(scope="module")
def server(folder):
    with LoggingServer(folder) as running:
        yield running


@pytest.fixture(scope="module", params=["local", "streamed"])
def v(request, path, server):
    if request.param == "local":
        with Magnitude(path) as opened:
            yield opened
    else:
        own = {"cache_size": 0}
        with Magnitude(server.url + path.name, stream=True, stream_options=own) as opened:
            yield opened


@pytest.fixture
def cold(path, server):
    with Magnitude(server.url + path.name, stream=True, stream_options={"cache_size": 0}) as opened:
        yield opened


def same(got, expected):
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected, strict=True)


def first_with_key(path, keys):
    """Look keys up with SQL, as a reader must."""
    found = wide_sqlite().rows(path, keys=keys)
    return [int(rowid) - 1 for rowid in found.rowids]


def test_the_file_says_what_it_is(v):
    assert (len(v), v.dim, v.normalized, v.ngram_oov) == (ROWS, DIM, False, False)


def test_keys(v, path, rows):
    places = list(rows)
    assert first_with_key(path, [rows[place].key for place in places]) == [
        place if place != ROWS - 1 else 3 for place in places
    ]  # the last row repeats a key
    rng = random.Random(2)
    for count in (1, 7, len(places) - 1):
        asked = rng.sample(places[:-1], count)
        keys = [rows[place].key for place in asked]
        same(mf.by_themselves(v, keys), np.array([rows[place].unnormalized for place in asked]))
        expected = np.array([rows[place].normalized for place in asked])
        same(mf.by_themselves(v, keys, normalized=True), expected)
        for key, vector in zip(keys[:5], expected, strict=False):
            same(v.query(key, normalized=True), vector)
            assert key in v
    same(v.query(rows[ROWS - 1].key), rows[3].unnormalized)
    assert "not there" not in v


def test_keys_that_differ_in_their_case(v, path, rows):
    keys = [rows[place].key for place in (0, 1, 2, ROWS - 4, ROWS - 3, ROWS - 2)]
    assert len(set(keys)) == 6
    assert len({key.lower() for key in keys}) == 3
    expected = np.array([rows[place].unnormalized for place in first_with_key(path, keys)])
    same(mf.by_themselves(v, keys), expected)
    with Magnitude(path, case_insensitive=True) as insensitive:
        same(mf.by_themselves(insensitive, keys), expected)
        other = next(
            key
            for key in (mixed(keys[0], seed) for seed in range(99))
            if first_with_key(path, [key]) == [-1]
        )
        same(insensitive.query(other), rows[0].unnormalized)
        assert other not in v


def mixed(key, seed):
    """Give a key in another mixture of cases."""
    rng = random.Random(seed)
    return "".join(rng.choice((c, c.swapcase())) for c in key)


def test_places(v, rows):
    places = [*list(rows)[:20], 0, 3, ROWS - 1]
    for place, (key, vector) in zip(places, v[places], strict=True):
        assert key == rows[place].key
        same(vector, rows[place].unnormalized)
    assert [key for key, _ in v[:4]] == [rows[place].key for place in range(4)]
    for (key, vector), place in zip(v[-1:-5:-1], range(ROWS - 1, ROWS - 5, -1), strict=True):
        assert key == rows[place].key
        same(vector, rows[place].unnormalized)
    with pytest.raises(IndexError):
        v[ROWS]


def test_the_vectors_of_a_normalized_object(path, server, rows):
    places = list(rows)[:30]
    expected = np.array([rows[place].normalized for place in places])
    keys = [rows[place].key for place in places]
    own = {"stream": True, "stream_options": {"cache_size": 0}}
    for where, options in [(path, {}), (server.url + path.name, own)]:
        with Magnitude(where, normalized=True, dtype=np.float64, **options) as v:
            np.testing.assert_array_equal(mf.by_themselves(v, keys), expected.astype(np.float64))
            np.testing.assert_array_equal(v[places[0]][1], expected[0].astype(np.float64))


def test_ten_keys_cost_little(cold, rows, path):
    chosen = list(rows)[:10]
    assert cold.stats.requests <= 2  # the schema and the order of dimensions are long here
    assert cold.stats.bytes <= 2 * HEAD
    with cold.stats.measure() as used:
        got = mf.by_themselves(cold, [rows[place].key for place in chosen])
    same(got, np.array([rows[place].unnormalized for place in chosen]))
    assert used.bytes < 1_500_000
    assert used.bytes < path.stat().st_size / 40


def test_overflow_chains_come_in_one_wave(cold, path, rows):
    """After the leaves, which say where chains begin; in a compact file their pages are next."""
    assert path.stat().st_size > ROWS * (1 + CHAIN) * 4096
    places = list(rows)
    _ = cold[places[:20]]  # interior pages, leaves, chains
    with cold.stats.measure() as used:
        others = cold[places[20:50]]
    for place, (key, vector) in zip(places[20:50], others, strict=True):
        assert key == rows[place].key
        same(vector, rows[place].unnormalized)
    assert used.waves == 2


def test_going_through_the_file(path, rows):
    expected = {place: row for place, row in rows.items() if place < 2500}
    with Magnitude(path) as v:
        for place, (key, vector) in enumerate(v):
            if place in expected:
                assert key == expected[place].key
                same(vector, expected[place].unnormalized)
            if place == 2500:
                break
