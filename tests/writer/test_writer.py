import contextlib
import errno
import io
import itertools
import random
import sqlite3
import tracemalloc
from pathlib import Path

import apsw
import magnitude_files as mf
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
    lengths_around,
    table_of,
)
from wide_sqlite import PRECISION, why_no_wide_sqlite, wide_sqlite

import vfs
from vfs.btree.pages import LocalPages
from vfs.btree.record import read_varints
from vfs.btree.table import Rows, Table
from vfs.btree.walk import run
from vfs.writer.page_file import PageFile
from vfs.writer.record import encode_record, encode_varint, encode_varints

TABLE = "CREATE TABLE t (k TEXT COLLATE NOCASE, b)"
INDEX = "CREATE INDEX i ON t (k)"
ONE_COLUMN = "CREATE TABLE t (b)"
LOCK_PAGE = (1 << 30) // 65536 + 1

quick = settings(max_examples=60)


def rows_of(records):
    """Make Rows of {row id: record}."""
    data = b"".join(records.values())
    sizes = np.array([len(record) for record in records.values()], np.int64)
    return Rows(
        np.array(list(records), np.int64),
        np.frombuffer(data + bytes(9), np.uint8),
        np.cumsum(sizes) - sizes,
        sizes,
    )


def write_table(writer, rows, *, batch=10**6, front=False):
    loader = writer.table(front=front)
    ids = sorted(rows)
    for begin in range(0, len(ids), batch):
        some = ids[begin : begin + batch]
        loader.add(rows_of({rowid: encode_record(rows[rowid]) for rowid in some}))
    return loader.finish()


def write_index(writer, entries):
    loader = writer.index()
    loader.add(encode_record(entry) for entry in entries)
    return loader.finish()


def entry_of(name, root, sql, *, kind="table"):
    return (kind, name, "t" if kind == "index" else name, root, sql)


def write_one_table(path, rows, *, page_size=4096, reserve=0):
    writer = vfs.DatabaseWriter(path, page_size=page_size, reserve=reserve)
    root = write_table(writer, rows)
    writer.finish([entry_of("t", root, ONE_COLUMN)])
    return apsw.Connection(str(path))


def write_both(path, rows, entries, *, page_size=4096, reserve=0, batch=10**6):
    """Write the table t and its index i."""
    writer = vfs.DatabaseWriter(path, page_size=page_size, reserve=reserve)
    table = write_table(writer, rows, batch=batch)
    index = write_index(writer, entries)
    writer.finish([entry_of("t", table, TABLE), entry_of("i", index, INDEX, kind="index")])
    return apsw.Connection(str(path))


def ordered(rows):
    """Sort the entries of an index as SQLite does."""
    connection = apsw.Connection(":memory:")
    connection.execute(TABLE)
    connection.executemany(
        "INSERT INTO t (rowid, k) VALUES (?, ?)", ((i, rows[i][0]) for i in rows)
    )
    return connection.execute("SELECT k, rowid FROM t ORDER BY k, rowid").fetchall()


def assert_sound(connection):
    assert connection.execute("PRAGMA integrity_check").get == "ok"


def pages_of(connection, name):
    """List the pages of a b-tree in the order of its entries, as (number, type)."""
    query = "SELECT pageno, pagetype FROM dbstat WHERE name = ? ORDER BY path"
    return connection.execute(query, (name,)).fetchall()


texts = st.text("aAbBéÉ\U0001f600 \0", max_size=4)
keys = st.one_of(
    texts,
    st.builds(lambda key, times: key * times, texts, st.integers(1, 3000)),
    st.none(),
)
values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**15), 2**15),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.builds(lambda n: random.Random(n).randbytes(n), st.integers(0, 20000)),
)
rowids = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(1, 300))
ALL_ROWS = "SELECT rowid, k, b, typeof(k), typeof(b) FROM t ORDER BY rowid"
BY_KEY = "SELECT rowid FROM t INDEXED BY i WHERE k IS ? ORDER BY rowid"


@quick
@given(
    st.sampled_from([512, 1024, 2048, 4096, 16384, 65536]),
    st.dictionaries(rowids, st.tuples(keys, values), max_size=60),
    st.integers(1, 70),
    st.integers(0, 200),
)
def test_a_database_equals_the_one_that_sql_makes(tmp_path, page_size, rows, batch, reserve):
    reference = database(tmp_path / "sql.db", [TABLE, INDEX], page_size=page_size)
    reference.executemany(
        "INSERT INTO t (rowid, k, b) VALUES (?, ?, ?)", ((i, *rows[i]) for i in rows)
    )
    entries = reference.execute("SELECT k, rowid FROM t ORDER BY k, rowid").fetchall()
    path = tmp_path / "a.db"
    connection = write_both(path, rows, entries, page_size=page_size, reserve=reserve, batch=batch)
    assert_sound(connection)
    expected = reference.execute(ALL_ROWS).fetchall()
    by_key = {key: reference.execute(BY_KEY, (key,)).fetchall() for key, _ in entries}
    with contextlib.closing(sqlite3.connect(path)) as stock:
        for same in (connection, stock):
            assert same.execute(ALL_ROWS).fetchall() == expected
            for key, found in by_key.items():
                assert same.execute(BY_KEY, (key,)).fetchall() == found
    assert_same_table(connection, path, beside=[0, 5, -7])
    assert_same_index(connection, path, [key.encode() for key in by_key if key is not None])
    reference.execute("VACUUM")
    most = reference.execute("PRAGMA page_count").get
    assert connection.execute("PRAGMA page_count").get <= max(most * 1.02, most + 2) + reserve
    connection.execute("VACUUM")
    assert_sound(connection)
    assert connection.execute(ALL_ROWS).fetchall() == expected
    connection.close()


@quick
@given(st.lists(st.one_of(values, rowids), max_size=12))
@example([0.0, 1.0, -0.0, float("nan"), float("inf"), 2**47, -(2**47), -(2**47) - 1, 2**48])
@example([""] * 126)
@example([""] * 127)
@example(list(range(-300, 1600)))
def test_a_record_has_the_bytes_that_sqlite_gives_it(tmp_path, row):
    path = tmp_path / "a.db"
    columns = ", ".join(f"c{i}" for i in range(max(len(row), 1)))
    row = row or [None]
    connection = database(path, [f"CREATE TABLE t ({columns})"])
    connection.execute(f"INSERT INTO t VALUES ({', '.join('?' * len(row))})", row)
    pages, table = table_of(connection, path)
    rows = run(pages, table.find([1]))
    stored = rows.data[rows.starts[0] : rows.starts[0] + rows.sizes[0]].tobytes()
    assert encode_record(row) == stored
    connection.close()


@given(st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(0, 300)), max_size=20))
def test_varints_are_the_same_one_by_one_and_together(numbers):
    edges = [1 << bits for bits in range(0, 63, 7)]
    numbers = [*numbers, *edges, *(edge - 1 for edge in edges), -1, 2**63 - 1]
    one_by_one = [encode_varint(number) for number in numbers]
    data, ends = encode_varints(np.array(numbers, np.int64))
    assert data == b"".join(one_by_one)
    assert np.diff(ends, prepend=0).tolist() == [len(varint) for varint in one_by_one]
    padded = np.frombuffer(data + bytes(9), np.uint8)
    read, following = read_varints(padded, ends - list(map(len, one_by_one)))
    assert (read.tolist(), following.tolist()) == (numbers, ends.tolist())


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_an_integer_of_more_than_64_bits_is_refused(number):
    for encode in (encode_varint, lambda value: encode_record([value])):
        with pytest.raises(ValueError, match=f"64 bits, found {number}"):
            encode(number)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_records_of_every_length_around_the_overflow_limit(tmp_path, page_size):
    rng = random.Random(1)
    lengths = lengths_around(page_size, page_size - 35)
    rows = {i: [rng.randbytes(length)] for i, length in enumerate(lengths)}
    connection = write_one_table(tmp_path / "a.db", rows, page_size=page_size)
    assert_sound(connection)
    found = dict(connection.execute("SELECT rowid, b FROM t"))
    assert found == {i: blob for i, (blob,) in rows.items()}
    assert_same_table(connection, tmp_path / "a.db")


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_index_keys_of_every_length_around_the_overflow_limit_and_of_a_megabyte(
    tmp_path, page_size
):
    lengths = lengths_around(page_size, (page_size - 12) * 64 // 255 - 23)
    names = [f"{n:x}".ljust(n, "y") for n in lengths]
    names += [first * (1 << 20) for first in "aAz"]
    rows = {i: [name, None] for i, name in enumerate(names)}
    connection = write_both(tmp_path / "a.db", rows, ordered(rows), page_size=page_size)
    assert_sound(connection)
    for rowid, (name, _) in rows.items():
        assert (rowid,) in connection.execute(BY_KEY, (name,)).fetchall()
    assert_same_index(connection, tmp_path / "a.db", [name.encode() for name in names])


@pytest.mark.parametrize("count", [*range(12), *range(16, 40), *range(95, 135)])
def test_an_index_of_any_number_of_entries(tmp_path, count):
    """Four entries fill a page of 512 bytes, so that the last page of a level has none in turn."""
    rows = {i: [f"{i:05}" * 20, None] for i in range(count)}
    connection = write_both(tmp_path / "a.db", rows, ordered(rows), page_size=512)
    assert_sound(connection)
    assert_same_index(connection, tmp_path / "a.db", [key.encode() for key, _ in rows.values()])
    connection.close()


@pytest.mark.parametrize("count", [0, 1, 2, *range(32, 38), *range(66, 72), *range(1150, 1162)])
def test_a_table_of_any_number_of_leaves(tmp_path, count):
    """At most 34 leaves of one row with a long row id hang on an interior page of 512 bytes."""
    rows = {-(2**62) + i: [bytes(400)] for i in range(count)}
    connection = write_one_table(tmp_path / "a.db", rows, page_size=512)
    assert_sound(connection)
    assert_same_table(connection, tmp_path / "a.db", beside=[0, -(2**62) - 1, -(2**62) + count])
    connection.close()


def test_deep_trees(tmp_path):
    count = 6000
    rows = {i: [f"{i:06}" * (1 + i % 16), i] for i in range(1, count + 1)}
    connection = write_both(tmp_path / "a.db", rows, ordered(rows), page_size=512)
    assert_sound(connection)
    pages, table = table_of(connection, tmp_path / "a.db")
    assert len(run(pages, table.find(range(count + 2))).rowids) == count
    assert table.depth == 2
    depth = "SELECT max(length(path) - length(replace(path, '/', ''))) FROM dbstat WHERE name = 'i'"
    assert connection.execute(depth).get >= 5
    assert connection.execute("SELECT count(*), sum(b) FROM t").fetchall() == [
        (count, count * (count + 1) // 2)
    ]


@pytest.mark.parametrize("reserve", [0, 3])
def test_empty_tables_and_no_tables(tmp_path, reserve):
    path = tmp_path / "a.db"
    connection = write_both(path, {}, [], reserve=reserve)
    assert_sound(connection)
    assert connection.execute("SELECT * FROM t").get is None
    assert connection.execute("PRAGMA page_count").get == 3 + reserve
    connection.execute("INSERT INTO t VALUES ('a', 1)")
    assert_sound(connection)
    connection.close()
    vfs.DatabaseWriter(path, reserve=reserve).finish([])
    connection = apsw.Connection(str(path))
    assert_sound(connection)
    assert connection.execute("SELECT * FROM sqlite_schema").get is None
    assert connection.execute("PRAGMA page_count").get == 1 + reserve


def test_pages_lie_in_the_order_of_their_entries(tmp_path):
    rng = random.Random(2)
    rows = {
        i: [f"{i:04}" * rng.choice([1, 9, 900]), rng.randbytes(rng.choice([9, 99, 2000]))]
        for i in range(2500)
    }
    connection = write_both(tmp_path / "a.db", rows, ordered(rows), page_size=1024)
    assert_sound(connection)
    following = 2
    for name in ("t", "i"):
        pages = pages_of(connection, name)
        below = [number for number, kind in pages if kind != "internal"]
        inner = [number for number, kind in pages if kind == "internal"]
        leaves = [number for number, kind in pages if kind == "leaf"]
        assert len(below) > len(leaves) + 100 > 200
        assert leaves == sorted(leaves)
        assert sorted(below) == list(range(following, following + len(below)))
        if name == "t":  # in an index, what interior cells overflow to lies among the leaves
            assert below == sorted(below)
        following += len(below)
        assert sorted(inner) == list(range(following, following + len(inner)))
        following += len(inner)


@pytest.mark.parametrize("more", [0, 1])
def test_leaves_are_filled_to_the_last_byte(tmp_path, more):
    """504 bytes of a page hold four cells of 124 and their pointers, or six of 82."""
    path = tmp_path / "a.db"
    writer = vfs.DatabaseWriter(path, page_size=512)
    rows = {i: encode_record([bytes(119)]) for i in range(1, 9)}
    rows[3] += bytes(more)
    assert {len(record) for record in rows.values()} == {122, 122 + more}
    loader = writer.table()
    loader.add(rows_of(rows))
    loader.finish()
    assert writer.page_count == 1 + 3 + more
    entries = [encode_record([f"{i:076}", 7]) for i in range(13)]
    entries[3] += bytes(more)
    assert {len(entry) for entry in entries} == {81, 81 + more}
    before = writer.page_count
    loader = writer.index()
    loader.add(entries)
    loader.finish()
    assert writer.page_count == before + 3 + more
    before = writer.page_count
    loader = writer.index()
    loader.add(entries[:6])
    loader.finish()
    assert writer.page_count == before + 1 + 2 * more
    writer.close()


@pytest.mark.parametrize("count", range(55, 62))
def test_a_schema_of_so_many_leaves_that_they_just_fit(tmp_path, count):
    """Page 1 of 512 bytes has room for 57 children and the last one."""
    path = tmp_path / "a.db"
    writer = vfs.DatabaseWriter(path, page_size=512)
    sql = [f"CREATE VIEW v{i} AS SELECT {i}, {'9' * 300}" for i in range(count)]
    writer.finish([("view", f"v{i}", f"v{i}", 0, sql[i]) for i in range(count)])
    connection = apsw.Connection(str(path))
    assert_sound(connection)
    assert connection.execute("SELECT count(*) FROM sqlite_schema").get == count
    pages = pages_of(connection, "sqlite_schema")
    assert len(pages) == count + (1 if count <= 58 else 2)
    connection.close()


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_the_header_is_the_one_that_sqlite_writes(tmp_path, page_size):
    database(tmp_path / "sql.db", [ONE_COLUMN], page_size=page_size).close()
    write_one_table(tmp_path / "a.db", {}, page_size=page_size).close()
    sql, own = ((tmp_path / name).read_bytes()[:100] for name in ("sql.db", "a.db"))
    assert own[:24] == sql[:24]
    assert own[28:40] == sql[28:40]  # page count and freelist
    assert own[44:92] == sql[44:92]
    assert own[24:28] == own[92:96] != bytes(4)  # else the page count is not believed


def many_tables(path, count, *, reserve, width=30, page_size=512):
    writer = vfs.DatabaseWriter(path, page_size=page_size, reserve=reserve)
    sql = "CREATE TABLE {} (" + "a" * width + ")"
    schema = []
    for i in range(count):
        root = write_table(writer, {7: [i]})
        schema.append(entry_of(f"t{i}", root, sql.format(f"t{i}")))
    before = writer.page_count
    writer.finish(schema)
    connection = apsw.Connection(str(path))
    assert_sound(connection)
    for i in range(count):
        assert connection.execute(f"SELECT rowid, * FROM t{i}").fetchall() == [(7, i)]
    stored = connection.execute("SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema")
    assert stored.fetchall() == schema
    pages = LocalPages(path)
    found = run(pages, Table(pages, 1).scan(most_pages=10**5))
    assert found == [(i, as_stored(row)) for i, row in enumerate(schema, 1)]
    return before, connection


@pytest.mark.parametrize("width", [*range(300, 480, 6), 3000, 60_000])
def test_a_schema_of_one_row_of_any_length(tmp_path, width):
    before, connection = many_tables(tmp_path / "a.db", 1, reserve=150, width=width)
    assert connection.execute("PRAGMA page_count").get == before
    connection.close()


@pytest.mark.parametrize("count", [2, 4, 5, 6, 7, 60, 700])
def test_a_schema_of_more_pages_than_one(tmp_path, count):
    before, connection = many_tables(tmp_path / "a.db", count, reserve=3)
    more = connection.execute("PRAGMA page_count").get - before
    used = len(pages_of(connection, "sqlite_schema")) - 1
    assert more == max(used - 3, 0)
    assert connection.execute("PRAGMA freelist_count").get == max(3 - used, 0)
    connection.execute("CREATE TABLE another (x)")
    assert_sound(connection)
    connection.close()


@pytest.mark.parametrize("reserve", [1, 2, 120, 121, 122, 123, 400])
def test_what_is_left_of_the_reserve_can_be_used(tmp_path, reserve):
    rows = {i: [bytes(50)] for i in range(100)}
    connection = write_one_table(tmp_path / "a.db", rows, page_size=512, reserve=reserve)
    assert_sound(connection)
    assert connection.execute("PRAGMA freelist_count").get == reserve
    count = connection.execute("PRAGMA page_count").get
    with connection:
        connection.executemany("INSERT INTO t VALUES (?)", [(bytes(400),)] * (reserve + 5))
    assert connection.execute("PRAGMA freelist_count").get == 0
    assert connection.execute("PRAGMA page_count").get < count + 15
    assert_sound(connection)


def test_what_goes_to_the_front_takes_the_reserve_and_then_the_end(tmp_path):
    path = tmp_path / "a.db"
    writer = vfs.DatabaseWriter(path, reserve=6)
    behind = write_table(writer, {i: [bytes(3000)] for i in range(4)})
    early = write_table(writer, {1: [bytes(3 * 4092)]}, front=True)
    late = write_table(writer, {1: [bytes(range(256)) * 64]}, front=True)
    writer.finish(
        [
            entry_of("t", behind, "CREATE TABLE t (b)"),
            entry_of("early", early, "CREATE TABLE early (b)"),
            entry_of("late", late, "CREATE TABLE late (b)"),
        ]
    )
    connection = apsw.Connection(str(path))
    assert_sound(connection)
    assert sorted(number for number, _ in pages_of(connection, "t")) == [8, 9, 10, 11, 12]
    assert sorted(number for number, _ in pages_of(connection, "early")) == [2, 3, 4, 5]
    assert sorted(number for number, _ in pages_of(connection, "late")) == [6, 7, 13, 14, 15]
    assert connection.execute("SELECT b FROM late").get == bytes(range(256)) * 64


@pytest.mark.parametrize("before", [*range(6)])
def test_the_page_of_the_lock_byte_is_left_out(tmp_path, before):
    """The reserve makes the file long without writing it."""
    path = tmp_path / "a.db"
    writer = vfs.DatabaseWriter(path, page_size=65536, reserve=LOCK_PAGE - 2 - before)
    small = write_table(writer, {i: [bytes([i]) * 60_000] for i in range(3)})
    large = bytes(range(256)) * 1000
    loader = writer.table()
    loader.add_stream(1, len(encode_record([large])), [encode_record([large])])
    root = loader.finish()
    writer.finish(
        [entry_of("t", small, ONE_COLUMN), entry_of("u", root, "CREATE TABLE u (b)")],
    )
    connection = apsw.Connection(str(path))
    assert_sound(connection)
    used = {number for name in ("t", "u") for number, _ in pages_of(connection, name)}
    assert min(used) == LOCK_PAGE + (before == 0) - before
    assert LOCK_PAGE not in used
    assert LOCK_PAGE + 1 in used
    assert connection.execute("SELECT b FROM u").get == large
    assert_same_table(connection, path)


def test_a_reserve_around_the_page_of_the_lock_byte(tmp_path):
    pages = PageFile(tmp_path / "pages", 65536, LOCK_PAGE + 3)
    assert pages.allocate(LOCK_PAGE - 3, front=True) == [range(2, LOCK_PAGE - 1)]
    assert pages.unused() == [LOCK_PAGE - 1, *range(LOCK_PAGE + 1, LOCK_PAGE + 5)]
    assert pages.allocate(1, front=False) == [range(LOCK_PAGE + 5, LOCK_PAGE + 6)]
    assert pages.allocate(3, front=True) == [
        range(LOCK_PAGE - 1, LOCK_PAGE),
        range(LOCK_PAGE + 1, LOCK_PAGE + 3),
    ]
    assert pages.allocate(3, front=True) == [
        range(LOCK_PAGE + 3, LOCK_PAGE + 5),
        range(LOCK_PAGE + 6, LOCK_PAGE + 7),
    ]
    assert pages.page_count == LOCK_PAGE + 6
    pages.close()
    connection = write_one_table(
        tmp_path / "a.db", {1: ["a"]}, page_size=65536, reserve=LOCK_PAGE + 3
    )
    assert_sound(connection)
    assert connection.execute("PRAGMA freelist_count").get == LOCK_PAGE + 2


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
@pytest.mark.parametrize("length", [0, 1, 100, 450, 4000, 70_000, 1_000_003])
def test_a_record_in_pieces(tmp_path, page_size, length):
    path = tmp_path / "a.db"
    rng = random.Random(length)
    blob = rng.randbytes(length)
    record = encode_record([blob])
    cuts = sorted(rng.randrange(len(record) + 1) for _ in range(9))
    bounds = list(itertools.pairwise([0, *cuts, len(record)]))
    writer = vfs.DatabaseWriter(path, page_size=page_size)
    loader = writer.table()
    loader.add_record(-4, encode_record(["before"]))
    for rowid in (3, 4):
        loader.add_stream(rowid, len(record), (record[begin:end] for begin, end in bounds))
    writer.finish([entry_of("t", loader.finish(), ONE_COLUMN)])
    connection = apsw.Connection(str(path))
    assert_sound(connection)
    expected = [(-4, "before"), (3, blob), (4, blob)]
    assert connection.execute("SELECT rowid, b FROM t").fetchall() == expected
    assert_same_table(connection, path, beside=[-5, 5])


def test_a_record_in_pieces_is_never_whole_in_memory(tmp_path):
    path = tmp_path / "a.db"
    count, piece = 500, bytes(range(256)) * 256
    head = encode_record([bytes(count * len(piece))])[: -count * len(piece)]
    writer = vfs.DatabaseWriter(path)
    loader = writer.table()
    tracemalloc.start()
    size = len(head) + count * len(piece)
    loader.add_stream(1, size, itertools.chain([head], itertools.repeat(piece, count)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 << 20
    writer.finish([entry_of("t", loader.finish(), ONE_COLUMN)])
    connection = apsw.Connection(str(path))
    assert connection.execute("SELECT length(b), substr(b, -256) FROM t").fetchall() == [
        (count * len(piece), piece[:256])
    ]


def test_the_memory_of_rows_can_be_used_again(tmp_path):
    path = tmp_path / "a.db"
    rows = {i: [bytes([i]) * length] for i, length in enumerate([10, 9000, 20, 5000], 1)}
    writer = vfs.DatabaseWriter(path)
    loader = writer.table()
    for rowid, row in rows.items():
        some = rows_of({rowid: encode_record(row)})
        some.data = some.data.copy()
        loader.add(some)
        some.data[:] = 255
    writer.finish([entry_of("t", loader.finish(), ONE_COLUMN)])
    connection = apsw.Connection(str(path))
    assert dict(connection.execute("SELECT rowid, b FROM t")) == {i: rows[i][0] for i in rows}


@pytest.mark.parametrize(("size", "what"), [(9000, "longer"), (9010, "end 6 bytes before")])
def test_pieces_of_another_size_than_said_are_refused(tmp_path, size, what):
    record = encode_record([bytes(9000)])
    assert len(record) == 9004
    with contextlib.closing(vfs.DatabaseWriter(tmp_path / "a.db")) as writer:
        loader = writer.table()
        with pytest.raises(ValueError, match=what):
            loader.add_stream(1, size, [record])


def test_a_short_record_of_another_size_than_said_is_refused(tmp_path):
    record = encode_record(["short"])
    with contextlib.closing(vfs.DatabaseWriter(tmp_path / "a.db")) as writer:
        loader = writer.table()
        with pytest.raises(ValueError, match="longer than its size"):
            loader.add_stream(1, len(record) - 1, [record])
        with pytest.raises(ValueError, match="end 1 bytes before"):
            loader.add_stream(1, len(record) + 1, [record])


def test_row_ids_that_do_not_rise_are_refused(tmp_path):
    record = encode_record(["a"])
    with contextlib.closing(vfs.DatabaseWriter(tmp_path / "a.db")) as writer:
        loader = writer.table()
        with pytest.raises(ValueError, match="rising row ids, found 3 after 5"):
            loader.add(rows_of({1: record, 5: record, 3: record}))
        loader.add(rows_of({}))
        loader.add(rows_of({4: record, 5: record}))
        for rowid in (5, 4, -1):
            message = f"rising row ids, found {rowid} after 5"
            with pytest.raises(ValueError, match=message):
                loader.add(rows_of({rowid: record}))
            with pytest.raises(ValueError, match=message):
                loader.add_record(rowid, record)
            with pytest.raises(ValueError, match=message):
                loader.add_stream(rowid, len(record), [record])
        loader.add_record(6, record)


def test_one_tree_at_a_time(tmp_path):
    with contextlib.closing(vfs.DatabaseWriter(tmp_path / "a.db")) as writer:
        table = writer.table()
        for begin in (writer.table, writer.index, lambda: writer.finish([])):
            with pytest.raises(ValueError, match="still being written"):
                begin()
        table.finish()
        index = writer.index()
        index.finish()
        record = encode_record(["a"])
        for add in (
            lambda: table.add_record(1, record),
            lambda: table.add(rows_of({1: record})),
            lambda: table.add_stream(1, len(record), [record]),
            lambda: index.add([record]),
            table.finish,
            index.finish,
        ):
            with pytest.raises(ValueError, match="is finished"):
                add()


@pytest.mark.parametrize("page_size", [0, 256, 1000, 131072])
def test_a_page_size_that_sqlite_does_not_have_is_refused(tmp_path, page_size):
    with pytest.raises(ValueError, match=f"page size of .*, found {page_size}"):
        vfs.DatabaseWriter(tmp_path / "a.db", page_size=page_size)
    with pytest.raises(ValueError, match="found -1"):
        vfs.DatabaseWriter(tmp_path / "a.db", reserve=-1)


def test_what_is_written_can_be_read_before_the_end(tmp_path):
    path = tmp_path / "a.db"
    rows = {i: [str(i)] for i in range(5000)}
    with contextlib.closing(vfs.DatabaseWriter(path, reserve=5)) as writer:
        root = write_table(writer, rows)
        writer.flush()
        pages = LocalPages(path)
        assert pages.layout.page_count == writer.page_count
        assert run(pages, Table(pages, 1).scan(most_pages=1)) == []
        found = run(pages, Table(pages, root).scan(most_pages=10**4))
        assert found == [(i, as_stored(row)) for i, row in rows.items()]
        later = write_table(writer, {1: ["front"]}, front=True)
        writer.flush()
        writer.finish([entry_of("t", root, ONE_COLUMN), entry_of("u", later, "CREATE TABLE u (b)")])
    connection = apsw.Connection(str(path))
    assert_sound(connection)
    assert connection.execute("SELECT count(*), (SELECT b FROM u) FROM t").get == (5000, "front")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_want_of_space_is_the_systems_own_error():
    writer = vfs.DatabaseWriter("/dev/full")
    loader = writer.table()
    with pytest.raises(OSError, match="No space left") as failed:
        loader.add(rows_of({rowid: bytes(4000) for rowid in range(1000)}))
    assert failed.value.errno == errno.ENOSPC
    writer.close()
    writer.close()


def test_a_write_that_takes_only_a_part_is_gone_on_with(tmp_path, monkeypatch):
    class Short(io.FileIO):
        def write(self, data):
            return super().write(data[:5000])

    monkeypatch.setattr(io, "FileIO", Short)
    rows = {i: [random.Random(i).randbytes(3000)] for i in range(20)}
    connection = write_one_table(tmp_path / "a.db", rows)
    assert_sound(connection)
    assert dict(connection.execute("SELECT rowid, b FROM t")) == {i: rows[i][0] for i in rows}


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        vfs.DatabaseWriter(tmp_path / "none" / "a.db")


def test_closing_twice_and_after_the_end(tmp_path):
    writer = vfs.DatabaseWriter(tmp_path / "a.db")
    writer.finish([])
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed file"):
        writer.finish([])


@pytest.mark.skipif(bool(why_no_wide_sqlite()), reason=why_no_wide_sqlite())
@pytest.mark.parametrize("page_size", [1024, 4096, 65536])
def test_more_columns_than_stock_sqlite_has(tmp_path, page_size):
    path, dim, count = tmp_path / "wide.db", 3072, 30
    names = mf.random_words(count, 1)
    ints, magnitudes = mf.quantize(mf.random_vectors(count, dim, 1), PRECISION)
    rows = {
        i: [name, *vector, length]
        for i, (name, vector, length) in enumerate(
            zip(names, ints.tolist(), magnitudes.tolist(), strict=True), 1
        )
    }
    columns = ", ".join(f"dim_{i} INTEGER" for i in range(dim))
    writer = vfs.DatabaseWriter(path, page_size=page_size, reserve=100)
    table = write_table(writer, rows)
    index = write_index(writer, ordered(rows))
    sql = f"CREATE TABLE magnitude (key TEXT COLLATE NOCASE, {columns}, magnitude REAL)"
    on_key = "CREATE INDEX magnitude_key_idx ON magnitude (key)"
    writer.finish(
        [
            entry_of("magnitude", table, sql),
            ("index", "magnitude_key_idx", "magnitude", index, on_key),
        ]
    )
    check = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); print(*db.execute(sys.argv[2]))"
    )
    assert wide_sqlite().run(check, path, "PRAGMA integrity_check") == "('ok',)\n"
    found = wide_sqlite().rows(path, rowids=list(rows), keys=names)
    assert found.rowids.tolist() == [*rows, *rows]
    assert found.keys == [*names, *names]
    assert np.array_equal(found.dims, np.concatenate([ints, ints]))
    assert np.array_equal(found.magnitudes, np.concatenate([magnitudes, magnitudes]))
    wide_sqlite().run(check, path, "VACUUM")
    assert wide_sqlite().run(check, path, "PRAGMA integrity_check") == "('ok',)\n"
