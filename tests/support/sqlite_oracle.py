"""Tables and indexes read by the library and by SQLite itself, and compared."""

import ctypes
import random

import apsw
import numpy as np

from vfs.btree.index import Index, nocase
from vfs.btree.pages import LocalPages
from vfs.btree.record import decode_record
from vfs.btree.table import Table
from vfs.btree.walk import run

PAGE_SIZES = [512, 1024, 4096, 65536]


def database(path, statements=(), *, page_size=4096, reserved=0):
    path.unlink(missing_ok=True)
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA page_size = {page_size}; PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    if reserved:
        number = ctypes.c_int(reserved)
        connection.file_control("main", apsw.SQLITE_FCNTL_RESERVE_BYTES, ctypes.addressof(number))
    for statement in statements:
        connection.execute(statement)
    return connection


def root_of(connection, name):
    query = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
    return connection.execute(query, (name,)).get


def table_of(connection, path, name="t"):
    pages = Counting(LocalPages(path))
    return pages, Table(pages, root_of(connection, name))


def index_of(connection, path, name="i", fold=nocase):
    pages = Counting(LocalPages(path))
    return pages, Index(pages, root_of(connection, name), fold=fold)


def as_stored(values):
    return [value.encode() if isinstance(value, str) else value for value in values]


def decoded(rows):
    assert np.all(rows.starts + rows.sizes + 9 <= len(rows.data))
    return {
        rowid: decode_record(rows.data[start : start + size].tobytes())
        for rowid, start, size in zip(
            rows.rowids.tolist(), rows.starts.tolist(), rows.sizes.tolist(), strict=True
        )
    }


def expected_rows(connection, name="t"):
    return {
        rowid: as_stored(values)
        for rowid, *values in connection.execute(f"SELECT rowid, * FROM {name}")
    }


def assert_same_table(connection, path, *, beside=()):
    """Hold find and scan against SQL, for all rows and for some row ids that are not there."""
    expected = expected_rows(connection)
    pages, table = table_of(connection, path)
    asked = [*expected, *beside]
    random.Random(0).shuffle(asked)
    rows = run(pages, table.find(asked))
    assert rows.rowids.tolist() == sorted(expected)
    assert decoded(rows) == expected
    pages, table = table_of(connection, path)
    assert run(pages, table.scan(most_pages=10**6)) == sorted(expected.items())


def expected_entries(connection, key):
    return [
        (bytes(found), rowid)
        for found, rowid in connection.execute(
            "SELECT CAST(k AS BLOB), rowid FROM t "
            "WHERE k = CAST(? AS TEXT) AND typeof(k) = 'text' ORDER BY rowid",
            (key,),
        )
    ]


def assert_same_index(connection, path, keys):
    pages, index = index_of(connection, path)
    found = run(pages, index.find(keys))
    assert found == [expected_entries(connection, key) for key in keys]


def lengths_around(usable, most_local):
    """Give lengths at which the part of a record that stays in its page changes."""
    edges = [most_local + chain * (usable - 4) for chain in range(4)]
    least = (usable - 12) * 32 // 255 - 23
    edges += [least + chain * (usable - 4) for chain in range(1, 4)]
    edges += [edge + (most_local - least) for edge in edges]
    return sorted({max(edge + shift, 0) for edge in edges for shift in range(-10, 5)})


class Counting:
    """Pages that note the waves, and what was asked for in each."""

    def __init__(self, pages):
        self.pages, self.name, self.layout = pages, pages.name, pages.layout
        self.waves = []

    def read(self, numbers, *, spare=(), opening=False):
        numbers = list(numbers)
        self.waves.append(numbers)
        return self.pages.read([*numbers, *spare])

    def cached(self, number):
        return None
