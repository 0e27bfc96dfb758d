"""Files that lie: every walk answers or raises DatabaseError, soon and in little memory."""

import random
import struct
import time
import tracemalloc
import warnings
import zlib
from contextlib import contextmanager, suppress
from itertools import pairwise

import apsw
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vfs
from vfs.btree.index import Index, nocase
from vfs.btree.pages import Layout, check_pages
from vfs.btree.record import decode_record
from vfs.btree.table import Rows, Table
from vfs.btree.walk import run, together
from vfs.router.router import pack, unpack

SECONDS = 20  # of computing; what never ends takes more
CASES = 150
SIZE = 512
TABLE_INTERIOR, TABLE_LEAF, INDEX_INTERIOR, INDEX_LEAF = 5, 13, 2, 10


class MemoryPages:
    """The pages of some bytes, read as strictly as those of a file."""

    def __init__(self, content):
        self.name, self.content = "hostile", content
        self.layout = Layout(self.name, content[:100], len(content))
        self.waves = 0

    def read(self, numbers, *, spare=(), opening=False):
        numbers = [*numbers, *spare]
        check_pages(self, numbers)
        self.waves += 1
        size = self.layout.page_size
        return {number: self.content[(number - 1) * size : number * size] for number in numbers}

    def cached(self, number):
        return self.read([number])[number]


@contextmanager
def strict():
    """Turn warnings into errors, and see to the time that is computed."""
    began = time.thread_time()
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield
    assert time.thread_time() - began < SECONDS


def outcome(pages, walk, **options):
    """Give what a walk answers, or the DatabaseError that it raises; anything else gets out."""
    with strict():
        try:
            return run(pages, walk, **options)
        except vfs.DatabaseError as error:
            refusal = error
    assert "hostile" in str(refusal)  # the file's name
    return refusal


def decode_all(rows):
    for start, size in zip(rows.starts.tolist(), rows.sizes.tolist(), strict=True):
        assert 0 <= start <= start + size
        with suppress(vfs.DatabaseError):
            decode_record(rows.data[start : start + size].tobytes())


def attack(content, roots, keys):
    """Walk everything in a file; give how many walks answered and how many were refused."""
    outcomes = []
    try:
        pages = MemoryPages(content)
    except vfs.DatabaseError:
        return 0, 1
    for rows in (0, 10**15):
        tables = [Table(pages, root, rows) for root in (roots["t"], 1)]
        index = Index(pages, roots["i"], rows, fold=nocase)
        for table in tables:
            found = outcome(pages, table.find(range(-5, 200)), trees=[table, index])
            if isinstance(found, Rows):
                decode_all(found)
            outcomes.append(found)
            outcomes.append(outcome(pages, table.scan(most_pages=500), trees=[index]))
        outcomes.append(outcome(pages, index.find(keys), trees=[*tables, index]))
        record = pack([*tables, index])
        assert unpack(record, [*tables, index])
    refused = sum(isinstance(one, vfs.DatabaseError) for one in outcomes)
    return len(outcomes) - refused, refused


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Give the bytes of a small database, its roots, and keys in its index."""
    path = tmp_path_factory.mktemp("sound") / "a.db"
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA page_size = {SIZE}; PRAGMA journal_mode = OFF")
    connection.execute("CREATE TABLE t (k TEXT COLLATE NOCASE, b)")
    connection.execute("CREATE INDEX i ON t (k)")
    for n in range(8):
        connection.execute(f"CREATE TABLE other{n} (a, b, c)")
    rng = random.Random(0)
    keys = [f"key {n}".ljust(rng.choice([5, 40, 100, 300, 1500]), "x") for n in range(160)]
    connection.executemany(
        "INSERT INTO t VALUES (?, ?)", ((key, rng.randbytes(rng.randrange(900))) for key in keys)
    )
    roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_schema"))
    connection.close()
    return path.read_bytes(), roots, [key.encode() for key in keys] + [b"", b"KEY 7", b"z"]


def test_the_sound_file_is_answered(sound):
    content, roots, keys = sound
    assert attack(content, roots, keys) == (10, 0)
    pages = MemoryPages(content)
    table = Table(pages, roots["t"])
    index = Index(pages, roots["i"], fold=nocase)
    assert len(run(pages, table.find(range(1000))).rowids) == 160
    assert sum(map(len, run(pages, index.find(keys)))) == 160
    assert table.depth >= 1
    assert index.depth >= 2


def test_flipped_bytes(sound):
    content, roots, keys = sound
    answered = refused = 0
    for seed in range(CASES):
        rng = random.Random(seed)
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 3, 10, 100, 1000])):
            damaged[rng.randrange(len(damaged))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, 13, 10])
        one, other = attack(bytes(damaged), roots, keys)
        answered, refused = answered + one, refused + other
    assert answered > CASES
    assert refused > CASES


def test_flipped_bytes_of_headers_pointers_and_cells(sound):
    content, roots, keys = sound
    refused = 0
    for seed in range(CASES):
        rng = random.Random(seed)
        damaged = bytearray(content)
        for page in rng.sample(range(len(content) // SIZE), 20):
            begin = page * SIZE + (100 if page == 0 else 0)
            cells = struct.unpack_from(">100H", content, begin + 8)
            cell = page * SIZE + rng.choice(cells) % SIZE
            at = rng.choice([begin + rng.randrange(12), begin + 8 + rng.randrange(30), cell])
            at = min(at + rng.randrange(3), len(content) - 1)
            damaged[at] = rng.choice([rng.randrange(256), damaged[at] ^ 1 << rng.randrange(8)])
        refused += attack(bytes(damaged), roots, keys)[1]
    assert refused > 2 * CASES


def test_runs_of_noise(sound):
    content, roots, keys = sound
    refused = 0
    for seed in range(CASES):
        rng = random.Random(seed)
        damaged = bytearray(content)
        for _ in range(rng.randrange(1, 8)):
            length = rng.choice([2, 9, 20, 100])
            at = rng.randrange(100, len(content) - length)
            damaged[at : at + length] = rng.choice([b"\xff" * length, rng.randbytes(length)])
        refused += attack(bytes(damaged), roots, keys)[1]
    assert refused > CASES // 2


def test_pages_in_the_place_of_others(sound):
    content, roots, keys = sound
    refused = 0
    count = len(content) // SIZE
    for seed in range(CASES):
        rng = random.Random(seed)
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 2, 10, 50])):
            to, source = rng.randrange(1, count), rng.randrange(1, count)
            page = content[source * SIZE : (source + 1) * SIZE]
            damaged[to * SIZE : (to + 1) * SIZE] = page
        refused += attack(bytes(damaged), roots, keys)[1]
    assert refused > CASES


def test_truncated_files(sound):
    content, roots, keys = sound
    undeclared = bytearray(content)
    undeclared[92:96] = bytes(4)  # so that the size in the header does not count
    rng = random.Random(0)
    for length in [*range(0, 600, 40), *(rng.randrange(len(content)) for _ in range(40))]:
        assert attack(content[:length], roots, keys) == (0, 1)
        _, refused = attack(bytes(undeclared[:length]), roots, keys)
        assert refused > 0


# From here on, files made by hand.


def varint(number):
    if number >> 56:
        number, last = number >> 8, bytes([number & 0xFF])
        return bytes(number >> 7 * i & 0x7F | 0x80 for i in reversed(range(8))) + last
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return bytes(reversed(groups))


def page(kind, cells, right=None, *, size=SIZE, pointers=None):
    """Make a page of these cells; pointers replaces where they are said to be."""
    header = 8 if right is None else 12
    body, offsets = b"", []
    for cell in cells:
        body = cell + body
        offsets.append(size - len(body))
    offsets = offsets if pointers is None else pointers(offsets)
    begin = struct.pack(">BHHHB", kind, 0, len(offsets), size - len(body), 0)
    begin += b"" if right is None else struct.pack(">I", right)
    begin += struct.pack(f">{len(offsets)}H", *offsets)
    assert len(begin) + len(body) <= size or pointers
    assert header + 2 * len(offsets) == len(begin)
    return (begin.ljust(size, b"\0")[: size - len(body)] + body)[:size]


def file_of(*pages_from_2, size=SIZE):
    first = bytearray(size)
    first[:16] = b"SQLite format 3\0"
    first[16:18] = struct.pack(">H", 1 if size == 65536 else size)
    first[100:108] = struct.pack(">BHHHB", TABLE_LEAF, 0, 0, 0, 0)
    return MemoryPages(bytes(first) + b"".join(pages_from_2))


def row_cell(rowid, record, *, size=None, overflow=None):
    tail = b"" if overflow is None else struct.pack(">I", overflow)
    return varint(len(record) if size is None else size) + varint(rowid) + record + tail


def row(rowid):
    return row_cell(rowid, b"\2\1\7")


def key_record(key, rowid=7):
    header = varint(13 + 2 * len(key)) + b"\1"
    return varint(len(header) + 1) + header + key + bytes([rowid])


def key_cell(key, rowid=7):
    record = key_record(key, rowid)
    return varint(len(record)) + record


def down(child, cell=b""):
    return struct.pack(">I", child) + cell


def assert_refused(pages, *, match, kind="table", rows=0, keys=(b"a", b"b", b"m", b"z")):
    if kind == "table":
        table = Table(pages, 2, rows)
        walks = [(table, table.find(range(300))), (table, table.scan(most_pages=400))]
    else:
        index = Index(pages, 2, rows, fold=nocase)
        walks = [(index, index.find(keys))]
    for tree, walk in walks:
        refusal = outcome(pages, walk, trees=[tree])
        assert isinstance(refusal, vfs.DatabaseError), refusal
        assert any(part in str(refusal) for part in match.split("|")), refusal


def interior(kind, children):
    """Make an interior page of a table or an index, with some keys between its children."""
    cells = [varint(10 * i + 10) for i in range(len(children) - 1)]
    if kind == "index":
        cells = [key_cell(bytes([ord("b") + i])) for i in range(len(children) - 1)]
    type_ = TABLE_INTERIOR if kind == "table" else INDEX_INTERIOR
    below = [down(child, cell) for child, cell in zip(children[:-1], cells, strict=True)]
    return page(type_, below, right=children[-1])


def leaf(kind):
    if kind == "table":
        return page(TABLE_LEAF, [row(1), row(2)])
    return page(INDEX_LEAF, [key_cell(b"a"), key_cell(b"b")])


both = pytest.mark.parametrize("kind", ["table", "index"])
many_rows = pytest.mark.parametrize("rows", [0, 10**15])


@both
@many_rows
@pytest.mark.parametrize("children", [[2], [0], [2**32 - 1], [5], [3, 3], [3, 0], [3, 2]])
def test_children_that_cannot_be(kind, rows, children):
    pages = file_of(interior(kind, children), leaf(kind), leaf(kind))
    assert_refused(pages, match="child", kind=kind, rows=rows)


@both
@many_rows
def test_a_cycle_of_interior_pages(kind, rows):
    pages = file_of(interior(kind, [3, 4]), leaf(kind), interior(kind, [5, 2]), leaf(kind))
    assert_refused(pages, match="child|two ways", kind=kind, rows=rows)


@both
@many_rows
def test_a_cycle_without_any_key(kind, rows):
    pages = file_of(interior(kind, [3]), interior(kind, [2]))
    assert_refused(pages, match="two ways", kind=kind, rows=rows)
    assert pages.waves < 20


@both
@many_rows
def test_two_parents_of_one_child(kind, rows):
    parents = interior(kind, [3, 4]), interior(kind, [5, 6]), interior(kind, [6, 5])
    pages = file_of(*parents, leaf(kind), leaf(kind))
    if kind == "index":
        assert_refused(pages, match="child", kind=kind, rows=rows)
    else:
        table = Table(pages, 2, rows)
        refusal = outcome(pages, table.scan(most_pages=9), trees=[table])
        assert "a page twice" in str(refusal)
        rows = outcome(pages, table.find([1, 2, 11, 12]))  # all of them lead to one page
        assert rows.rowids.tolist() == [1, 2]


@both
@many_rows
def test_a_tree_that_is_deeper_than_any(kind, rows):
    chain = [interior(kind, [number + 1]) for number in range(2, 300)]
    pages = file_of(*chain, leaf(kind))
    assert_refused(pages, match="levels", kind=kind, rows=rows)
    assert pages.waves <= 2 * 21


@both
@pytest.mark.parametrize("type_", [0, 1, 6, 255])
def test_pages_of_no_type(kind, type_):
    pages = file_of(interior(kind, [3, 4]), page(type_, []), leaf(kind))
    assert_refused(pages, match="type", kind=kind)


def test_pages_of_the_other_kind():
    assert_refused(file_of(leaf("index")), match="type")
    assert_refused(file_of(leaf("table")), match="type", kind="index")
    assert_refused(file_of(interior("table", [3]), leaf("index")), match="type")
    assert_refused(file_of(interior("index", [3]), leaf("table")), match="type", kind="index")


@both
@pytest.mark.parametrize("offset", [SIZE - 3, SIZE - 1, SIZE, 0xFFFF])
def test_cell_pointers_outside_of_the_page(kind, offset):
    type_, cells = (TABLE_LEAF, [row(1)]) if kind == "table" else (INDEX_LEAF, [key_cell(b"a")])
    pages = file_of(page(type_, cells, pointers=lambda offsets: [*offsets, offset]))
    assert_refused(pages, match="outside", kind=kind)
    type_ = TABLE_INTERIOR if kind == "table" else INDEX_INTERIOR
    pages = file_of(page(type_, [], 3, pointers=lambda offsets: [offset]), leaf(kind))
    assert_refused(pages, match="outside", kind=kind)


@both
@pytest.mark.parametrize("count", [253, 300, 0xFFFF])
def test_more_cells_than_a_page_holds(kind, count):
    for whole in (leaf(kind), interior(kind, [3])):
        damaged = whole[:3] + struct.pack(">H", count) + whole[5:]
        assert_refused(file_of(damaged, leaf(kind)), match="cells", kind=kind)


def overflowing(kind, size, overflow):
    """Make a leaf with one record, of a's, which goes on at a page."""
    least = (SIZE - 12) * 32 // 255 - 23
    local = least + (size - least) % (SIZE - 4)
    most = SIZE - 35 if kind == "table" else (SIZE - 12) * 64 // 255 - 23
    local = local if local <= most else least
    begin = varint(13 + 2 * (min(size, 2**61) - 5)) + b"\1"
    record = bytes([len(begin) + 1]) + begin + b"a" * SIZE
    if kind == "table":
        return page(TABLE_LEAF, [row_cell(1, record[:local], size=size, overflow=overflow)])
    return page(INDEX_LEAF, [varint(size) + record[:local] + struct.pack(">I", overflow)])


@both
@pytest.mark.parametrize("size", [1600, 10**5, 2**24 + 1, 2**40, 2**62, 2**63, 2**64 - 1])
@pytest.mark.parametrize("overflow", [0, 2, 3, 9, 2**32 - 1])
def test_payloads_longer_than_the_file(kind, size, overflow):
    pages = file_of(overflowing(kind, size, overflow), page(0, []), page(0, []))
    match = "outside|overflow|a pointer to page|two ways"
    assert_refused(pages, match=match, kind=kind, keys=[b"a" * 1000])


def linked(number):
    return struct.pack(">I", number).ljust(SIZE, b"a")


@both
@pytest.mark.parametrize(
    "chain", [[3, 3], [3, 4, 3], [3, 4, 2], [3, 4, 5, 0], [3, 4, 5, 99], [3, 5, 4, 5]]
)
def test_overflow_chains_that_loop_or_lead_nowhere(kind, chain):
    after = dict(pairwise(chain))
    pages = file_of(
        overflowing(kind, 3000, chain[0]), *(linked(after.get(n, n + 1)) for n in range(3, 20))
    )
    keys = [b"a" * 2995]
    assert_refused(pages, match="two ways|overflow chain", kind=kind, keys=keys)


@both
def test_the_same_chain_whole_is_answered(kind):
    pages = file_of(overflowing(kind, 3000, 3), *(linked(n + 1) for n in range(3, 20)))
    if kind == "table":
        rows = run(pages, Table(pages, 2).find([1]))
        assert rows.sizes.tolist() == [3000]
    else:
        index = Index(pages, 2, fold=nocase)
        ((entry,),) = run(pages, index.find([b"a" * 2995]))
        assert entry == (b"a" * 2995, ord("a"))


def test_rows_that_share_an_overflow_chain():
    least = (SIZE - 12) * 32 // 255 - 23
    cells = [row_cell(i, b"\2\1".ljust(least, b"a"), size=least + 508, overflow=3) for i in (1, 2)]
    assert_refused(file_of(page(TABLE_LEAF, cells), linked(0)), match="two ways")


def peak_of(pages, walk):
    tracemalloc.start()
    try:
        found = outcome(pages, walk)
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_page_whose_cells_are_all_the_same_long_one():
    size, count = 65536, 20_000
    record = key_record(b"a" * 16_000)
    cell = varint(len(record)) + record

    def everywhere(offsets):
        return offsets * count

    pages = file_of(page(INDEX_LEAF, [cell], pointers=everywhere, size=size), size=size)
    index = Index(pages, 2, fold=nocase)
    found, peak = peak_of(pages, index.find([b"a" * 16_000]))
    assert isinstance(found, vfs.DatabaseError)
    assert peak < 4 << 20
    pages = file_of(page(INDEX_INTERIOR, [down(3, cell)], 4, pointers=everywhere, size=size),
                    bytes(2 * size), size=size)  # fmt: skip
    index = Index(pages, 2, fold=nocase)
    found, peak = peak_of(pages, index.find([b"a" * 16_000]))
    assert isinstance(found, vfs.DatabaseError)
    assert peak < 4 << 20

    cell = row_cell(1, b"\4" + varint(12 + 2 * 30_000) + b"x" * 30_000)
    pages = file_of(page(TABLE_LEAF, [cell], pointers=everywhere, size=size), size=size)
    found, peak = peak_of(pages, Table(pages, 2).scan(most_pages=9))
    assert isinstance(found, vfs.DatabaseError)
    assert peak < 10 << 20


def test_rows_inside_of_one_another():
    inner = row_cell(2, b"\2\1".ljust(100, b"b"))
    outer = row_cell(1, b"\2\1" + inner + b"c" * 90)
    assert_refused(
        file_of(page(TABLE_LEAF, [outer], pointers=lambda offsets: [offsets[0], offsets[0] + 5])),
        match="overlap",
    )


def test_row_ids_out_of_order():
    wild = [down(3, varint(10)), down(4, varint(10))]
    assert_refused(
        file_of(page(TABLE_INTERIOR, wild, right=5), *[leaf("table")] * 3), match="order"
    )
    pages = file_of(page(TABLE_LEAF, [row(2), row(1), row(3)]))
    table = Table(pages, 2)
    assert isinstance(outcome(pages, table.scan(most_pages=5)), vfs.DatabaseError)
    assert set(outcome(pages, table.find([1, 2, 3])).rowids.tolist()) <= {1, 2, 3}


@pytest.mark.parametrize(
    "record",
    [
        b"\0",  # a header shorter than its own length
        b"\1",  # no column
        b"\2\1",  # cut off before its value
        b"\7\1\7",  # a header longer than the record
        b"\2\x0a\1",  # types that are reserved
        b"\2\x0b\1",
        b"\3\xff\xff",  # a type that is cut off
        varint(10) + varint(2**64 - 1) + b"a",  # a type below zero
        varint(10) + varint(2**63 - 1) + b"a",  # a huge one
        varint(2**64 - 1) + b"\1\1",
        varint(2**40) + b"\1\1",
        b"",
    ],
)
def test_records_whose_header_lies(record):
    pages = file_of(page(TABLE_LEAF, [row_cell(1, record.ljust(2, b"\0"))]), page(0, []))
    if record not in (b"\1",):
        with pytest.raises(vfs.DatabaseError, match="malformed record"):
            decode_record(record)
        if len(record) > 1:
            scan = outcome(pages, Table(pages, 2).scan(most_pages=5))
            assert isinstance(scan, vfs.DatabaseError)
    entry = record.ljust(3, b"\0")
    pages = file_of(page(INDEX_LEAF, [varint(len(entry)) + entry]))
    index = Index(pages, 2, fold=nocase)
    found = outcome(pages, index.find([b"", b"a"]))
    assert isinstance(found, vfs.DatabaseError) or found == [[], []]


@pytest.mark.parametrize(
    "record",
    [
        b"\2\x0fa",  # one column
        b"\4\x0f\1\1a\7\7",  # three
        b"\3\x0f\0a",  # a row id that is NULL
        b"\3\x0f\7a" + bytes(8),  # a float
        b"\3\x0f\x0fab",  # text
    ],
)
def test_index_entries_that_are_no_key_and_row_id(record):
    pages = file_of(page(INDEX_LEAF, [varint(len(record)) + record]))
    assert_refused(pages, match="no key and row id", kind="index")


def test_a_record_of_very_many_values():
    record = varint(100_003) + bytes(100_000)
    with pytest.raises(vfs.DatabaseError, match="32,767"):
        decode_record(record)


def test_an_index_out_of_order_gives_no_entry_twice():
    cells = [key_cell(key, rowid) for rowid, key in enumerate([b"m", b"a", b"z", b"a", b"m"])]
    pages = file_of(page(INDEX_LEAF, cells))
    index = Index(pages, 2, fold=nocase)
    found = outcome(pages, index.find([b"a", b"m", b"z"]))
    if not isinstance(found, vfs.DatabaseError):
        entries = [entry for entries in found for entry in entries]
        assert len(entries) == len(set(entries))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_as_a_record(data):
    with strict(), suppress(vfs.DatabaseError):
        assert isinstance(decode_record(data), list)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 2**45), st.booleans())
def test_any_bytes_as_a_header(data, size, magic):
    header = b"SQLite format 3\0" + data if magic else data
    with strict():
        try:
            layout = Layout("hostile", header, size)
        except vfs.DatabaseError:
            pass
        else:
            assert 512 <= layout.page_size <= 65536
            assert layout.page_size & (layout.page_size - 1) == 0
            assert 480 <= layout.usable <= layout.page_size
            assert layout.page_count * layout.page_size <= size


def header(**changes):
    data = bytearray(100)
    data[:16] = b"SQLite format 3\0"
    fields = {"page_size": (16, ">H", 4096), "reserved": (20, "B", 0), "changes": (24, ">I", 5)}
    fields |= {"pages": (28, ">I", 2), "encoding": (56, ">I", 1), "valid": (92, ">I", 5)}
    for name, (at, form, usual) in fields.items():
        struct.pack_into(form, data, at, changes.get(name, usual))
    return bytes(data)


@pytest.mark.parametrize(
    ("changes", "size", "match"),
    [
        ({"page_size": 0}, 8192, "page size 0"),
        ({"page_size": 256}, 8192, "page size 256"),
        ({"page_size": 4095}, 8192, "page size 4095"),
        ({"page_size": 512, "reserved": 33}, 8192, "33 bytes reserved"),
        ({"encoding": 2}, 8192, "encoding 2"),
        ({"encoding": 77}, 8192, "encoding 77"),
        ({}, 4096, "truncated"),
        ({"pages": 2**32 - 1}, 8192, "truncated"),
    ],
)
def test_headers_that_are_refused(changes, size, match):
    with pytest.raises(vfs.DatabaseError, match=match):
        Layout("hostile", header(**changes), size)


def test_headers_that_are_taken():
    assert Layout("sound", header(), 8192).page_count == 2
    assert Layout("sound", header(page_size=1), 2 * 65536).page_size == 65536
    assert Layout("sound", header(page_size=512, reserved=32), 1024).usable == 480
    assert Layout("sound", header(valid=4, pages=9), 8192).page_count == 2


# Records of `vfs.pack`.


def trees_of(sound):
    content, roots, keys = sound
    pages = MemoryPages(content)
    trees = [Table(pages, roots["t"]), Index(pages, roots["i"], fold=nocase)]
    return pages, trees, keys


@pytest.fixture(scope="module")
def router(sound):
    pages, trees, keys = trees_of(sound)
    run(pages, together([trees[0].find(range(300)), trees[1].find(keys)]))
    return pack(trees)


def test_a_router_with_damaged_bytes_is_refused_or_walks_safely(sound, router):
    body = zlib.decompress(router)
    taken = refused = 0
    for seed in range(2 * CASES):
        rng = random.Random(seed)
        damaged = bytearray(body)
        for _ in range(rng.choice([1, 2, 10])):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        pages, trees, keys = trees_of(sound)
        with strict():
            good = unpack(zlib.compress(bytes(damaged)), trees)
        if not good:
            refused += 1
            assert all(not tree.interior and tree.depth is None for tree in trees)
            continue
        taken += 1
        for tree in trees:
            tree.rows = 10**15
        outcome(pages, trees[0].find(range(300)), trees=trees)
        outcome(pages, trees[1].find(keys), trees=trees)
    assert taken > 10
    assert refused > CASES


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), packed=st.booleans())
def test_a_router_of_any_bytes_is_refused(sound, data, packed):
    _, trees, _ = trees_of(sound)
    with strict():
        assert not unpack(zlib.compress(data) if packed else data, trees)
    assert all(not tree.interior for tree in trees)


def test_a_router_cut_off_or_longer_is_refused(sound, router):
    _, trees, _ = trees_of(sound)
    body = zlib.decompress(router)
    for length in range(0, len(router), 7):
        assert not unpack(router[:length], trees)
    for length in range(0, len(body), 13):
        assert not unpack(zlib.compress(body[:length]), trees)
    assert not unpack(zlib.compress(body + bytes(8)), trees)
    assert not unpack(zlib.compress(body + body), trees)
    assert unpack(router, trees)


def test_a_router_that_inflates_without_end_is_refused(sound):
    _, trees, _ = trees_of(sound)
    bomb = zlib.compress(bytes(100 << 20))
    with strict():
        assert not unpack(bomb, trees)
