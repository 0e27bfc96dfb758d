import random
import sqlite3
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlite_oracle import (
    PAGE_SIZES,
    as_stored,
    assert_same_index,
    assert_same_table,
    database,
    decoded,
    expected_entries,
    expected_rows,
    index_of,
    lengths_around,
    root_of,
    table_of,
)

import vfs
from vfs.btree import tree
from vfs.btree.index import Index, nocase
from vfs.btree.index_keys import read_keys
from vfs.btree.pages import LocalPages
from vfs.btree.record import decode_record, read_varints
from vfs.btree.table import Table
from vfs.btree.walk import _successors, read_chains, run, together

quick = settings(max_examples=60)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_rows_with_gaps_negative_and_huge_row_ids(tmp_path, page_size):
    path = tmp_path / "a.db"
    connection = database(path, ["CREATE TABLE t (a, b)"], page_size=page_size)
    rng = random.Random(1)
    ids = {rng.randrange(-(2**63), 2**63) for _ in range(800)} | set(range(-500, 500, 3))
    ids |= {-(2**63), 2**63 - 1, 0, 1, 2**32, -(2**32)} | set(range(10**6, 10**6 + 700))
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO t (rowid, a, b) VALUES (?, ?, ?)", ((i, i % 97, "x" * (i % 31)) for i in ids)
    )
    connection.execute("DELETE FROM t WHERE a % 5 = 0")
    connection.execute("COMMIT")
    beside = [i for i in ids if i % 97 % 5 == 0] + [-501, -499, 3, 10**6 + 700]
    assert_same_table(connection, path, beside=beside)


@pytest.mark.parametrize("reserved", [8, 32])
def test_a_file_with_reserved_bytes(tmp_path, reserved):
    path = tmp_path / "a.db"
    statements = ["CREATE TABLE t (k TEXT COLLATE NOCASE)", "CREATE INDEX i ON t (k)"]
    connection = database(path, statements, page_size=1024, reserved=reserved)
    assert LocalPages(path).layout.usable == 1024 - reserved
    keys = [f"{n:03}" * (1 + n * 2) for n in range(300)]
    connection.executemany("INSERT INTO t VALUES (?)", ((key,) for key in keys))
    assert_same_table(connection, path)
    assert_same_index(connection, path, [key.encode() for key in keys])


def test_an_empty_table_and_an_empty_index(tmp_path):
    path = tmp_path / "a.db"
    connection = database(path, ["CREATE TABLE t (k)", "CREATE INDEX i ON t (k)"])
    assert_same_table(connection, path, beside=[0, 1, -5])
    assert_same_index(connection, path, [b"", b"a"])


def test_nothing_asked_for_reads_nothing(tmp_path):
    path = tmp_path / "a.db"
    connection = database(path, ["CREATE TABLE t (k)", "CREATE INDEX i ON t (k)"], page_size=512)
    connection.executemany("INSERT INTO t VALUES (?)", ((f"key {i}",) for i in range(500)))
    pages, table = table_of(connection, path)
    rows = run(pages, table.find([]))
    assert rows.rowids.tolist() == rows.starts.tolist() == rows.sizes.tolist() == []
    index = Index(pages, root_of(connection, "i"), fold=nocase)
    assert run(pages, index.find([])) == []
    assert pages.waves == []


def test_a_table_of_which_all_rows_were_deleted(tmp_path):
    path = tmp_path / "a.db"
    connection = database(path, ["CREATE TABLE t (k)"], page_size=512)
    connection.executemany("INSERT INTO t VALUES (?)", ((f"key {i}",) for i in range(500)))
    connection.execute("DELETE FROM t WHERE rowid > 0")
    assert_same_table(connection, path, beside=range(1, 500))


def test_repeated_and_unordered_row_ids_are_looked_up_once(tmp_path):
    path = tmp_path / "a.db"
    connection = database(path, ["CREATE TABLE t (k)"], page_size=512)
    connection.executemany("INSERT INTO t VALUES (?)", ((f"key {i}",) for i in range(500)))
    pages, table = table_of(connection, path)
    rows = run(pages, table.find([300, 7, 300, 7, 7]))
    assert rows.rowids.tolist() == [7, 300]


def test_every_serial_type(tmp_path):
    path = tmp_path / "a.db"
    connection = database(path, ["CREATE TABLE t (a, b)"])
    edges = [0, 1, 2, 127, 128, 2**15 - 1, 2**15, 2**23 - 1, 2**23, 2**31 - 1, 2**31]
    edges += [2**47 - 1, 2**47, 2**63 - 1]
    integers = [sign * edge + shift for edge in edges for sign in (1, -1) for shift in (-1, 0)]
    floats = [0.5, -0.0, 1e300, 5e-324, float("inf"), float("-inf")]
    others = [None, "", "a", "é" * 40, "x" * 60, b"", b"\0", bytes(range(256)) * 3]
    values = [*integers, *floats, *others]
    pairs = [(a, random.Random(i).choice(values)) for i, a in enumerate(values)]
    connection.executemany("INSERT INTO t VALUES (?, ?)", pairs)
    assert_same_table(connection, path)
    types = {type(value) for (value, _) in expected_rows(connection).values()}
    assert types == {int, float, bytes, type(None)}


def test_a_row_with_more_columns_than_a_short_header_holds(tmp_path):
    path = tmp_path / "a.db"
    columns = ", ".join(f"c{i}" for i in range(1500))
    connection = database(path, [f"CREATE TABLE t ({columns})"])
    marks = ", ".join("?" * 1500)
    for start in range(3):
        connection.execute(
            f"INSERT INTO t VALUES ({marks})", range(start * 200, start * 200 + 1500)
        )
    assert_same_table(connection, path)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("vacuum", [False, True])
def test_records_of_every_length_around_the_overflow_limit(tmp_path, page_size, vacuum):
    path = tmp_path / "a.db"
    connection = database(path, ["CREATE TABLE t (a BLOB)"], page_size=page_size)
    rng = random.Random(3)
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO t VALUES (?)",
        ((rng.randbytes(n),) for n in lengths_around(page_size, page_size - 35)),
    )
    connection.execute("COMMIT")
    if vacuum:
        connection.execute("VACUUM")
    assert_same_table(connection, path, beside=[0, 10**6])


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_index_keys_of_every_length_around_the_overflow_limit(tmp_path, page_size):
    path = tmp_path / "a.db"
    statements = ["CREATE TABLE t (k TEXT COLLATE NOCASE)", "CREATE INDEX i ON t (k)"]
    connection = database(path, statements, page_size=page_size)
    most_local = (page_size - 12) * 64 // 255 - 23
    keys = [f"{n:x}".ljust(n, "y") for n in lengths_around(page_size, most_local)]
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO t VALUES (?)", ((key,) for key in keys))
    connection.execute("COMMIT")
    asked = [key.encode() for key in keys]
    assert_same_index(connection, path, [*asked, *(key[:-1] for key in asked), b"zz"])


def chained(path, *, vacuum):
    """Write a table of long rows whose overflow pages lie anyhow or, vacuumed, in order."""
    connection = database(path, ["CREATE TABLE t (a BLOB)"], page_size=1024)
    rng = random.Random(5)
    connection.execute("BEGIN")
    for _ in range(120):
        blob = rng.randbytes(rng.randrange(900, 9000))
        connection.execute("INSERT INTO t VALUES (?)", (blob,))
    for _ in range(300):
        connection.execute("DELETE FROM t WHERE rowid = ?", (rng.randrange(1, 120),))
        blob = rng.randbytes(rng.randrange(900, 9000))
        connection.execute("INSERT INTO t (a) VALUES (?)", (blob,))
    connection.execute("INSERT INTO t VALUES (?)", (rng.randbytes(300_000),))
    connection.execute("COMMIT")
    if vacuum:
        connection.execute("VACUUM")
    return connection


def test_overflow_chains_anyhow_in_the_file(tmp_path):
    path = tmp_path / "a.db"
    connection = chained(path, vacuum=False)
    assert_same_table(connection, path)


def test_overflow_chains_in_order_come_in_one_wave(tmp_path):
    path = tmp_path / "a.db"
    connection = chained(path, vacuum=True)
    assert_same_table(connection, path)
    pages, table = table_of(connection, path)
    assert len(decoded(run(pages, table.find(list(expected_rows(connection)))))) > 100
    assert len(pages.waves) == table.depth + 2
    assert len(pages.waves[-1]) > 1000


def test_two_waves_more_than_the_depth_is_what_fragments_cost_at_least(tmp_path):
    path = tmp_path / "a.db"
    connection = chained(path, vacuum=False)
    pages, table = table_of(connection, path)
    run(pages, table.find(list(expected_rows(connection))))
    assert table.depth + 2 < len(pages.waves) < 60


def test_a_scan_reads_the_schema_on_page_one(tmp_path):
    path = tmp_path / "a.db"
    for count in (1, 40):  # a leaf, and an interior page
        tables = [f"CREATE TABLE t{i} (a, b, c)" for i in range(count)]
        connection = database(path, tables, page_size=512)
        expected = {
            rowid: as_stored(row)
            for rowid, *row in connection.execute("SELECT rowid, * FROM sqlite_schema")
        }
        pages = LocalPages(path)
        assert dict(run(pages, Table(pages, 1).scan(most_pages=50))) == expected
        asked = [*expected, 1000]
        assert decoded(run(pages, Table(pages, 1).find(asked))) == expected
        connection.close()


def test_a_scan_refuses_a_table_of_more_pages(tmp_path):
    path = tmp_path / "a.db"
    connection = database(path, ["CREATE TABLE t (a)"], page_size=512)
    connection.executemany("INSERT INTO t VALUES (?)", ((b"x" * 100,) for _ in range(500)))
    pages, table = table_of(connection, path)
    with pytest.raises(vfs.DatabaseError, match="more than 20 pages"):
        run(pages, table.scan(most_pages=20))


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Give an index of several levels whose keys differ from others in their case, many in all."""
    path = tmp_path_factory.mktemp("words") / "a.db"
    statements = ["CREATE TABLE t (k TEXT COLLATE NOCASE)"]
    connection = database(path, statements, page_size=512)
    rng = random.Random(7)
    keys = [f"word {rng.randrange(1500):050}" for _ in range(4000)] + ["Many", "mANY", "many"] * 200
    keys = [rng.choice([key, key.upper(), key.capitalize()]) for key in keys]
    rng.shuffle(keys)
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO t VALUES (?)", ((key,) for key in keys))
    connection.execute("COMMIT; CREATE INDEX i ON t (k)")
    return connection, path, [key.encode() for key in keys]


def test_every_key_is_found_also_those_in_interior_cells(words):
    connection, path, keys = words
    pages, index = index_of(connection, path)
    unique = list(dict.fromkeys(keys))
    run(pages, index.find(unique))
    assert index.depth >= 3
    inside = [node.cells[i] for node in index.interior.values() for i in range(len(node.cells))]
    assert len(inside) > 100
    for cell in inside:
        key, rowid = decode_record(cell.local)
        (found,) = run(LocalPages(path), index.find([key]))
        assert (key, rowid) in found
    assert_same_index(connection, path, unique)


def test_duplicates_that_span_leaves_come_in_the_order_of_row_ids(words):
    connection, path, _ = words
    pages, index = index_of(connection, path)
    (found,) = run(pages, index.find([b"MANY"]))
    assert len(found) == 600
    assert len(pages.waves[-1]) > 10
    assert found == expected_entries(connection, b"many")


def test_keys_equal_under_the_collation_give_the_same_entries(words):
    connection, path, _ = words
    pages, index = index_of(connection, path)
    key = b"word %050d" % 7
    first, second, none = run(pages, index.find([key, key.capitalize(), b"word"]))
    assert first == second == expected_entries(connection, key) != []
    assert none == []


@pytest.mark.parametrize("prefix", [b"", b"w", b"WoRd 0", b"many", b"m", b"x", b"word 00", b"~"])
def test_keys_of_row_ids_come_from_the_part_of_the_index_that_begins_so(words, prefix):
    connection, path, keys = words
    every = dict(enumerate(keys, 1))
    begin = {at for at, key in every.items() if key.lower().startswith(prefix.lower())}
    pages, index = index_of(connection, path)
    whole = run(pages, read_keys(index, [*every, 0, 10**9]))
    assert whole == every
    assert len(pages.waves) == index.depth + 1
    pages, index = index_of(connection, path)
    found = run(pages, read_keys(index, [*every], prefix=prefix))
    assert found.items() <= every.items()
    assert found.keys() >= begin
    assert len(pages.waves) <= index.depth + 1
    assert len(pages.waves[-1]) <= sum(len(every[at]) + 9 for at in begin) / 400 + 2


def test_a_leaf_of_other_keys_is_not_swept(words, tmp_path):
    connection, path, _ = words
    pages, index = index_of(connection, path)
    run(pages, read_keys(index, [1]))
    first, *_, last = sorted(pages.waves[-1])
    data = bytearray(path.read_bytes())
    places = [slice(512 * (number - 1), 512 * number) for number in (first, last)]
    data[places[0]], data[places[1]] = data[places[1]], data[places[0]]
    (tmp_path / "b.db").write_bytes(data)
    pages, index = index_of(connection, tmp_path / "b.db")
    with pytest.raises(vfs.DatabaseError, match="keys that do not belong there"):
        run(pages, read_keys(index, [1]))


def test_the_number_of_waves_does_not_depend_on_the_number_of_keys(words):
    connection, path, keys = words
    waves = {}
    for count in (5, 500):
        pages, index = index_of(connection, path)
        run(pages, index.find(keys[:count]))
        asked, table = table_of(connection, path)
        run(asked, table.find(range(1, 4600, 4600 // count)))
        waves[count] = len(pages.waves), len(asked.waves)
        assert waves[count] == (index.depth + 1, table.depth + 1)
    assert waves[5] == waves[500]


def test_known_interior_pages_are_not_asked_for_again(words):
    connection, path, keys = words
    pages, index = index_of(connection, path)
    run(pages, index.find(keys))
    pages.waves.clear()
    run(pages, index.find(keys[:50]))
    assert len(pages.waves) == 1
    assert not set(pages.waves[0]) & set(index.interior)


ODD_KEYS = [
    "", "\0", "\0\0", "a", "A", "a\0", "a\0x", "A\0Y", "a\0xy", "ab", "ab\0", "aB\0zz", "b\0",
    "é", "É", "İ", "ß", "\u212a", "k", "K", "[", "_", "`", "@", "z", "Z", "日本", "\U0001f600",
]  # fmt: skip


@pytest.mark.parametrize("page_size", [512, 4096])
def test_keys_with_nuls_beyond_ascii_and_empty_ones(tmp_path, page_size):
    path = tmp_path / "a.db"
    connection = database(path, ["CREATE TABLE t (k TEXT COLLATE NOCASE)"], page_size=page_size)
    keys = ODD_KEYS * 20
    random.Random(2).shuffle(keys)
    connection.executemany("INSERT INTO t VALUES (?)", ((key,) for key in keys))
    connection.execute("CREATE INDEX i ON t (k)")
    assert_same_index(connection, path, [key.encode() for key in [*ODD_KEYS, "\0x", "ba", "c"]])


def test_keys_that_are_no_text_are_passed_by(tmp_path):
    path = tmp_path / "a.db"
    connection = database(path, ["CREATE TABLE t (k COLLATE NOCASE)"], page_size=512)
    keys = [None, 0, 1, -5, 2**60, 1.5, b"", b"blob", "", "1", "blob", "zz"] * 60
    connection.executemany("INSERT INTO t VALUES (?)", ((key,) for key in keys))
    connection.execute("CREATE INDEX i ON t (k)")
    assert_same_index(connection, path, [b"", b"0", b"1", b"blob", b"ZZ", b"1.5", b"zzz"])


@pytest.mark.parametrize("vacuum", [False, True])
def test_long_keys_with_a_common_prefix(tmp_path, vacuum):
    path = tmp_path / "a.db"
    statements = ["CREATE TABLE t (k TEXT COLLATE NOCASE)", "CREATE INDEX i ON t (k)"]
    connection = database(path, statements, page_size=1024)
    rng = random.Random(4)
    prefix = "Long" * 500
    keys = [prefix + "x" * rng.randrange(2000) + str(rng.randrange(60)) for _ in range(80)]
    keys += [prefix[:n] for n in (10, 100, 300, 1000, 2000)] + ["a", "z", "long\0" + "x" * 3000]
    keys += [key.swapcase() for key in keys[:20]]
    connection.executemany("INSERT INTO t VALUES (?)", ((key,) for key in keys))
    if vacuum:
        connection.execute("VACUUM")
    absent = [prefix + "x", prefix + "9" * 800, "long" * 499, "m"]
    assert_same_index(connection, path, [key.encode() for key in [*keys, *absent]])


@quick
@given(st.lists(st.text(st.sampled_from("aAbBzZ@[`{\0éÉ\uffff"), max_size=6), max_size=30))
@example(ODD_KEYS)
def test_nocase_orders_as_sqlite_does(keys):
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (k TEXT)")
    connection.executemany("INSERT INTO t VALUES (?)", ((key,) for key in keys))
    query = "SELECT k FROM t ORDER BY k COLLATE NOCASE, rowid"
    expected = [key.encode() for (key,) in connection.execute(query)]
    assert sorted((key.encode() for key in keys), key=nocase) == expected
    for first, second in pairwise(expected):
        query = "SELECT CAST(? AS TEXT) = CAST(? AS TEXT) COLLATE NOCASE"
        (equal,) = connection.execute(query, (first, second)).fetchone()
        assert (nocase(first) == nocase(second)) == bool(equal)
    connection.close()


SIGNS = st.sampled_from("aAbBz[`\0éÉ\uffff")


@quick
@given(
    st.lists(st.text(SIGNS, max_size=5) | st.just("a" * 300), max_size=60),
    st.text(SIGNS.filter(lambda sign: sign != "\0"), max_size=2),
)
@example(ODD_KEYS * 3, "a")
@example(ODD_KEYS * 3, "É")
def test_any_keys_that_begin_so_are_found(tmp_path, keys, prefix):
    statements = ["CREATE TABLE t (k TEXT COLLATE NOCASE)", "CREATE INDEX i ON t (k)"]
    path = tmp_path / "a.db"
    connection = database(path, statements, page_size=512)
    connection.executemany("INSERT INTO t VALUES (?)", ((key,) for key in keys))
    pages, index = index_of(connection, path)
    found = run(pages, read_keys(index, range(len(keys) + 2), prefix=prefix.encode()))
    every = {at: key.encode() for at, key in enumerate(keys, 1)}
    assert found.items() <= every.items()
    begin = prefix.encode().lower()
    local = {at for at, key in every.items() if key.lower().startswith(begin) and len(key) < 80}
    assert found.keys() >= local
    connection.close()


values_of_any_type = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=400),
    st.binary(max_size=1500),
)


@quick
@given(
    rows=st.dictionaries(
        st.integers(-(2**63), 2**63 - 1) | st.integers(0, 60),
        st.tuples(values_of_any_type, values_of_any_type),
        max_size=40,
    ),
    page_size=st.sampled_from([512, 1024]),
    vacuum=st.booleans(),
)
def test_any_table_reads_as_sqlite_reads_it(tmp_path, rows, page_size, vacuum):
    path = tmp_path / "a.db"
    statements = ["CREATE TABLE t (k COLLATE NOCASE, b)", "CREATE INDEX i ON t (k)"]
    connection = database(path, statements, page_size=page_size)
    connection.executemany(
        "INSERT INTO t (rowid, k, b) VALUES (?, ?, ?)",
        ((rowid, *values) for rowid, values in rows.items()),
    )
    if vacuum:
        connection.execute("VACUUM")
    near = [rowid + shift for rowid in rows for shift in (-1, 1)]
    near = [rowid for rowid in near if -(2**63) <= rowid < 2**63]
    assert_same_table(connection, path, beside=near)
    keys = [key.encode() for key, _ in rows.values() if isinstance(key, str)]
    assert_same_index(connection, path, [*keys, *(key.swapcase() for key in keys), b"", b"a"])
    connection.close()


@quick
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_varints_one_by_one_and_together(numbers):
    def encode(number):
        number &= (1 << 64) - 1
        last = b"" if number < 1 << 56 else bytes([number & 0xFF])
        number >>= 8 * len(last)
        groups = [number >> 7 * i & 0x7F for i in range(8) if last or i == 0 or number >> 7 * i]
        groups = [group | 0x80 if i or last else group for i, group in enumerate(groups)]
        return bytes(reversed(groups)) + last

    encoded = [encode(number) for number in numbers]
    ends = np.cumsum([len(one) for one in encoded], dtype=np.int64)
    starts = ends - [len(one) for one in encoded] if encoded else ends
    data = np.frombuffer(b"".join([*encoded, bytes(9)]), np.uint8)
    values, behind = read_varints(data, starts)
    assert values.tolist() == numbers
    assert behind.tolist() == ends.tolist()


def test_the_page_of_the_lock_byte_is_left_out_of_a_chain():
    class Big:
        page_size = usable = 65536
        page_count = 20_000
        lock_page = (1 << 30) // 65536 + 1

    assert _successors(16383, 4, Big) == [16383, 16384, 16386, 16387]
    assert _successors(16384, 1, Big) == [16384]
    assert _successors(5, 3, Big) == [5, 6, 7]
    assert _successors(19_999, 5, Big) == [19_999, 20_000]
    assert _successors(20_000, 5, Big) == [20_000]

    room = Big.usable - 4
    following = {16383: 16384, 16384: 16386, 16386: 0}
    contents = {number: bytes([number % 251]) * room for number in following}
    walk = read_chains(
        "big", Big, [(16383, 3 * room - 10)], most=1 << 20, visit=lambda numbers: None
    )
    assert next(walk) == {16383, 16384, 16386}
    with pytest.raises(StopIteration) as end:
        walk.send({n: following[n].to_bytes(4, "big") + content for n, content in contents.items()})
    assert end.value.value == [b"".join(contents.values())[:-10]]


def test_layout_knows_the_page_of_the_lock_byte(tmp_path):
    for page_size, lock_page in ((512, 2097153), (4096, 262145), (65536, 16385)):
        path = tmp_path / f"{page_size}.db"
        database(path, ["CREATE TABLE t (a)"], page_size=page_size).close()
        assert LocalPages(path).layout.lock_page == lock_page


def test_walks_together_share_waves(words):
    connection, path, keys = words
    pages, index = index_of(connection, path)
    table = Table(pages, root_of(connection, "t"))
    walks = [index.find(keys[:50]), table.find([1, 2000]), index.find(keys[50:60])]
    first, rows, second = run(pages, together(walks))
    assert len(pages.waves) == max(index.depth, table.depth) + 1
    assert set(pages.waves[0]) == {index.root, table.root}
    assert first == [expected_entries(connection, key) for key in keys[:50]]
    assert second == [expected_entries(connection, key) for key in keys[50:60]]
    assert rows.rowids.tolist() == [1, 2000]


def test_walks_together_end_when_each_of_them_does():
    def walk(*steps):
        got = [None] * len(steps)
        for position, step in enumerate(steps):
            got[position] = yield step
        return got

    def drive(walk):
        asked = []
        try:
            wanted = next(walk)
            while True:
                asked.append(wanted)
                wanted = walk.send({number: b"%d" % number for number in wanted})
        except StopIteration as end:
            return asked, end.value

    asked, results = drive(together([walk({1, 2}, {5}), walk(), walk({2, 3}, set(), {9})]))
    assert asked == [{1, 2, 3}, {5, 9}]
    assert [len(got) for got in results] == [2, 0, 3]
    assert drive(together([])) == ([], [])


def page_type(pages, number):
    page = pages.pages.read([number])[number]
    return page[100 if number == 1 else 0]


@pytest.mark.parametrize("name", ["t", "i"])
def test_unknown_pages_are_interior_ones_level_by_level(words, name):
    connection, path, keys = words
    pages, tree = index_of(connection, path) if name == "i" else table_of(connection, path)
    tree.rows = len(keys)
    interior_types = (2, 5)
    assert tree.unknown() == []  # the root comes first
    run(pages, tree.touch())
    seen = {tree.root}
    while missing := tree.unknown():
        assert seen.isdisjoint(missing)
        seen.update(missing)
        for number in missing:
            page = pages.pages.read([number])[number]
            assert page[0] in interior_types
            assert tree.learn(number, page)
    assert len(seen) > 3
    assert tree.depth is None
    run(pages, tree.find(keys[:1] if name == "i" else [1]))  # from now on the depth is known
    while missing := tree.unknown():
        for number in missing:
            page = pages.pages.read([number])[number]
            assert page[0] in interior_types
            tree.learn(number, page)
    everything = set(tree.interior)
    if name == "i":
        run(pages, tree.find(keys))
    else:
        run(pages, tree.find(range(1, len(keys) + 1)))
    assert set(tree.interior) == everything


def test_the_smallest_rows_do_not_make_a_leaf_unknown(tmp_path):
    path = tmp_path / "a.db"
    connection = database(path, ["CREATE TABLE t (a INTEGER PRIMARY KEY)"], page_size=512)
    connection.executemany("INSERT INTO t VALUES (?)", ((i,) for i in range(128)))
    pages, table = table_of(connection, path)
    table.rows = 128
    run(pages, table.touch())
    assert table.interior
    assert table.unknown() == []


def test_no_level_is_listed_that_is_larger_than_the_limit(words, monkeypatch):
    connection, path, keys = words
    pages, index = index_of(connection, path)
    run(pages, index.find(keys[:1]))  # tells the depth
    for number in index.unknown():
        index.learn(number, pages.pages.read([number])[number])
    below = sum(len(index.interior[n].children) for n in index.interior[index.root].children)
    assert below - len(index.unknown()) == 1  # the one on the way to the key
    assert tree.MOST_INTERIOR == 1 << 20
    monkeypatch.setattr(tree, "MOST_INTERIOR", below * 512)
    assert index.unknown()
    monkeypatch.setattr(tree, "MOST_INTERIOR", below * 512 - 1)
    assert index.unknown() == []


def test_interior_pages_that_ride_along_are_learned(words):
    connection, path, keys = words
    pages, index = index_of(connection, path)
    index.rows = len(keys)
    run(pages, index.find(keys[:1]), trees=[index])
    alone = len(pages.waves)
    known = len(index.interior)
    assert known > alone
    pages.waves.clear()
    run(pages, index.find(keys[1:2]), trees=[index])
    assert len(pages.waves) < alone


def test_interior_row_ids_far_apart_are_in_order(tmp_path):
    path = tmp_path / "a.db"
    connection = database(path, ["CREATE TABLE t (a BLOB)"], page_size=512)
    ids = [-(2**63), -(2**63) + 1, 2**63 - 3, 2**63 - 2, 2**63 - 1]
    connection.executemany("INSERT INTO t (rowid, a) VALUES (?, ?)", ((i, bytes(400)) for i in ids))
    assert_same_table(connection, path, beside=[1, 2**62, -(2**62)])


def test_waves_of_keys_that_overflow_do_not_depend_on_their_number(tmp_path):
    path = tmp_path / "long.sqlite"
    connection = database(path, ["CREATE TABLE t (k TEXT COLLATE NOCASE)"], page_size=1024)
    words = [f"{number:05}" + "x" * 600 for number in range(3000)]
    connection.executemany("INSERT INTO t VALUES (?)", [(word,) for word in words])
    connection.execute("CREATE INDEX i ON t (k); VACUUM")
    waves = []
    for count in (3, 30):
        pages, index = index_of(connection, path)
        picked = random.Random(count).sample(range(len(words)), count)
        found = run(pages, index.find([words[number].encode() for number in picked]))
        assert [entries[0][1] for entries in found] == [number + 1 for number in picked]
        waves.append(len(pages.waves))
    assert waves[1] <= waves[0] + 4, waves  # a page with several reads their rest in turn
