"""Files laid out for streaming, held against SQLite and the files that they were made of."""

import random
import shutil
import signal
from contextlib import closing
from itertools import pairwise

import apsw
import magnitude_files as mf
import numpy as np
import pytest
from children import child
from wide_sqlite import why_no_wide_sqlite, wide_sqlite

import streamfile
from streamfile import FormatError, convert
from streamfile.cli.main import main
from streamfile.errors import ExistsError, PathError
from streamfile.tools.repack import compare, repack
from vfs import DatabaseError
from vfs.btree.pages import LocalPages

ROWS, DIM = 1500, 6
FRONT = 128 << 10  # bytes that the first request brings
MADE = ("magnitude_router", "magnitude_key_lengths")
SUBWORD = "magnitude_subword"
OWN = (f"{SUBWORD}_segdir", f"{SUBWORD}_segments", f"sqlite_autoindex_{SUBWORD}_segdir_1")
LEAVES = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path"
CHAINS = "SELECT pageno, pagetype FROM dbstat WHERE name = ? AND pagetype <> 'internal'"


def words(count):
    """Make keys, some of them very long, equal, equal but for their case, or odd."""
    rng = random.Random(1)
    odd = ["", "a", "A", "a", "née", "日本語", "ter\0ling", '"', "new york", "x" * 254, "y" * 255]
    odd += ["z" * 256, "é" * 400, "long " * 900]
    keys = [*odd, *mf.random_words(count - len(odd), 1)]
    keys[200:203] = ["same", "Same", "same"]
    rng.shuffle(keys)
    return keys


KEYS = words(ROWS)
VECTORS = mf.random_vectors(ROWS, DIM, 1)


def connect(path):
    return closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY))


def change(path, *statements):
    with closing(apsw.Connection(str(path))) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


def add_approx(path, blob, rows=3):
    """Add what a heavy file has; nobody here reads the index itself."""
    step = -(-len(blob) // rows)
    with closing(apsw.Connection(str(path))) as connection, connection:
        connection.execute("CREATE TABLE magnitude_approx (trees INTEGER, index_file BLOB)")
        connection.executemany(
            "INSERT INTO magnitude_approx VALUES (4, ?)",
            [(blob[at : at + step],) for at in range(0, len(blob), step)],
        )
        connection.execute("UPDATE magnitude_format SET value = 1 WHERE key = 'approx'")
        connection.execute("UPDATE magnitude_format SET value = 4 WHERE key = 'approx_trees'")
    return path


def shuffle(path):
    """Delete rows and add them again, with others between, so that no page is where it was."""
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE moved AS SELECT rowid AS row, * FROM magnitude")
        columns = ", ".join(f"dim_{k}" for k in range(DIM))
        for modulus in (3, 5, 2):
            chosen = f"WHERE row % {modulus} = 1"
            connection.execute(f"DELETE FROM magnitude {chosen.replace('row', 'rowid')}")
            connection.execute(f"CREATE TABLE between_{modulus} AS SELECT * FROM moved LIMIT 99")
            connection.execute(
                f"INSERT INTO magnitude (rowid, key, {columns}, magnitude)"
                f" SELECT row, key, {columns}, magnitude FROM moved {chosen} ORDER BY key DESC"
            )
            connection.execute(f"DROP TABLE between_{modulus}")
        connection.execute("DROP TABLE moved")
        connection.execute("COMMIT")
    return path


def reinsert(path, rowids):
    """Delete documents of the full-text index and add them again, in segments of their own."""
    with closing(apsw.Connection(str(path))) as connection:
        for rowid in rowids:
            connection.execute(f"DELETE FROM {SUBWORD} WHERE docid = ?", (rowid,))
            connection.execute(
                f"INSERT INTO {SUBWORD} (docid, char_ngrams, num_ngrams) VALUES (?, ?, ?)",
                (rowid, *mf.subword_row(KEYS[rowid - 1])),
            )
    return path


def write(path, kind):
    options = {"subwords": kind not in ("light", "elmo")}
    if kind.isdigit():
        options["page_size"] = int(kind)
    if kind in ("fragmented", "loose"):
        options["vacuum"] = False
    if kind == "elmo":
        options["meta"] = (random.Random(2).randbytes(3 << 20), b"{}" * 1000)
    keys, vectors = (KEYS[:200], VECTORS[:200]) if kind == "elmo" else (KEYS, VECTORS)
    if kind == "elmo":
        vectors = np.tile(vectors, 2)
    if kind == "empty":
        keys, vectors = [], VECTORS[:0]
    mf.write_magnitude(path, keys, vectors, elmo=kind == "elmo", **options)
    if kind == "heavy":
        add_approx(path, random.Random(3).randbytes(1 << 20))
    if kind == "fragmented":
        shuffle(path)
    if kind in ("fragmented", "segments"):
        reinsert(path, [*range(1, 300, 7), *range(1, 40)])
    if kind == "merged":
        change(path, f"INSERT INTO {SUBWORD}({SUBWORD}) VALUES ('optimize')")
    if kind == "more tables":
        change(
            path,
            "CREATE TABLE notes (author TEXT PRIMARY KEY, text) WITHOUT ROWID",
            "INSERT INTO notes VALUES ('b', 1), ('a', 2.5), ('c', NULL)",
            "CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, what UNIQUE)",
            "INSERT INTO counted VALUES (-5, 'x'), (9223372036854775806, 'y')",
            "CREATE VIEW seen AS SELECT key FROM magnitude",
            "CREATE TRIGGER never DELETE ON counted BEGIN SELECT raise(ABORT, 'no'); END",
            "CREATE INDEX falling ON counted (what DESC) WHERE id > 0",
            "ANALYZE",
        )
    return path


KINDS = [
    *("light", "medium", "heavy", "elmo", "empty", "fragmented", "loose", "segments", "merged"),
    *("more tables", "512", "1024", "8192", "65536"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Each kind of file, and in `streaming` what was made of it."""
    folder = tmp_path_factory.mktemp("repacked")
    (folder / "streaming").mkdir()
    for kind in KINDS:
        repack(write(folder / kind, kind), folder / "streaming" / kind, verify=True, log=False)
    return folder


@pytest.fixture(params=KINDS)
def pair(request, folder):
    """Give an original file, and what was made of it."""
    return folder / request.param, folder / "streaming" / request.param


def tables(connection):
    """Give name, type and SQL of everything that both files must have."""
    rows = connection.execute("SELECT name, type, tbl_name, sql, rootpage > 0 FROM sqlite_schema")
    return {name: row for name, *row in rows if name not in MADE}


def content(connection, name):
    """Give all rows of a table, with their row ids where it has such."""
    (without,) = (
        connection.execute("SELECT wr FROM pragma_table_list WHERE name = ?", (name,)).get,
    )
    rowid = "" if without else "rowid, "
    return connection.execute(f'SELECT {rowid}* FROM "{name}" ORDER BY 1').fetchall()


# The same database


def test_sqlite_finds_no_fault(pair):
    for path in pair:
        with connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").get == "ok"


def test_all_tables_and_indexes_are_the_same(pair):
    with connect(pair[0]) as before, connect(pair[1]) as after:
        schema = tables(before)
        assert tables(after) == schema
        for name, (kind, *_, stored) in schema.items():
            if kind == "table" and stored and name not in OWN:
                assert content(after, name) == content(before, name), name
        for connection in (before, after):
            plan = connection.execute(
                "EXPLAIN QUERY PLAN SELECT rowid FROM magnitude WHERE key = 'a'"
            ).fetchall()
            assert "USING COVERING INDEX magnitude_key_idx" in plan[0][-1]
        for key in ("a", "A", "SAME", "née", "é" * 400, "long " * 900, "nothing"):
            query = "SELECT rowid FROM magnitude WHERE key = ?"
            rows = [c.execute(query, (key,)).fetchall() for c in (before, after)]
            assert rows[0] == rows[1]


def test_n_grams_are_found_at_the_same_places(pair):
    with connect(pair[0]) as before, connect(pair[1]) as after:
        if f"{SUBWORD}_segdir" not in tables(before):
            pytest.skip("a file without n-grams")
        grams = {gram for key in KEYS[::20] for gram in mf.subword_row(key)[0].split()[:9]}
        query = f"SELECT docid, offsets({SUBWORD}) FROM {SUBWORD} WHERE char_ngrams MATCH ?"
        found = 0
        for gram in [*sorted(grams)[::7], "nothing", "bab*", "^bab", "bab OR bad"]:
            text = gram if gram.isascii() else f'"{gram}"'
            rows = [sorted(c.execute(query, (text,)).fetchall()) for c in (before, after)]
            assert rows[0] == rows[1], gram
            found += len(rows[0])
        assert found > 100 or content(before, "magnitude") == []
        count = "SELECT count(*) FROM magnitude_subword_segdir"
        assert after.execute(count).get == min(1, before.execute(count).get)


def test_a_new_row_can_be_added_by_sqlite(folder, tmp_path):
    path = tmp_path / "a"
    shutil.copy(folder / "streaming" / "medium", path)
    change(
        path,
        "INSERT INTO magnitude (key) VALUES ('brandnew')",
        f"INSERT INTO {SUBWORD} (docid, char_ngrams) VALUES ({ROWS + 1}, 'brandnew')",
        f"DELETE FROM {SUBWORD} WHERE docid = 5",
        f"INSERT INTO {SUBWORD}({SUBWORD}) VALUES ('optimize')",
    )
    with connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").get == "ok"
        query = f"SELECT docid FROM {SUBWORD} WHERE char_ngrams MATCH 'brandnew'"
        assert connection.execute(query).get == ROWS + 1


def test_repacking_again_changes_nothing(pair, tmp_path):
    repack(pair[1], tmp_path / "again", log=False)
    assert (tmp_path / "again").read_bytes() == pair[1].read_bytes()


def test_lengths_are_those_that_sqlite_counts(pair):
    with connect(pair[1]) as connection:
        pieces = connection.execute("SELECT data FROM magnitude_key_lengths ORDER BY rowid")
        lengths = b"".join(piece for (piece,) in pieces)
        rows = connection.execute("SELECT min(255, length(key)) FROM magnitude ORDER BY rowid")
        assert list(lengths) == [length for (length,) in rows]


# How it lies


def test_leaves_follow_one_another(pair):
    with connect(pair[1]) as connection:
        for name in ("magnitude", "magnitude_key_idx", f"{SUBWORD}_segments", *MADE[1:]):
            pages = [
                (number, kind)
                for number, kind in connection.execute(f"{CHAINS} ORDER BY pageno", (name,))
            ]
            leaves = [number for (number,) in connection.execute(LEAVES, (name,))]
            assert leaves == sorted(leaves), name
            numbers = [number for number, _ in pages]
            if name.endswith("_idx"):  # interior pages' cells overflow behind the leaves
                assert leaves[-1] - leaves[0] - len(leaves) < len(numbers)
            elif numbers:
                assert numbers == list(range(numbers[0], numbers[-1] + 1)), name
                assert pages[0][1] == "leaf"


@pytest.mark.parametrize("tree", ["magnitude", "magnitude_key_idx"])
def test_what_overflows_is_right_behind_its_leaf(pair, tree):
    with connect(pair[1]) as connection:
        rows = connection.execute(
            "SELECT pageno, path, pagetype FROM dbstat WHERE name = ? ORDER BY pageno", (tree,)
        ).fetchall()
    leaves = {path for _, path, kind in rows if kind == "leaf"}
    paths = [path for _, path, _ in rows if path[: path.rindex("/") + 1] in leaves]
    owners = [path[: path.rindex("/") + 1] for path in paths]
    assert owners == sorted(owners)
    overflows = [path for path in paths if "+" in path]
    assert overflows or tree != "magnitude" or pair[0].name in ("8192", "65536", "elmo", "empty")
    assert overflows == sorted(overflows)


def test_vectors_come_first_then_the_index_on_keys_and_blobs_last(pair):
    with connect(pair[1]) as connection:
        query = "SELECT min(pageno), max(pageno) FROM dbstat WHERE name LIKE ?"
        names = ["magnitude", "magnitude_key_idx", "magnitude_dim_%"]
        names += ["magnitude_approx", "magnitude_meta_1"]
        spans = [connection.execute(query, (name,)).fetchone() for name in names]
    spans = [span for span in spans if span[0] is not None]
    assert all(before[1] < after[0] for before, after in pairwise(spans))


def test_blobs_are_contiguous(folder):
    for kind, names in {
        "heavy": ["magnitude_approx"],
        "elmo": ["magnitude_meta_1", "magnitude_meta_2"],
    }.items():
        with connect(folder / "streaming" / kind) as connection:
            for name in names:
                pages = connection.execute(
                    "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'overflow'"
                    " ORDER BY path",
                    (name,),
                ).fetchall()
                numbers = [number for (number,) in pages]
                assert numbers == sorted(numbers)
                jumps = sum(b - a > 1 for a, b in pairwise(numbers))
                assert jumps < mf.META_ROWS


def test_what_opens_a_file_is_at_its_front(pair):
    with connect(pair[1]) as connection:
        size = connection.execute("PRAGMA page_size").get
        for name in ("sqlite_schema", "magnitude_format", "magnitude_router"):
            pages = connection.execute("SELECT max(pageno) FROM dbstat WHERE name = ?", (name,))
            # Of the largest pages not even three are among the first bytes.
            assert pages.get * size <= (FRONT if size < 65536 else 5 * size), name


def test_every_page_is_of_use_or_free(pair):
    with connect(pair[1]) as connection:
        used = {number for (number,) in connection.execute("SELECT pageno FROM dbstat")}
        count = connection.execute("PRAGMA page_count").get
        free = connection.execute("PRAGMA freelist_count").get
        size = connection.execute("PRAGMA page_size").get
        assert len(used) + free == count == pair[1].stat().st_size // size
        assert free * size <= 12_288 + 3 * size


def test_it_is_no_larger_than_what_vacuum_makes(tmp_path):
    keys = mf.random_words(20_000, 4)
    path = mf.write_magnitude(
        tmp_path / "a", keys, mf.random_vectors(20_000, 8, 4), subwords=True, vacuum=False
    )
    change(path, f"INSERT INTO {SUBWORD}({SUBWORD}) VALUES ('optimize')", "VACUUM")
    repack(path, tmp_path / "b", log=False)
    assert path.stat().st_size > 4 << 20
    assert (tmp_path / "b").stat().st_size <= 1.02 * path.stat().st_size


# Wide files


WIDE = """
import hashlib, sqlite3, sys
for path in sys.argv[1:]:
    connection = sqlite3.connect(path)
    digest = hashlib.sha256()
    for row in connection.execute("SELECT rowid, * FROM magnitude ORDER BY rowid"):
        digest.update(repr(row).encode())
    (said,) = connection.execute("PRAGMA integrity_check").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    found = connection.execute("SELECT rowid FROM magnitude WHERE key = 'a'").fetchall()
    print(said, size, digest.hexdigest())
"""


@pytest.mark.skipif(bool(why_no_wide_sqlite()), reason=why_no_wide_sqlite())
@pytest.mark.parametrize("page_size", [1024, 4096, 65536])
def test_more_columns_than_sqlite_takes(tmp_path, page_size):
    wide = wide_sqlite()
    path = wide.write_wide_magnitude(tmp_path / "a", 60, 3072)
    change_size = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\n"
    change_size += f"c.execute('PRAGMA page_size = {page_size}')\nc.execute('VACUUM')"
    wide.run(change_size, path)
    repack(path, tmp_path / "b", verify=True, log=False)
    before, after = wide.run(WIDE, path, tmp_path / "b").splitlines()
    assert before == after
    assert after.startswith(f"ok {page_size} ")
    with streamfile.Magnitude(path) as v, streamfile.Magnitude(tmp_path / "b") as w:
        for (key, vector), (other, expected) in zip(w[:], v[:], strict=True):
            assert key == other
            np.testing.assert_array_equal(vector, expected)


# Comparing


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


MARKS = {  # what to look for in the file, of which a byte is flipped
    "a row": lambda c: c.execute("SELECT key FROM magnitude WHERE rowid = 700").get.encode(),
    "a key in the index": lambda c: c.execute("SELECT max(key) FROM magnitude").get.encode(),
    "n-grams": lambda c: c.execute(
        f"SELECT max(char_ngrams) FROM {SUBWORD} WHERE length(char_ngrams) < 300"
    ).get.encode(),
    "the index of n-grams": lambda c: (
        c.execute(f"SELECT substr(block, 500, 20) FROM {SUBWORD}_segments WHERE blockid = 3").get
    ),
    "an approximate index": lambda c: (
        c.execute("SELECT substr(index_file, 200000, 16) FROM magnitude_approx WHERE rowid = 2").get
    ),
    "the SQL of a table": lambda c: b"CREATE TABLE magnitude_format",
    "the format": lambda c: b"precision",
    "lengths of keys": lambda c: (
        c.execute("SELECT substr(data, 100, 30) FROM magnitude_key_lengths").get
    ),
}


@pytest.mark.parametrize("what", MARKS)
def test_a_flipped_byte_is_noticed(folder, tmp_path, what):
    path = tmp_path / "b"
    shutil.copy(folder / "streaming" / "heavy", path)
    with connect(path) as connection:
        mark = MARKS[what](connection)
    data = path.read_bytes()
    assert mark in data
    at = data.rfind(mark) if what == "a key in the index" else data.find(mark)
    compare(LocalPages(folder / "heavy"), LocalPages(path))
    flip(path, at + len(mark) // 2)
    with pytest.raises((FormatError, DatabaseError)):
        compare(LocalPages(folder / "heavy"), LocalPages(path))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM magnitude WHERE rowid = (SELECT max(rowid) FROM magnitude)",
        "INSERT INTO magnitude (key) VALUES ('one more')",
        "UPDATE magnitude_format SET value = 8 WHERE key = 'precision'",
        "DROP INDEX magnitude_key_idx",
        "CREATE TABLE one_more (a)",
        f"DELETE FROM {SUBWORD} WHERE docid = 7",
    ],
)
def test_other_content_is_noticed(folder, tmp_path, statement):
    path = tmp_path / "b"
    shutil.copy(folder / "streaming" / "medium", path)
    change(path, statement)
    with pytest.raises((FormatError, DatabaseError)):
        compare(LocalPages(folder / "medium"), LocalPages(path))


def test_a_damaged_source_is_refused_and_leaves_nothing(folder, tmp_path):
    rng = random.Random(1)
    data = (folder / "medium").read_bytes()
    refused = 0
    for _ in range(12):
        broken = bytearray(data)
        page = rng.randrange(1, len(data) // 4096) * 4096
        broken[page : page + 4096] = rng.randbytes(4096)
        (tmp_path / "a").write_bytes(broken)
        try:
            repack(tmp_path / "a", tmp_path / "b", force=True, log=False)
        except (FormatError, DatabaseError) as error:
            refused += str(tmp_path / "a") in str(error)
        assert {path.name for path in tmp_path.iterdir()} <= {"a", "b"}
    assert refused >= 9
    (tmp_path / "a").write_bytes(data[: len(data) // 2])
    with pytest.raises(DatabaseError, match="truncated"):
        repack(tmp_path / "a", tmp_path / "b", force=True, log=False)


# Interrupted, and in the way


def repacking(*lines, args=(), **options):
    """Run lines of Python in another process."""
    script = "\n".join(["import sys", "from streamfile.tools.repack import repack", *lines])
    return child(script, *args, **options)


WAITS = [  # when the vectors are written
    "import streamfile.tools.repack as module",
    "def wait(*args):",
    "    print('here', flush=True)",
    "    sys.stdin.read()",
    "module.write_front = wait",
]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_can_be_repeated(folder, tmp_path, sent):
    shutil.copy(folder / "medium", tmp_path / "a")
    names = ("a", "b")
    args = [str(tmp_path / name) for name in names]
    with repacking(*WAITS, "repack(*sys.argv[1:], log=False)", args=args) as process:
        assert process.stdout.readline() == "here\n"
        with pytest.raises(ExistsError, match="is being written by another process"):
            repack(*args, log=False)
        process.send_signal(sent)
        process.wait()
    left = {path.name for path in tmp_path.iterdir()} - {"a"}
    assert "b" not in left
    assert len(left) == (sent == signal.SIGKILL)
    repack(*args, log=False)
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    assert (tmp_path / "b").read_bytes() == (folder / "streaming" / "medium").read_bytes()


def test_ctrl_c_on_the_command_line_leaves_nothing(folder, tmp_path, monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("streamfile.tools.repack.write_front", interrupt)
    assert main(["repack", str(folder / "light"), "-o", str(tmp_path / "b"), "--quiet"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_line(folder, tmp_path, capsys):
    command = ["repack", str(folder / "light"), "-o", str(tmp_path / "b")]
    assert main([*command, "--verify", "--quiet"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'b'}: laid out for streaming, compared\n"
    assert main(command) == 2
    assert "exists; pass force=True (--force)" in capsys.readouterr().err
    assert main([*command, "--force", "--quiet"]) == 0
    assert main(["repack", str(tmp_path / "no"), "-o", str(tmp_path / "c")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"b"}


def test_files_that_are_none(folder, tmp_path):
    (tmp_path / "text").write_text("no database" * 99)
    change(tmp_path / "other", "CREATE TABLE a (b)")
    with pytest.raises(DatabaseError, match="not a SQLite database"):
        repack(tmp_path / "text", tmp_path / "b", log=False)
    with pytest.raises(FormatError, match="magnitude"):
        repack(tmp_path / "other", tmp_path / "b", log=False)
    with pytest.raises(PathError, match="no such file"):
        repack(tmp_path / "nothing", tmp_path / "b", log=False)
    with pytest.raises(PathError, match="there is no directory"):
        repack(folder / "light", tmp_path / "no" / "b", log=False)
    assert {path.name for path in tmp_path.iterdir()} == {"text", "other"}


def test_a_file_can_be_laid_out_in_its_own_place(folder, tmp_path):
    shutil.copy(folder / "medium", tmp_path / "a")
    with pytest.raises(ExistsError):
        repack(tmp_path / "a", tmp_path / "a", log=False)
    repack(tmp_path / "a", tmp_path / "a", force=True, verify=True, log=False)
    assert (tmp_path / "a").read_bytes() == (folder / "streaming" / "medium").read_bytes()


def test_no_space_left(folder, tmp_path):
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    size = (folder / "medium").stat().st_size // 2
    args = ["repack", str(folder / "medium"), "-o", str(tmp_path / "b"), "--quiet"]
    with repacking(
        limit,
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))",
        "from streamfile.cli.main import main",
        "sys.exit(main(sys.argv[1:]))",
        args=args,
    ) as process:
        _, said = process.communicate()
    assert process.returncode == 2
    assert said.startswith("streamfile: ")
    assert "File too large" in said
    assert str(tmp_path / "b") in said
    assert list(tmp_path.iterdir()) == []


def test_memory_is_bounded(tmp_path):
    rows = 40_000
    path = mf.write_magnitude(
        tmp_path / "a", [f"key{n}" for n in range(rows)], mf.random_vectors(rows, 60, 5)
    )
    add_approx(path, random.Random(1).randbytes(90 << 20), rows=2)
    assert path.stat().st_size > 100 << 20
    assert peak_of_repack(path, tmp_path / "b") <= 100 << 20


def test_memory_is_bounded_whatever_the_n_grams_take(tmp_path):
    rng = random.Random(1)
    with (tmp_path / "a.txt").open("w") as file:
        for number in range(15_000):
            key = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=50))
            file.write(f"{key}{number} 0.5 {rng.random():.6f}\n")
    path = tmp_path / "a"
    convert(tmp_path / "a.txt", path, log=False)
    with connect(path) as connection:
        sql = "SELECT sum(pgsize) FROM dbstat WHERE name = 'magnitude_subword_segments'"
        assert connection.execute(sql).get > 20 << 20
    assert peak_of_repack(path, tmp_path / "b") <= 40 << 20


def peak_of_repack(source, target):
    """Give the bytes by which memory grows at most, those of mapped files too."""
    with repacking(
        "import streamfile.search.matrix",
        "def peak(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])",
        "before = peak()",
        "repack(*sys.argv[1:], verify=True, log=False)",
        "print(peak() - before)",
        args=[str(source), str(target)],
    ) as process:
        said, _ = process.communicate()
    assert int(said) > 0
    return int(said) << 10
