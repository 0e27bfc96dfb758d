"""The full-text index made without SQLite: the same bytes as SQLite makes, and the same answers."""

import contextlib
import random
import re
import tracemalloc

import apsw
import magnitude_files as mf
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import vfs
from streamfile.fts3 import builder, doclists
from streamfile.fts3.builder import MOST_KEYS, MOST_TEXT, NgramIndex
from streamfile.fts3.doclists import merged
from streamfile.fts3.segment_reader import read_segments
from streamfile.fts3.segment_writer import Segment, largest_block
from vfs.btree.pages import LocalPages

NODE = 35  # bytes of a page that SQLite leaves out of its blocks
LETTERS = "abAB1 -\"'^*_\0éÉßΣσİıſ\u212a日\uefff\uf000\uf001\uffff😀"  # noqa: RUF001
KEYS = st.text(st.sampled_from(LETTERS) | st.characters(exclude_categories=["Cs"]), max_size=12)
REPETITIVE = st.builds(lambda part, times: part * times, KEYS, st.integers(1, 60))
ODD = [
    "", "a", "ab", "abc", "ΑΣ", "ΟΔΥΣΣΕΥΣ", "İstanbul", "aaaa", "abababab", 'say "hi"',
    "new york", "112", "11128", "A\0b", "日本語日本語", "naïve", "\u212aelvin", "\uf000",
    "x" * 3000, "state-of-the-art", "".join(map(chr, range(0x4E00, 0x5000))),
]  # fmt: skip


def content(key, shortest=3, longest=6):
    """Give the row of a key, as the format says, with the short n-grams first."""
    text = mf.BOW + key + mf.EOW
    grams = dict.fromkeys(
        text[at : at + size].lower()
        for size in range(shortest, longest + 1)
        for at in range(len(text) - size + 1)
    )
    kept = [gram for gram in grams if not re.search(r"[^0-9A-Za-z\x80-\U0010ffff]", gram)]
    return " ".join(kept), 4 * len(grams)


def database(page_size=4096, path=":memory:"):
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA page_size = {page_size}")
    connection.execute("CREATE VIRTUAL TABLE t USING fts3(char_ngrams, num_ngrams)")
    return connection


def insert(connection, contents, first=1):
    """Fill a table by SQL, in one transaction."""
    with connection:
        connection.executemany(
            "INSERT INTO t(docid, char_ngrams, num_ngrams) VALUES (?, ?, ?)",
            ((rowid, *content) for rowid, content in enumerate(contents, first)),
        )


def fill(connection, contents, segment, first=1):
    """Fill a table behind the back of SQLite, which then checks the index against the contents."""
    with connection:
        connection.executemany(
            "INSERT INTO t_content VALUES (?, ?, ?)",
            ((rowid, *content) for rowid, content in enumerate(contents, first)),
        )
        fill_index(connection, segment)


def fill_index(connection, segment):
    connection.executemany("INSERT INTO t_segments VALUES (?, ?)", segment.blocks())
    if segment.row is not None:
        connection.execute("INSERT INTO t_segdir VALUES (?, ?, ?, ?, ?, ?)", segment.row)
    connection.execute("INSERT INTO t(t) VALUES ('integrity-check')")


def stored(connection):
    """Give the whole index as SQLite stores it."""
    return (
        connection.execute("SELECT * FROM t_segments ORDER BY blockid").fetchall(),
        connection.execute("SELECT * FROM t_segdir ORDER BY level, idx").fetchall(),
    )


def leaves(connection):
    """Give the leaves of the only segment, and how many bytes SQLite says that they have."""
    ((first, last, end, root),) = connection.execute(
        "SELECT start_block, leaves_end_block, end_block, root FROM t_segdir"
    )
    blocks = connection.execute(
        "SELECT block FROM t_segments WHERE blockid BETWEEN ? AND ? ORDER BY blockid", (first, last)
    ).fetchall()
    return [block for (block,) in blocks] if first else [root], end.split()[1]


def matches(connection, query):
    return connection.execute(
        "SELECT docid, offsets(t) FROM t WHERE t MATCH ? ORDER BY docid", (query,)
    ).fetchall()


def added(index, first, keys):
    return [(text.decode(), n) for text, n in index.add(first, [key.encode() for key in keys])]


def indexed(tmp_path, keys, block_size, most_postings=1 << 20, batch=1 << 20):
    """Give contents and the segment's rows."""
    with contextlib.closing(NgramIndex(folder=tmp_path, most_postings=most_postings)) as index:
        contents = []
        for at in range(0, len(keys), batch):
            contents += added(index, 1 + at, keys[at : at + batch])
        segment = index.finish(block_size)
        blocks = list(segment.blocks())
        return contents, blocks, [] if segment.row is None else [segment.row]


@given(st.lists(KEYS | REPETITIVE, max_size=20), st.integers(1, 4), st.integers(0, 4))
@example(ODD, 3, 3)
@example(ODD, 1, 20)
def test_contents_are_the_different_ngrams_of_each_key(tmp_path_factory, keys, shortest, more):
    folder = tmp_path_factory.getbasetemp()
    with contextlib.closing(NgramIndex(shortest, shortest + more, folder=folder)) as index:
        contents = added(index, 1, keys)
    assert contents == [content(key, shortest, shortest + more) for key in keys]


@given(
    st.lists(KEYS | REPETITIVE, min_size=1, max_size=30),
    st.sampled_from([1, 40, 1000]),
    st.integers(1, 10),
    st.sampled_from([512, 1024]),
)
@example(ODD, 1, 1, 512)
@example(ODD * 40, 1000, 7, 512)
@settings(deadline=None)
def test_an_index_is_byte_for_byte_that_of_sqlite(
    tmp_path_factory, keys, most_postings, batch, page_size
):
    folder = tmp_path_factory.getbasetemp()
    _, blocks, rows = indexed(folder, keys, page_size - NODE, most_postings, batch)
    with contextlib.closing(database(page_size)) as plain:
        insert(plain, [content(key) for key in keys])
        if len(plain.execute("SELECT 1 FROM t_segdir").fetchall()) > 1:
            plain.execute("INSERT INTO t(t) VALUES ('optimize')")
            assert leaves(plain)[0] == [block for _, block in blocks[: rows[0][3]]]
        else:
            assert (blocks, rows) == stored(plain)


@pytest.mark.parametrize("block_size", [30, 60, 477, 4057, 65496])
def test_sqlite_finds_the_same_with_any_block_size(tmp_path, block_size):
    words = mf.random_words(1500, 1)
    keys = [*words, *ODD, *(f"{word} {word[:3]}-{word}" for word in words[:200])]
    contents, blocks, rows = indexed(tmp_path, keys, block_size, 5000, 400)
    rng = random.Random(2)
    with contextlib.closing(database()) as plain, contextlib.closing(database()) as ours:
        insert(plain, contents)
        ours.executemany("INSERT INTO t_content VALUES (?, ?, ?)", rowed(contents))
        ours.executemany("INSERT INTO t_segments VALUES (?, ?)", blocks)
        ours.executemany("INSERT INTO t_segdir VALUES (?, ?, ?, ?, ?, ?)", rows)
        ours.execute("INSERT INTO t(t) VALUES ('integrity-check')")
        terms = [text.split() for text, _ in rng.sample(contents, 40)]
        queries = [f'"{term}"' for found in terms for term in found]
        queries += [" OR ".join(f'"{term}"' for term in found) for found in terms if found]
        queries += [f'"{" ".join(found[1:4])}"' for found in terms if len(found) > 4]
        queries += ["104", "num_ngrams:72", "char_ngrams:112", "112", "ba*", "nothing", "日本語"]
        for query in queries:
            assert matches(ours, query) == matches(plain, query), query
        assert len(matches(ours, "104")) > 100
        # What SQLite adds and merges later fits.
        for connection in (plain, ours):
            connection.execute("INSERT INTO t VALUES ('abc abd', 8)")
            connection.execute("DELETE FROM t WHERE docid = 7")
            connection.execute("INSERT INTO t(t) VALUES ('optimize')")
            connection.execute("INSERT INTO t(t) VALUES ('integrity-check')")
        assert leaves(ours) == leaves(plain)


def rowed(contents, first=1):
    return ((rowid, *content) for rowid, content in enumerate(contents, first))


def test_an_integrity_check_notices_a_wrong_index(tmp_path):
    contents, blocks, rows = indexed(tmp_path, ["abc", "abd"], 400)
    with contextlib.closing(database()) as ours:
        ours.executemany("INSERT INTO t_content VALUES (?, ?, ?)", rowed(contents, first=2))
        ours.executemany("INSERT INTO t_segments VALUES (?, ?)", blocks)
        ours.executemany("INSERT INTO t_segdir VALUES (?, ?, ?, ?, ?, ?)", rows)
        with pytest.raises(apsw.CorruptError):
            ours.execute("INSERT INTO t(t) VALUES ('integrity-check')")


def test_row_ids_may_begin_anywhere_and_have_gaps(tmp_path):
    firsts = [(5, ["abc", "x"]), (1000, ["abcd"]), (1 << 40, ["abcde", "bcd"])]
    with (
        contextlib.closing(NgramIndex(folder=tmp_path)) as index,
        contextlib.closing(database()) as plain,
        contextlib.closing(database()) as ours,
    ):
        for first, keys in firsts:
            contents = added(index, first, keys)
            insert(plain, contents, first)
            ours.executemany("INSERT INTO t_content VALUES (?, ?, ?)", rowed(contents, first))
        with pytest.raises(ValueError, match="row id of at least 1099511627778, got 7"):
            index.add(7, [b"abc"])
        fill_index(ours, index.finish(4096 - NODE))
        plain.execute("INSERT INTO t(t) VALUES ('optimize')")
        assert stored(ours) == stored(plain)
    with (
        contextlib.closing(NgramIndex(folder=tmp_path)) as index,
        pytest.raises(ValueError, match="at least 1"),
    ):
        index.add(0, [b"abc"])


def test_keys_in_larger_numbers_than_are_handled_at_once(tmp_path):
    keys = [*mf.random_words(2 * MOST_KEYS + 100, 4), "y" * (MOST_TEXT + 1), "z"]
    contents, blocks, rows = indexed(tmp_path, keys, 4096 - NODE)
    assert contents == [content(key) for key in keys]
    with contextlib.closing(database()) as ours:
        ours.executemany("INSERT INTO t_content VALUES (?, ?, ?)", rowed(contents))
        ours.executemany("INSERT INTO t_segments VALUES (?, ?)", blocks)
        ours.executemany("INSERT INTO t_segdir VALUES (?, ?, ?, ?, ?, ?)", rows)
        ours.execute("INSERT INTO t(t) VALUES ('integrity-check')")


def test_documents_in_larger_numbers_than_are_encoded_at_once(tmp_path, monkeypatch):
    keys = mf.random_words(600, 5)
    expected = indexed(tmp_path, keys, 477)
    monkeypatch.setattr(builder, "ENCODED", 50)
    monkeypatch.setattr(doclists, "ENCODED", 50)
    assert indexed(tmp_path, keys, 477) == expected
    assert indexed(tmp_path, keys, 477, most_postings=2000, batch=100) == expected


def test_ngrams_of_any_length_are_in_the_order_of_sqlite(tmp_path):
    # Up to 80 bytes, of which many begin in the same way.
    keys = ["日本語" * 7 + end for end in "本a日é語\uf001\uf000"] * 3 + ODD
    with contextlib.closing(database()) as plain, contextlib.closing(database()) as ours:
        with contextlib.closing(NgramIndex(9, 20, folder=tmp_path, most_postings=300)) as index:
            contents = [each for at, key in enumerate(keys, 1) for each in added(index, at, [key])]
            fill(ours, contents, index.finish(4096 - NODE))
        assert contents == [content(key, 9, 20) for key in keys]
        insert(plain, contents)
        assert stored(ours) == stored(plain)


def test_numbers_may_have_more_digits_than_sorted_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "COUNTED", 10**7 + 1)
    keys = [*mf.random_words(300, 6), *ODD, "日本語日本語"]
    contents, blocks, rows = indexed(tmp_path, keys, 4096 - NODE, 1000, 100)
    assert {len(str(number)) for _, number in contents} >= {8, 9}
    with contextlib.closing(database()) as plain:
        insert(plain, contents)
        assert (blocks, rows) == stored(plain)


def test_places_in_a_key_of_many_ngrams(tmp_path):
    keys = ["abc", "".join(map(chr, range(0x4E00, 0x6000))), "abc"]
    contents, blocks, rows = indexed(tmp_path, keys, 4096 - NODE)
    assert len(contents[1][0].split()) > 1 << 14
    with contextlib.closing(database()) as plain:
        insert(plain, contents)
        assert (blocks, rows) == stored(plain)


def test_no_key_is_no_segment(tmp_path):
    assert indexed(tmp_path, [], 4061) == ([], [], [])


def test_the_row_is_known_after_the_blocks(tmp_path):
    with contextlib.closing(NgramIndex(folder=tmp_path)) as index:
        index.add(1, [b"abc"])
        segment = index.finish(4061)
        with pytest.raises(ValueError, match="blocks"):
            _ = segment.row
        assert list(segment.blocks()) == []
        assert segment.row[:4] == (0, 0, 0, 0)


def test_memory_does_not_grow_with_the_number_of_keys(tmp_path):
    def peak(count):
        words = [f"{at * 7919 % 1000003:x}word{at}".encode() for at in range(count)]
        tracemalloc.start()
        try:
            with contextlib.closing(NgramIndex(folder=tmp_path, most_postings=4000)) as index:
                for at in range(0, count, 100):
                    index.add(1 + at, words[at : at + 100])
                for _ in index.finish(4061).blocks():
                    pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(4_000) < 1.5 * peak(1_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("page_size", [512, 1024, 4096, 8192, 16384, 65536])
def test_the_largest_block_needs_no_overflow_page(tmp_path, page_size):
    def overflowing(size):
        with contextlib.closing(database(page_size)) as connection:
            connection.execute("INSERT INTO t_segments VALUES (1 << 40, zeroblob(?))", (size,))
            return connection.execute(
                "SELECT count(*) FROM dbstat WHERE name = 't_segments' AND pagetype = 'overflow'"
            ).get

    assert overflowing(largest_block(page_size)) == 0
    assert overflowing(largest_block(page_size) + 1) == 1


def changed(connection, seed, transactions):
    """Add documents in many transactions, and replace and delete some of them."""
    rng = random.Random(seed)
    words = iter(mf.random_words(40 * transactions, seed))
    rowid = 0
    for _ in range(transactions):
        with connection:
            for _ in range(rng.randint(1, 40)):
                rowid += rng.choice([1, 1, 1, 200])
                connection.execute(
                    "INSERT INTO t(docid, char_ngrams, num_ngrams) VALUES (?, ?, ?)",
                    (rowid, *content(next(words))),
                )
            present = [row[0] for row in connection.execute("SELECT docid FROM t_content")]
            for gone in rng.sample(present, min(len(present), rng.randint(0, 9))):
                connection.execute("DELETE FROM t WHERE docid = ?", (gone,))
                if rng.random() < 0.6:
                    connection.execute(
                        "INSERT INTO t(docid, char_ngrams, num_ngrams) VALUES (?, ?, ?)",
                        (gone, *content(next(words))),
                    )


def roots(connection):
    return [
        connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).get
        for name in ("t_segdir", "t_segments")
    ]


@pytest.mark.parametrize("page_size", [512, 4096])
@pytest.mark.parametrize(("seed", "transactions"), [(1, 1), (2, 2), (3, 12), (4, 40), (5, 100)])
def test_merged_segments_are_those_of_sqlite(tmp_path, page_size, seed, transactions):
    path = tmp_path / "many"
    with contextlib.closing(database(page_size, path)) as plain:
        changed(plain, seed, transactions)
        count = plain.execute("SELECT count(*) FROM t_segdir").get
        segments = read_segments(LocalPages(path), *roots(plain))
        assert len(segments) == count
        assert count > 1 or transactions == 1
        segment = Segment(merged(segments, "the file"), page_size - NODE)
        rows = plain.execute("SELECT * FROM t_content").fetchall()
        with contextlib.closing(database(page_size)) as ours:
            ours.executemany("INSERT INTO t_content VALUES (?, ?, ?)", rows)
            fill_index(ours, segment)
            plain.execute("INSERT INTO t(t) VALUES ('optimize')")
            assert leaves(ours) == leaves(plain)
            for query in ("104", "ba*", '"bab"', "mo OR mor OR more"):
                assert matches(ours, query) == matches(plain, query)


def test_merging_what_was_all_deleted_leaves_no_segment(tmp_path):
    path = tmp_path / "deleted"
    with contextlib.closing(database(path=path)) as connection:
        insert(connection, [content("abc"), content("abd")])
        # The segment with what is gone stays, as it does where a merge was left unfinished.
        kept = stored(connection)[1]
        connection.execute("DELETE FROM t WHERE docid = 1")
        connection.execute("DELETE FROM t WHERE docid = 2")
        assert stored(connection)[1] == []
        connection.executemany("INSERT INTO t_segdir VALUES (?, ?, ?, ?, ?, ?)", kept)
        pages = LocalPages(path)
        (terms,) = [each.terms for each in merged(read_segments(pages, *roots(connection)), "f")]
        assert b"abc" in terms
        gone = (0, 1, *kept[0][2:5], without_positions(kept[0][5]))
        connection.execute("INSERT INTO t_segdir VALUES (?, ?, ?, ?, ?, ?)", gone)
        pages = LocalPages(path)
        segment = Segment(merged(read_segments(pages, *roots(connection)), "f"), 4061)
        assert list(segment.blocks()) == []
        assert segment.row is None


def without_positions(leaf):
    """Delete all documents of a leaf of one-byte varints."""
    made, at, first = b"\0", 1, True
    while at < len(leaf):
        begin = at
        at += 1 + leaf[at] if first else 2 + leaf[at + 1]
        documents = leaf[at + 1 : at + 1 + leaf[at]]
        gone = b"".join(part[:1] + b"\0" for part in documents.split(b"\0")[:-1])
        made += leaf[begin:at] + bytes([len(gone)]) + gone
        at, first = at + 1 + leaf[at], False
    return made


def leaf(*entries):
    """Make a leaf of terms that share nothing."""
    return b"".join(
        b"\0" + bytes([len(term)]) + term + bytes([len(documents)]) + documents
        for term, documents in entries
    )


GOOD = b"\x01\x02\0"


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (leaf((b"abc", b"\x01\x02")), "cut off"),
        (leaf((b"abc", b"\x01\x02"), (b"abd", GOOD)), "cut off"),
        (leaf((b"abc", GOOD + b"\x01\x02"), (b"abd", GOOD)), "cut off"),
        (leaf((b"abc", b"")), "cut off"),
        (leaf((b"abc", b""), (b"abd", GOOD)), "cut off"),
        (leaf((b"abc", b"\x81\0")), "cannot be"),
        (leaf((b"abc", b"\x01\x82\0")), "cannot be"),
        (leaf((b"abc", b"\0")), "cannot be"),
        (leaf((b"abc", b"\x01\x02\0\0")), "cannot be"),
        (leaf((b"abc", b"\xff" * 9 + b"\x01\x02\0")), "cannot be"),
        (leaf((b"abc", b"\x80" * 63 + b"\x01\x02\0")), "cannot be"),
        (leaf((b"abc", b"\xff" * 8 + b"\x7f\x02\0" + GOOD)), "not positive"),
        (leaf((b"abd", GOOD), (b"abc", GOOD)), "terms out of order"),
        (leaf((b"abc", GOOD))[:-1], "cut off"),
        (b"\x01\x01\x01b", "does not exist"),
        (b"\x01\x07\x01b", "does not exist"),
        (b"", "does not exist"),
    ],
)
def test_a_malformed_segment_is_an_error(tmp_path, root, message):
    path = tmp_path / "malformed"
    with contextlib.closing(database(path=path)) as connection:
        connection.execute("INSERT INTO t_segdir VALUES (0, 0, 1, ?, '9 9', ?)", (1 << 62, root))
        insert(connection, [content("abc")])
        segments = read_segments(LocalPages(path), *roots(connection))
        with pytest.raises(vfs.DatabaseError, match=f"malformed: .*{message}"):
            list(merged(segments, "the file"))


def test_a_segment_without_leaves_is_an_error(tmp_path):
    path = tmp_path / "malformed"
    with contextlib.closing(database(path=path)) as connection:
        connection.execute("INSERT INTO t_segdir VALUES (0, 0, 7, 6, '9 9', ?)", (b"\1\1\1b",))
        with pytest.raises(vfs.DatabaseError, match="without leaves"):
            list(merged(read_segments(LocalPages(path), *roots(connection)), "f"))


@pytest.mark.parametrize("block", [b"\x01\x01\x01b", 7, None, b""])
def test_a_malformed_block_is_an_error(tmp_path, block):
    path = tmp_path / "malformed"
    with contextlib.closing(database(path=path)) as connection:
        connection.execute("INSERT INTO t_segdir VALUES (0, 0, 1, 2, '2 9', ?)", (b"\1\1\1b",))
        connection.execute("INSERT INTO t_segments VALUES (1, ?)", (leaf((b"abc", GOOD)),))
        connection.execute("INSERT INTO t_segments VALUES (2, ?)", (block,))
        with pytest.raises(vfs.DatabaseError, match="malformed"):
            list(merged(read_segments(LocalPages(path), *roots(connection)), "f"))
