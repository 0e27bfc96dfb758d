"""The lengths of keys that a file laid out for streaming has: they only save time."""

import random
from contextlib import closing

import apsw
import magnitude_files as mf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sql_similar import misspelt, sql_similar

import vfs
from streamfile.format.key_lengths import read_lengths
from streamfile.lookup.vectors import similar_to
from streamfile.oov import ties
from streamfile.oov.ties import Ties
from streamfile.readers.local import LocalReader
from streamfile.tools.repack import repack
from vfs.btree.walk import run

ROWS = 2500
SIZES = [512, 1024, 4096, 65536]
MOST = 255


def words():
    """Make keys that share their n-grams, so that their lengths decide; many are long."""
    rng = random.Random(1)
    parts = ["ter", "lin", "gal", "bo", "ra", "é", "日", "-"]
    keys = ["", "a", "A", "ab", "ter\0ling", "ter", "Ter", "TER"]
    for stem in ("terlin", "galbora"):
        keys += [stem + "x" * n for n in (*range(12), *range(240, 262), 400)]
        keys += ["y" * n + stem for n in (*range(12), *range(240, 262), 400)]
    while len(keys) < ROWS:
        keys.append("".join(rng.choices(parts, k=rng.choice([1, 2, 3, 4, 5, 6, 90, 130]))))
    rng.shuffle(keys)
    return keys


KEYS = words()


class WalkingReader(LocalReader):
    """Searches as a streamed file does, without SQL."""

    prefers_sql = False


@pytest.fixture(scope="module", params=SIZES)
def path(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lengths")
    mf.write_magnitude(
        folder / "a", KEYS, mf.random_vectors(ROWS, 3, 1), page_size=request.param, subwords=True
    )
    repack(folder / "a", folder / "b", log=False)
    return folder / "b"


@pytest.fixture(scope="module")
def reader(path):
    with closing(WalkingReader(str(path))) as reader:
        yield reader


@pytest.fixture(scope="module")
def sql(path):
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        yield connection


def similar(reader, keys):
    return similar_to(reader, keys, language="en", case_insensitive=False)


def test_they_are_what_sqlite_counts(reader, sql):
    rng = random.Random(2)
    expected = dict(sql.execute("SELECT rowid, min(255, length(key)) FROM magnitude"))
    assert max(expected.values()) == MOST
    table = reader.contents.lengths
    for count in (1, 2, 50, ROWS):
        rowids = np.array(sorted(rng.sample(range(1, ROWS + 1), count)))
        got = run(reader.contents.pages, read_lengths(table, rowids))
        assert got.tolist() == [expected[rowid] for rowid in rowids.tolist()]


@pytest.mark.parametrize("wrong", [0, -5, ROWS + 1, 10**9, 2**62])
def test_rows_that_do_not_exist_have_none(reader, wrong):
    table = reader.contents.lengths
    with pytest.raises(vfs.DatabaseError, match="not the lengths of all keys"):
        run(reader.contents.pages, read_lengths(table, np.array([1, wrong])))


def test_misspelt_words_have_the_rows_that_sqlite_finds(reader, sql, monkeypatch):
    rng = random.Random(3)
    asked = []

    def spy(table, rowids):
        asked.append(len(rowids))
        return (yield from read_lengths(table, rowids))

    monkeypatch.setattr(ties, "read_lengths", spy)
    keys = dict.fromkeys(misspelt(rng.choice(KEYS) or "a", rng) for _ in range(120))
    keys = [key for key in keys if key not in KEYS and "\0" not in key]
    assert similar(reader, keys) == [sql_similar(sql, key) for key in keys]
    assert len(asked) > 10


@settings(max_examples=40, deadline=None)
@given(st.text(st.sampled_from("terlingalboxyé日-AT"), min_size=1, max_size=9))
def test_any_word_has_the_rows_that_sqlite_finds(reader, sql, key):
    assert similar(reader, [key]) == [sql_similar(sql, key)]


def test_fewer_rows_are_read(path, monkeypatch):
    """Of many rows that have as many n-grams, only those with short keys are read."""
    read = []
    original = Ties._read

    def spy(self, able):
        read.append(len(able))
        return original(self, able)

    monkeypatch.setattr(Ties, "_read", spy)
    counts = []
    for name in (path, path.with_name("a")):
        read.clear()
        with closing(WalkingReader(str(name))) as reader:
            rows = similar(reader, ["galborax" + "z" * 5, "terlinnn", "linngallo"])
        counts.append((rows, sum(read)))
    (rows, some), (others, all_) = counts
    assert rows == others
    assert some < all_ / 2
