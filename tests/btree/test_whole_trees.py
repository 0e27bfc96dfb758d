"""Whole b-trees, read from the first entry to the last, held against SQLite."""

import random
from contextlib import closing

import apsw
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vfs
from vfs.btree.index import Index, nocase
from vfs.btree.pages import LocalPages
from vfs.btree.record import decode_record
from vfs.btree.table import Table
from vfs.btree.whole_trees import is_index, read_entries, read_rows, survey

SIZES = [512, 1024, 4096, 65536]


def database(path, page_size, rows, seed=0):
    """Write a table of records of all lengths, with holes between row ids, and its indexes."""
    rng = random.Random(seed)
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(f"PRAGMA page_size = {page_size}")
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE t (k TEXT COLLATE NOCASE, b BLOB, n)")
        connection.execute("CREATE INDEX i ON t (k)")
        connection.execute("CREATE INDEX falling ON t (n DESC, b)")
        connection.execute("CREATE TABLE w (k TEXT PRIMARY KEY, v) WITHOUT ROWID")
        for _ in range(rows):
            key = "".join(rng.choices("abAB", k=rng.choice([1, 5, 50, 600])))
            record = key, rng.randbytes(rng.choice([0, 3, 90, 3000])), rng.choice([None, 1, 2.5])
            rowid = rng.randrange(-(2**63), 2**63)
            connection.execute("INSERT INTO t (rowid, k, b, n) VALUES (?, ?, ?, ?)",
                               (rowid, *record))  # fmt: skip
            connection.execute("INSERT OR IGNORE INTO w VALUES (?, ?)", record[:2])
        connection.execute("DELETE FROM t WHERE rowid % 7 = 3")
        connection.execute("COMMIT")
        roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_schema"))
    return LocalPages(path), roots


def connect(path):
    return closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY))


def records(pages, root):
    found = []
    for rows in read_rows(pages, Table(pages, root)):
        for rowid, at, size in zip(rows.rowids, rows.starts, rows.sizes, strict=True):
            found.append((int(rowid), *plain(rows.data[at : at + size].tobytes())))
    return found


def plain(record):
    """Decode a record of which the first value is text."""
    key, *others = decode_record(record)
    return key.decode() if isinstance(key, bytes) else key, *others


@pytest.mark.parametrize("page_size", SIZES)
def test_all_that_a_database_has(tmp_path, page_size):
    pages, roots = database(tmp_path / "a", page_size, 400)
    with connect(tmp_path / "a") as connection:
        rows = connection.execute("SELECT rowid, k, b, n FROM t ORDER BY rowid").fetchall()
        assert records(pages, roots["t"]) == rows
        assert len(rows) > 300
        index = connection.execute("SELECT k, rowid FROM t ORDER BY k, rowid").fetchall()
        assert [plain(record) for record in read_entries(pages, roots["i"])] == index
        query = "SELECT n, b, rowid FROM t ORDER BY n DESC, b, rowid"
        falling = connection.execute(query).fetchall()
        got = read_entries(pages, roots["falling"])
        assert [tuple(decode_record(record)) for record in got] == falling
        without = connection.execute("SELECT k, v FROM w ORDER BY k").fetchall()
        assert [plain(record) for record in read_entries(pages, roots["w"])] == without
    assert [is_index(pages, roots[name]) for name in ("t", "i", "falling", "w")] == [
        *(False, True, True, True)
    ]
    assert not is_index(pages, 1)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(0, 60), page_size=st.sampled_from(SIZES), seed=st.integers(0, 2**32))
def test_any_small_database(tmp_path_factory, rows, page_size, seed):
    path = tmp_path_factory.mktemp("small") / "a"
    pages, roots = database(path, page_size, rows, seed)
    with connect(path) as connection:
        expected = connection.execute("SELECT rowid, k, b, n FROM t ORDER BY rowid").fetchall()
        assert records(pages, roots["t"]) == expected
        expected = connection.execute("SELECT k, rowid FROM t ORDER BY k, rowid").fetchall()
        assert [plain(record) for record in read_entries(pages, roots["i"])] == expected


@pytest.mark.parametrize("page_size", SIZES)
def test_a_surveyed_tree_knows_all_of_its_interior_pages(tmp_path, page_size):
    pages, roots = database(tmp_path / "a", page_size, 400)
    with connect(tmp_path / "a") as connection:
        for name, tree in {
            "t": Table(pages, roots["t"]),
            "i": Index(pages, roots["i"], fold=nocase),
        }.items():
            survey(pages, tree)
            interior = connection.execute(
                "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'internal'", (name,)
            ).fetchall()
            assert sorted(tree.interior) == sorted(number for (number,) in interior)
            depth = "SELECT max(length(path) - length(replace(path, '/', ''))) FROM dbstat"
            levels = connection.execute(f"{depth} WHERE name = ?", (name,))
            assert tree.depth == levels.get - 1


def damage(path, name, change):
    """Change bytes of the first interior page below the root, or of the root."""
    with connect(path) as connection:
        number, size = connection.execute(
            "SELECT pageno, (SELECT page_size FROM pragma_page_size) FROM dbstat"
            " WHERE name = ? AND pagetype = 'internal' ORDER BY path LIMIT 1",
            (name,),
        ).fetchone()
    data = bytearray(path.read_bytes())
    at = (number - 1) * size
    data[at : at + size] = change(bytes(data[at : at + size]), number)
    path.write_bytes(data)
    return LocalPages(path)


CHANGES = {
    "its own child": lambda page, number: page[:8] + number.to_bytes(4, "big") + page[12:],
    "outside": lambda page, number: page[:8] + b"\x7f" + page[9:],
    "of no type": lambda page, number: b"\7" + page[1:],
    "cells outside": lambda page, number: page[:12] + b"\xff\xff" + page[14:],
    "garbage": lambda page, number: random.Random(1).randbytes(len(page)),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("name", ["t", "i"])
def test_damaged_trees_are_refused(tmp_path, name, what):
    _, roots = database(tmp_path / "a", 512, 300)
    pages = damage(tmp_path / "a", name, CHANGES[what])
    tree = Table(pages, roots["t"])
    read = read_rows(pages, tree)
    if name == "i":
        tree = Index(pages, roots["i"], fold=nocase)
        read = read_entries(pages, roots["i"])
    with pytest.raises(vfs.DatabaseError, match=str(tmp_path)):
        list(read)
    with pytest.raises(vfs.DatabaseError, match=str(tmp_path)):
        survey(pages, tree)


def test_leaves_at_different_depths_are_refused(tmp_path):
    pages, roots = database(tmp_path / "a", 512, 300)
    tree = Table(pages, roots["t"])
    survey(pages, tree)
    children = tree.interior[roots["t"]].children.tolist()
    leaf = tree.interior[children[1]].children.tolist()[0]
    data = bytearray((tmp_path / "a").read_bytes())
    at = (roots["t"] - 1) * 512
    data[at : at + 512] = data[at : at + 512].replace(
        children[1].to_bytes(4, "big"), leaf.to_bytes(4, "big")
    )
    (tmp_path / "a").write_bytes(data)
    pages = LocalPages(tmp_path / "a")
    with pytest.raises(vfs.DatabaseError, match="different depths"):
        survey(pages, Table(pages, roots["t"]))


def test_rows_come_in_batches(tmp_path, monkeypatch):
    pages, roots = database(tmp_path / "a", 512, 400)
    whole = records(pages, roots["t"])
    monkeypatch.setattr("vfs.btree.whole_trees.BATCH", 4096)
    batches = list(read_rows(pages, Table(pages, roots["t"])))
    assert len(batches) > 10
    assert np.concatenate([rows.rowids for rows in batches]).tolist() == [row[0] for row in whole]
    assert records(pages, roots["t"]) == whole
