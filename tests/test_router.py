import random

import apsw
import numpy as np
import pytest

import vfs


class Counting:
    """Pages that note what was read."""

    def __init__(self, path):
        pages = vfs.LocalPages(path)
        self.pages, self.name, self.layout = pages, pages.name, pages.layout
        self.asked = set()

    def read(self, numbers, *, spare=(), opening=False):
        numbers = set(numbers)
        self.asked |= numbers
        return self.pages.read(numbers)

    def cached(self, number):
        return None


class Database:
    """A table of rows and an index on its keys, with what SQL says of them."""

    def __init__(self, path, keys, *, page_size, gaps=False, vacuum=True):
        self.path = path
        rng = random.Random(0)
        connection = apsw.Connection(str(path))
        connection.execute(f"PRAGMA page_size = {page_size}; PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF; BEGIN")
        connection.execute("CREATE TABLE t (k TEXT COLLATE NOCASE, b BLOB)")
        rowid, rows = 0, []
        for key in keys:
            rowid += rng.randrange(1, 10**6) if gaps else 1
            rows.append((rowid, key, bytes(90)))
        connection.executemany("INSERT INTO t (rowid, k, b) VALUES (?, ?, ?)", rows)
        connection.execute("COMMIT; CREATE INDEX i ON t (k)")
        if vacuum:
            connection.execute("VACUUM")
        self.roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_schema"))
        connection.close()
        self.rowids = [rowid for rowid, _, _ in rows]
        self.keys = [key.encode() for key in keys]

    def open(self):
        pages = Counting(self.path)
        trees = [
            vfs.Table(pages, self.roots["t"], len(self.keys)),
            vfs.Index(pages, self.roots["i"], len(self.keys), fold=vfs.nocase),
        ]
        return pages, trees

    def explored(self):
        pages, (table, index) = self.open()
        walks = [table.find(self.rowids), index.find(self.keys)]
        vfs.run(pages, vfs.together(walks))
        return table, index


def keys_of(count, longest, seed=0):
    rng = random.Random(seed)
    return [f"{rng.randrange(10**9)} ".ljust(rng.randrange(5, longest), "K") for _ in range(count)]


@pytest.fixture(scope="module", params=["short keys", "overflowing keys", "gaps"])
def database(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("router") / "a.db"
    if request.param == "short keys":
        return Database(path, keys_of(5000, 20), page_size=1024)
    if request.param == "gaps":
        return Database(path, keys_of(3000, 40), page_size=512, gaps=True, vacuum=False)
    return Database(path, keys_of(900, 1500), page_size=512)


def test_every_interior_page_comes_back_as_it_was(database):
    explored = database.explored()
    pages, trees = database.open()
    assert vfs.unpack(vfs.pack(explored), trees)
    assert pages.asked == set()
    for before, after in zip(explored, trees, strict=True):
        assert after.depth == before.depth >= 2
        assert after.interior.keys() == before.interior.keys()
        assert len(after.interior) > 3
        for number, node in before.interior.items():
            again = after.interior[number]
            assert again.children.tolist() == node.children.tolist()
            assert again.children.dtype == np.int64
            if isinstance(before, vfs.Table):
                assert again.keys.tolist() == node.keys.tolist()
            else:
                assert list(again.cells) == list(node.cells)
    assert vfs.pack(trees) == vfs.pack(explored)


def test_cells_that_overflow_are_among_them(tmp_path):
    _, index = Database(tmp_path / "a.db", keys_of(900, 1500), page_size=512).explored()
    cells = [cell for node in index.interior.values() for cell in node.cells]
    assert sum(cell.overflow > 0 for cell in cells) > 20
    assert sum(cell.overflow == 0 for cell in cells) > 5


def test_searches_give_the_same_without_reading_any_interior_page(database):
    explored = database.explored()
    interior = {number for tree in explored for number in tree.interior}
    pages, trees = database.open()
    assert vfs.unpack(vfs.pack(explored), trees)
    keys = [*database.keys, b"", b"none", b"zz"]
    found = vfs.run(pages, trees[1].find(keys), trees=trees)
    rows = vfs.run(pages, trees[0].find([*database.rowids, -1, 10**12]), trees=trees)
    assert pages.asked.isdisjoint(interior)
    plain, (table, index) = database.open()
    assert found == vfs.run(plain, index.find(keys))
    assert sum(map(bool, found)) == len(keys) - 3
    expected = vfs.run(plain, table.find(database.rowids))
    assert rows.rowids.tolist() == expected.rowids.tolist() == database.rowids
    assert rows.sizes.tolist() == expected.sizes.tolist()


def test_a_router_adds_to_what_a_tree_already_knows(database):
    pages, half = database.open()
    vfs.run(pages, half[0].find(database.rowids[:1]))
    vfs.run(pages, half[1].find(database.keys[:1]))
    record = vfs.pack(half)
    pages, other = database.open()
    vfs.run(pages, other[0].find(database.rowids[-1:]))
    vfs.run(pages, other[1].find(database.keys[-1:]))
    own = [dict(tree.interior) for tree in other]
    assert vfs.unpack(record, other)
    for tree, mine, theirs in zip(other, own, half, strict=True):
        assert tree.interior.keys() == mine.keys() | theirs.interior.keys()
        assert len(tree.interior) > len(mine)
        assert all(tree.interior[number] is node for number, node in mine.items())


def test_a_router_of_trees_that_know_nothing(database):
    _, trees = database.open()
    record = vfs.pack(trees)
    _, others = database.open()
    assert vfs.unpack(record, others)
    assert all(tree.interior == {} and tree.depth is None for tree in others)
    assert vfs.unpack(vfs.pack([]), [])


def test_a_router_of_other_trees_is_refused(database, tmp_path):
    table, index = database.explored()
    record = vfs.pack([table, index])
    pages, trees = database.open()
    wrong_root = vfs.Table(pages, table.root + 1)
    other_kind = vfs.Index(pages, table.root, fold=vfs.nocase)
    other = Database(tmp_path / "other.db", keys_of(50, 9), page_size=4096)
    for wrong in (
        trees[::-1],
        trees[:1],
        [*trees, trees[0]],
        [wrong_root, trees[1]],
        [other_kind, trees[1]],
        other.open()[1],
        [],
    ):
        assert not vfs.unpack(record, wrong)
        assert all(tree.interior == {} and tree.depth is None for tree in wrong)


def test_the_pages_of_many_leaves_pack_small(tmp_path):
    keys = [f"word{number:07}" for number in range(40_000)]
    random.Random(0).shuffle(keys)
    database = Database(tmp_path / "a.db", keys, page_size=512)
    pages, (table, _) = database.open()
    vfs.run(pages, table.find(database.rowids))
    leaves = sum(len(node.children) for node in table.interior.values()) - len(table.interior) + 1
    assert leaves >= 10_000
    assert len(vfs.pack([table])) < len(table.interior) * 512 / 20
