import random
import struct
import tracemalloc
from types import SimpleNamespace

import apsw
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vfs.btree.index import Index, nocase
from vfs.btree.index_cells import Cell, IndexNode
from vfs.btree.pages import Layout, LocalPages
from vfs.btree.table import Table, TableNode
from vfs.btree.walk import run, together
from vfs.router.cells import MOST_CELLS
from vfs.router.columns import column, compress, rising_column, runs
from vfs.router.router import FACTS, MOST_CHILDREN, MOST_NODES, pack, unpack

PAGE_COUNT = 5000


class Counting:
    """Pages that note what was read."""

    def __init__(self, path):
        pages = LocalPages(path)
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
            Table(pages, self.roots["t"], len(self.keys)),
            Index(pages, self.roots["i"], len(self.keys), fold=nocase),
        ]
        return pages, trees

    def explored(self):
        pages, (table, index) = self.open()
        walks = [table.find(self.rowids), index.find(self.keys)]
        run(pages, together(walks))
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
    assert unpack(pack(explored), trees)
    assert pages.asked == set()
    for before, after in zip(explored, trees, strict=True):
        assert after.depth == before.depth >= 2
        assert after.interior.keys() == before.interior.keys()
        assert len(after.interior) > 3
        for number, node in before.interior.items():
            again = after.interior[number]
            assert again.children.tolist() == node.children.tolist()
            assert again.children.dtype == np.int64
            if isinstance(before, Table):
                assert again.keys.tolist() == node.keys.tolist()
            else:
                assert list(again.cells) == list(node.cells)
    assert pack(trees) == pack(explored)


def test_cells_that_overflow_are_among_them(tmp_path):
    _, index = Database(tmp_path / "a.db", keys_of(900, 1500), page_size=512).explored()
    cells = [cell for node in index.interior.values() for cell in node.cells]
    assert sum(cell.overflow > 0 for cell in cells) > 20
    assert sum(cell.overflow == 0 for cell in cells) > 5


def test_searches_give_the_same_without_reading_any_interior_page(database):
    explored = database.explored()
    interior = {number for tree in explored for number in tree.interior}
    pages, trees = database.open()
    assert unpack(pack(explored), trees)
    keys = [*database.keys, b"", b"none", b"zz"]
    found = run(pages, trees[1].find(keys), trees=trees)
    rows = run(pages, trees[0].find([*database.rowids, -1, 10**12]), trees=trees)
    assert pages.asked.isdisjoint(interior)
    plain, (table, index) = database.open()
    assert found == run(plain, index.find(keys))
    assert sum(map(bool, found)) == len(keys) - 3
    expected = run(plain, table.find(database.rowids))
    assert rows.rowids.tolist() == expected.rowids.tolist() == database.rowids
    assert rows.sizes.tolist() == expected.sizes.tolist()


def test_a_router_adds_to_what_a_tree_already_knows(database):
    pages, half = database.open()
    run(pages, half[0].find(database.rowids[:1]))
    run(pages, half[1].find(database.keys[:1]))
    record = pack(half)
    pages, other = database.open()
    run(pages, other[0].find(database.rowids[-1:]))
    run(pages, other[1].find(database.keys[-1:]))
    own = [dict(tree.interior) for tree in other]
    assert unpack(record, other)
    for tree, mine, theirs in zip(other, own, half, strict=True):
        assert tree.interior.keys() == mine.keys() | theirs.interior.keys()
        assert len(tree.interior) > len(mine)
        assert all(tree.interior[number] is node for number, node in mine.items())


def test_a_router_of_trees_that_know_nothing(database):
    _, trees = database.open()
    record = pack(trees)
    _, others = database.open()
    assert unpack(record, others)
    assert all(tree.interior == {} and tree.depth is None for tree in others)
    assert unpack(pack([]), [])


def test_a_router_of_other_trees_is_refused(database, tmp_path):
    table, index = database.explored()
    record = pack([table, index])
    pages, trees = database.open()
    wrong_root = Table(pages, table.root + 1)
    other_kind = Index(pages, table.root, fold=nocase)
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
        assert not unpack(record, wrong)
        assert all(tree.interior == {} and tree.depth is None for tree in wrong)


def test_the_pages_of_many_leaves_pack_small(tmp_path):
    keys = [f"word{number:07}" for number in range(40_000)]
    random.Random(0).shuffle(keys)
    database = Database(tmp_path / "a.db", keys, page_size=512)
    pages, (table, _) = database.open()
    run(pages, table.find(database.rowids))
    leaves = sum(len(node.children) for node in table.interior.values()) - len(table.interior) + 1
    assert leaves >= 10_000
    assert len(pack([table])) < len(table.interior) * 512 / 20


def blank(kind, *, page_size=512, page_count=PAGE_COUNT):
    """Give a tree of which nothing is known, in a file that nothing is read from."""
    header = bytearray(100)
    header[:16] = b"SQLite format 3\0"
    struct.pack_into(">H", header, 16, page_size)
    layout = Layout("synthetic", bytes(header), page_count * page_size)
    pages = SimpleNamespace(name="synthetic", layout=layout)
    if kind is Table:
        return Table(pages, 2)
    return Index(pages, 2, fold=nocase)


def spelled(tree):
    """Give what a tree knows in plain values."""
    return tree.depth, {
        number: (
            node.children.tolist(),
            node.keys.tolist() if isinstance(node, TableNode) else list(node.cells),
        )
        for number, node in tree.interior.items()
    }


integers = st.integers(-(2**63), 2**63 - 1)
row_ids = st.one_of(
    st.lists(integers, unique=True).map(sorted),
    st.builds(
        lambda first, steps: (first + np.cumsum(steps, dtype=np.int64)).tolist(),
        st.integers(-1000, 10**6),
        st.lists(st.integers(1, 3), max_size=300),
    ),
)
keys = st.one_of(st.binary(max_size=120), st.text("abAB_", max_size=9).map(str.encode))
records = st.one_of(
    st.builds(
        lambda key, rowid: bytes([3, 13 + 2 * len(key) & 0x7F, 3]) + key + rowid.to_bytes(3, "big"),
        keys,
        st.integers(0, 2**24 - 1),
    ),
    st.binary(min_size=3, max_size=90),
)


@st.composite
def trees(draw):
    tree = blank(draw(st.sampled_from([Table, Index])))
    tree.depth = draw(st.none() | st.integers(0, 19))
    for number in draw(st.lists(st.integers(1, PAGE_COUNT), unique=True, max_size=6)):
        if isinstance(tree, Table):
            between = np.array(draw(row_ids), np.int64)
        else:
            between = draw(cells(tree))
        start = draw(st.integers(1, PAGE_COUNT))
        children = (start + np.arange(len(between) + 1)) % PAGE_COUNT + 1
        if draw(st.booleans()):
            children = np.array(draw(st.permutations(children.tolist())))
        assume(number not in children)
        node = TableNode if isinstance(tree, Table) else IndexNode
        tree.interior[number] = node(between, children.astype(np.int64))
    return tree


@st.composite
def cells(draw, tree):
    drawn, room = [], tree.layout.usable
    for record in draw(st.lists(records)):
        size = draw(st.just(len(record)) | st.integers(3, 2**62))
        local = int(tree.local_size(np.array([size]))[0])
        overflow = draw(st.integers(1, PAGE_COUNT)) if local < size else 0
        room -= local
        if room < 0:
            break
        drawn.append(Cell((record * local)[:local], size, overflow))
    return drawn


@settings(max_examples=100, deadline=None)
@given(known=st.lists(trees(), max_size=4))
def test_any_nodes_come_back_as_they_were(known):
    again = [blank(type(tree)) for tree in known]
    record = pack(known)
    assert unpack(record, again)
    assert list(map(spelled, again)) == list(map(spelled, known))
    assert pack(again) == record


@settings(max_examples=100, deadline=None)
@given(whole=trees(), data=st.data())
def test_what_is_known_so_far_is_packed_and_the_rest_learned_later(whole, data):
    first, second = blank(type(whole)), blank(type(whole))
    for number, node in whole.interior.items():
        (first if data.draw(st.booleans()) else second).interior[number] = node
    both = blank(type(whole))
    both.depth = whole.depth
    for part in (first, second):
        assert unpack(pack([part]), [both])
    assert spelled(both) == spelled(whole)


def test_a_node_is_made_once_and_learned_ones_stand_beside_it(database):
    explored, (pages, trees) = database.explored(), database.open()
    assert unpack(pack(explored), trees)
    for tree, before in zip(trees, explored, strict=True):
        interior, count = tree.interior, len(before.interior)
        assert tree.root in interior
        assert 0 not in interior
        assert interior.get(0) is None
        assert interior[tree.root] is interior[tree.root] is interior.get(tree.root)
        assert tree.learn(tree.root, pages.pages.read([tree.root])[tree.root])
        assert len(interior) == len(list(interior)) == count
        node = interior[tree.root]
        interior[0] = node
        assert interior[0] is node
        assert len(interior) == count + 1
        del interior[0]
        assert 0 not in interior


def test_pages_may_be_learned_while_others_are_gone_through(database):
    explored, (_, trees) = database.explored(), database.open()
    assert unpack(pack(explored), trees)
    interior = trees[0].interior
    for number in interior:
        interior[number + 10**6] = interior[number]
    assert len(interior) == 2 * len(explored[0].interior)


def large_table(leaves, *, children=400):
    table = blank(Table, page_size=4096, page_count=2 * leaves)
    first, level = 3 + leaves, np.arange(3, 3 + leaves)
    last = 3 * np.arange(1, leaves + 1)
    table.depth = 0
    while len(level) > 1:
        begins = range(0, len(level), children)
        for number, begin in enumerate(begins, first):
            share = slice(begin, begin + children)
            table.interior[number] = TableNode(last[share][:-1], level[share])
        last = np.append(last[children - 1 : -1 : children], last[-1])
        level = np.arange(first, first + len(begins))
        first, table.depth = first + len(begins), table.depth + 1
    table.root = int(level[0])
    return table


def test_a_million_leaves_in_rows_take_a_kilobyte():
    table = large_table(10**6)
    record = pack([table])
    assert len(record) < 1000
    again = blank(Table, page_size=4096, page_count=2 * 10**6)
    again.root = table.root
    tracemalloc.start()
    assert unpack(record, [again])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * 10**6
    assert again.unknown() == []
    leaves = run(None, again.leaves(3 * 10**6))
    assert leaves.tolist() == list(range(3, 3 + 10**6))
    assert spelled(again) == spelled(table)


def refused(tree, **size):
    again = blank(type(tree), **size)
    assert not unpack(pack([tree]), [again])
    assert again.interior == {}
    assert again.depth is None
    return True


@pytest.mark.parametrize("kind", [Table, Index])
@pytest.mark.parametrize(
    "children",
    [
        [7, 8, 7],
        [7, 7, 8],
        [8, 9, 10, 8],
        [0, 1, 3],
        [-1, 1, 3],
        [4, 5, PAGE_COUNT + 1],
        [2**32, 4, 5],
        [4, 9],
    ],
)
def test_children_that_cannot_be_are_refused(kind, children):
    for others in ([], [11, 12, 13]):
        tree = blank(kind)
        for number, below in ((9, children), (4900, others)):
            if below:
                array = np.array(below, np.int64)
                between = np.arange(len(array) - 1)
                cells = [Cell(b"\3\1\1", 3, 0)] * len(between)
                node = TableNode(between, array) if kind is Table else IndexNode(cells, array)
                tree.interior[number] = node
        if children == [4, 9]:
            assert refused(tree)
            moved = tree.interior.pop(9)
            tree.interior[10] = moved
            assert unpack(pack([tree]), [blank(kind)])
        else:
            assert refused(tree)


@pytest.mark.parametrize("keys", [[5, 5], [5, 4], [1, 2, 3, 3], [1, 2**63 - 1, -(2**63)]])
def test_row_ids_out_of_order_are_refused(keys):
    table = blank(Table)
    table.interior[5] = TableNode(np.array([9]), np.array([30, 31]))
    table.interior[6] = TableNode(np.array(keys), np.arange(40, 41 + len(keys)))
    assert refused(table)
    table.interior[6] = TableNode(np.array([1, 2]), np.arange(40, 43))
    assert unpack(pack([table]), [blank(Table)])


@pytest.mark.parametrize(
    "cell",
    [
        Cell(b"\3\1", 2, 0),
        Cell(b"\3\1\1", -3, 0),
        Cell(b"\3\1\1\1", 5, 0),
        Cell(b"\3\1\1\1", 4, 1),
        Cell(bytes(90), 9000, 0),
        Cell(bytes(102), 9000, 4),
        Cell(bytes(39), 9000, PAGE_COUNT + 1),
    ],
)
def test_cells_that_cannot_be_are_refused(cell):
    index = blank(Index)
    sound = Cell(b"\3\1\1\1", 4, 0)
    for cells in ([sound, cell], [cell, sound], [cell]):
        index.interior[5] = IndexNode(cells, np.arange(30, 31 + len(cells)))
        assert refused(index)
    index.interior[5] = IndexNode([sound], np.arange(30, 32))
    assert unpack(pack([index]), [blank(Index)])


def test_cells_larger_than_their_page_are_refused():
    index = blank(Index)
    most = 512 // 64
    for count, fits in ((most, True), (most + 1, False)):
        cells = [Cell(bytes(64), 64, 0)] * count
        index.interior[5] = IndexNode(cells, np.arange(30, 31 + count))
        assert unpack(pack([index]), [blank(Index)]) == fits


def crafted(tree, count, total, *fields):
    facts = [tree.root, tree.interior_type, tree.layout.page_size]
    return compress([FACTS.pack(*facts, 1, count, total), *fields])


def index_columns(cells, **changes):
    """Give columns of so many cells of three bytes each, with some of them changed."""
    names = ["sizes", "overflows", "heads", "tails", "head", "tail", "shared"]
    columns = dict.fromkeys(names, 0) | {"sizes": 3, "heads": 3, "head": 0x30101 - (3 << 9)}
    columns = {name: np.full(cells, value) for name, value in (columns | changes).items()}
    own = columns["sizes"] - columns["heads"] - columns["tails"] - columns["shared"]
    return [*map(column, columns.values()), bytes(max(int(own.sum()), 0))]


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": 8, "sizes": 12, "head": 1 - (12 << 9)},
        {"heads": -1, "head": -(3 << 9)},
        {"tails": -1},
        {"heads": 2},
        {"heads": 4},
        {"heads": [4, 2], "head": 1 - (3 << 9)},
        {"head": -1 - (3 << 9)},
        {"tail": 1},
        {"tails": 1},
        {"shared": 1},
        {"shared": -1},
        {"heads": 0, "head": -(3 << 9), "shared": 3},
        {"heads": 0, "head": -(3 << 9), "shared": [0, 3]},  # of the page before
        {"sizes": 2, "head": 0x30101 - (2 << 9)},
        {"overflows": -1},
    ],
)
def test_columns_of_cells_that_contradict_each_other_are_refused(changes):
    index = blank(Index)
    for cells in (1, 2):
        counts = [2] * cells
        below = [np.array([30, 31]), np.array([32, 33])][:cells]
        pages = [rising_column([5, 6][:cells]), column(counts), *runs(below)]
        sound = crafted(index, cells, sum(counts), *pages, *index_columns(cells))
        assert unpack(sound, [blank(Index)])
        if cells == 1 and any(isinstance(change, list) for change in changes.values()):
            continue
        record = crafted(index, cells, sum(counts), *pages, *index_columns(cells, **changes))
        assert not unpack(record, [index])
        assert index.interior == {}


def table_record(table, numbers, counts, *, total=None):
    """Pack pages with so many children each."""
    first = np.cumsum([30, *counts])[:-1]
    below = [np.arange(at, at + max(count, 0)) for at, count in zip(first, counts, strict=True)]
    between = [array[1:] for array in below]
    fields = [rising_column(numbers), column(counts), *runs(below), *runs(between)]
    return crafted(table, len(numbers), sum(counts) if total is None else total, *fields)


def test_pages_that_contradict_each_other_are_refused():
    table = blank(Table)
    assert unpack(table_record(table, [5, 6], [2, 3]), [blank(Table)])
    for numbers, counts, total in [
        ([6, 6], [1, 2], None),
        ([6, 5], [1, 2], None),
        ([5, 6], [3, 0], None),
        ([5, 6], [4, -1], None),
        ([5, 6], [2, 3], 6),
        ([5, 6], [2, 3], 4),
    ]:
        assert not unpack(table_record(table, numbers, counts, total=total), [table])
        assert table.interior == {}
    for depth in (-2, 20):
        other = blank(Table)
        other.depth = depth
        assert not unpack(pack([other]), [table])


def test_integers_of_more_than_eight_bytes_are_refused():
    table = blank(Table)
    fields = [column([1]), *runs([np.array([30])]), *runs([])]
    for width, fits in ((8, True), (9, False)):
        number = struct.pack("<qB", 5, width) + bytes(width)
        assert unpack(crafted(table, 1, 1, number, *fields), [blank(Table)]) == fits


def test_more_than_a_file_can_have_is_refused_without_room_for_it():
    table = blank(Table, page_count=2**31)
    index = blank(Index, page_count=2**31)
    numbers = np.arange(2**30, 2**30 + MOST_NODES + 1)
    many, few = np.ones(MOST_NODES + 1, int), np.full(MOST_CELLS // 64 + 1, 65)
    for tree, record in [
        (table, table_record(table, numbers, many)),
        (table, table_record(table, [2**30], [MOST_CHILDREN + 1])),
        (table, crafted(table, 1, 2**62, rising_column([5]), column([2**62]), bytes(99))),
        (table, crafted(table, 4, 0, rising_column([5, 6, 7, 8]), column([2**62] * 4), bytes(99))),
        (table, crafted(table, -1, 0, bytes(99))),
        (table, crafted(table, 0, -1, bytes(99))),
        (
            index,
            crafted(
                index,
                len(few),
                int(few.sum()),
                rising_column(numbers[: len(few)]),
                column(few),
                *runs(np.split(np.arange(10, 10 + few.sum()), len(few))),
                *index_columns(int(few.sum()) - len(few)),
            ),
        ),
    ]:
        tracemalloc.start()
        assert not unpack(record, [tree])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert tree.interior == {}
        assert peak < 64 << 20
