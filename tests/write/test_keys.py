"""Sorted keys and the indexes made of them, held against those of SQLite."""

from contextlib import closing
from unittest import mock

import apsw
import magnitude_files as mf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamfile.write import indexes
from streamfile.write.indexes import column, index_records, pair_records
from streamfile.write.keys import Keys
from vfs import DatabaseWriter
from vfs.btree.pages import LocalPages
from vfs.btree.table import Table
from vfs.writer.record import encode_record

KEYS = st.lists(
    st.text("aAbBéÉ \0😀", max_size=4)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    | st.integers(50, 300).map(lambda size: "k" * size),
    max_size=40,
)
EDGES = [0, 1, 2, 127, 128, 32767, 32768, 2**23 - 1, 2**23, 2**31 - 1, 2**31]
NUMBERS = st.sampled_from([sign * edge for edge in EDGES for sign in (1, -1)]) | st.integers(
    -(2**31), 2**31
)
quick = settings(max_examples=150)


def database(keys):
    """Fill a table of keys by SQL."""
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE t (k TEXT COLLATE NOCASE)")
    connection.executemany("INSERT INTO t VALUES (?)", [(key,) for key in keys])
    return connection


def checked(path, declaration, rows, records):
    """Write a table and an index of encoded entries, in which SQLite must find no fault."""
    writer = DatabaseWriter(path, page_size=1024)
    table = writer.table()
    for rowid, row in rows:
        table.add_record(rowid, encode_record(row))
    root = table.finish()
    index = writer.index()
    index.add(records)
    writer.finish(
        [
            ("table", "t", "t", root, f"CREATE TABLE t (k {declaration})"),
            ("index", "i", "t", index.finish(), "CREATE INDEX i ON t (k)"),
        ]
    )
    with closing(apsw.Connection(str(path))) as connection:
        assert connection.pragma("integrity_check") == "ok"


@given(KEYS, st.integers(1, 50), st.integers(1, 7))
@example(["a", "A", "a", "ab", "a\0b", "a\0c", "", ""], 2, 3)
@quick
def test_keys_are_sorted_as_an_index_of_sqlite_is(tmp_path, texts, run, batch):
    connection = database(texts)
    with closing(Keys(tmp_path)) as keys, mock.patch("streamfile.write.keys.RUN", run):
        for begin in range(0, len(texts), batch):
            keys.add([text.encode() for text in texts[begin : begin + batch]])
        found = [(key.decode(), rowid) for key, rowid in keys.sorted()]
        kept = [(first, [key.decode() for key in some]) for first, some in keys.batches()]
        lengths, most = list(keys.lengths), keys.most_equal
    assert found == connection.execute("SELECT k, rowid FROM t ORDER BY k, rowid").fetchall()
    assert kept == [
        (at + 1, texts[at : at + batch]) for at in range(0, len(texts), batch) if texts[at:]
    ]
    sql = "SELECT min(length(k), 255) FROM t ORDER BY rowid"
    assert lengths == [length for (length,) in connection.execute(sql)]
    groups = "SELECT ifnull(max(n), 0) FROM (SELECT count(*) AS n FROM t GROUP BY k)"
    assert most == connection.execute(groups).get
    assert list(tmp_path.iterdir()) == []


@given(
    KEYS,
    st.sampled_from([1, 2, 120, (1 << 15) - 3, (1 << 23) - 3, (1 << 31) - 3, (1 << 47) - 3]),
)
@example(["k" * size for size in (0, 56, 57, 58, 59, 255, 256, 5000)], 1)
@quick
def test_an_index_on_keys_is_sound(tmp_path, texts, first):
    rows = list(enumerate(texts, first))
    sql = "SELECT k, rowid FROM t ORDER BY k, rowid"
    order = [(key, rowid + first - 1) for key, rowid in database(texts).execute(sql)]
    records = list(index_records((key.encode(), rowid) for key, rowid in order))
    assert records == [encode_record(entry) for entry in order]
    path = tmp_path / "keys"
    checked(path, "TEXT COLLATE NOCASE", [(rowid, (text,)) for rowid, text in rows], records)


@given(st.lists(NUMBERS, max_size=60), st.integers(1, 9))
@quick
def test_an_index_on_numbers_is_sound(tmp_path, numbers, at_once):
    values, rowids = np.array(numbers, np.int64), np.arange(1, len(numbers) + 1)
    order = np.argsort(values, kind="stable")
    with mock.patch.object(indexes, "PAIRS", at_once):
        records = list(pair_records(values[order], rowids[order]))
    assert records == [encode_record([int(values[at]), int(rowids[at])]) for at in order.tolist()]
    rows = [(rowid, (number,)) for rowid, number in enumerate(numbers, 1)]
    checked(tmp_path / "numbers", "INTEGER", rows, records)


@pytest.mark.parametrize("rows", [0, 1, 3000])
def test_a_dimension_is_read_as_it_is_stored(tmp_path, rows):
    keys, vectors = mf.random_words(rows, 1), mf.random_vectors(rows, 5, 1)
    path = mf.write_magnitude(tmp_path / "rows", keys, vectors)
    with closing(apsw.Connection(str(path))) as connection:
        sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'magnitude'"
        pages = LocalPages(path)
        values, rowids = column(pages, Table(pages, connection.execute(sql).get), 5, 3)
        stored = connection.execute("SELECT dim_3, rowid FROM magnitude").fetchall()
    assert list(zip(values.tolist(), rowids.tolist(), strict=True)) == stored
    assert values.dtype == rowids.dtype == np.int64
