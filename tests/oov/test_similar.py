"""Keys similar to those outside the file: the published search, as SQL that SQLite runs."""

import contextlib
import pickle
import random
import re

import apsw
import magnitude_files as mf
import numpy as np
import pytest
from serving import LoggingServer
from sql_similar import (
    SUBWORD,
    equal,
    misspelt,
    spelling_vector,
    sql_similar,
    sql_vector,
    stemmed,
)

import vfs
from streamfile import Magnitude
from streamfile.fts3.reader import Fulltext
from streamfile.lookup.vectors import similar_to
from streamfile.oov import ties
from streamfile.oov.stem import stem
from streamfile.readers import local
from streamfile.readers.local import LocalReader
from streamfile.readers.sql import SqlConnection
from vfs.btree.pages import LocalPages
from vfs.btree.walk import run

DIM = 7
SIZE = 4000

SYLLABLES = re.findall(
    r"\S+",
    "ba be bo ca ce co da de di do fa fe ga ge go ha he la le li lo ma me mi mo na ne ni no pa pe "
    "po ra re ri ro sa se si so ta te ti to va ve vi bar ter ron men lin sta gra pro tra ster ling",
)
PREFIXED = ("", "", "", "", "un", "re", "over", "inter", "counter-", "anti")
SUFFIXED = ("", "", "", "", "ing", "ness", "ment", "able", "s", "ed", "-like", "ification")
NAMED = [
    "government", "naïve", "École", "école", "STRASSE", "Straße", "日本語", "ab-cd", "100%",
    "fifty", "under_score", 'say "hi"', "hel'lo", "*star*", "hat^hat", "aa", "a", "Goood", "goood",
    "good", "GOOD", "gOOd", "x" * 120, "happy", "Happy", "possible", "new york city", "1,234",
    "12345678",
]  # fmt: skip


def words(count, seed):
    """Make words that share their parts, as real ones do."""
    rng = random.Random(seed)
    made = dict.fromkeys(NAMED)
    while len(made) < count:
        middle = "".join(rng.choices(SYLLABLES, k=rng.choice([1, 2, 2, 3])))
        word = rng.choice(PREFIXED) + middle + rng.choice(SUFFIXED)
        made[rng.choice([word, word, word, word.capitalize(), word.upper()])] = None
    return list(made)


ODD = [
    "goverment", "", "-", "b", "ab", "AB", "ab-ce", "state-of-the-artt", "naïvety", "Straßee",
    "ÉCOLE",
    "日本語テキスト", "1234567", "1,234.5", "y" * 300, "x" * 130, "a long misspelt phrase " * 30,
    "a" * 2000, "abcdef " * 200, "101%", "%", "_", "a_", "_a%", "%%%a", "*", "**ab", "^ab", "^ter",
    "^^^ter", "ab^ter", "x*y", "*star", "fo'o", "it's", "<<<<ter>>>>", "gooooood", "GoOoD",
    "hhhappy",
    "unhappynesss", "counter-possibleness", "a.b.c", "foo\nbar", "\ud800ter", "\uf000", "^\uf000ba",
    "ing", "unununable", "İstanbull", "ﬁne", "lingling", "tererererer", 'say "hello"', '"', '"""',
    'ter"ling', "a\0ter", "NEW YORK CITI", "terlingness", "un-terling-able", "Kelvinter",
]  # fmt: skip


def reinsert(connection, rowids):
    """Delete documents of the full-text index and add them again, in segments of their own."""
    for rowid in rowids:
        (key,) = connection.execute(
            "SELECT key FROM magnitude WHERE rowid = ?", (rowid,)
        ).fetchone()
        connection.execute(f"DELETE FROM {SUBWORD} WHERE docid = ?", (rowid,))
        connection.execute(
            f"INSERT INTO {SUBWORD} (docid, char_ngrams, num_ngrams) VALUES (?, ?, ?)",
            (rowid, *mf.subword_row(key)),
        )


def merge(connection):
    connection.execute(f"INSERT INTO {SUBWORD}({SUBWORD}) VALUES ('optimize')")


def segments(path):
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return connection.execute(f"SELECT start_block FROM {SUBWORD}_segdir").fetchall()
    finally:
        connection.close()


def change(path, changes):
    connection = apsw.Connection(str(path))
    changes(connection)
    connection.close()
    return path


class WalkingReader(LocalReader):
    """Searches as a streamed file does, without SQL."""

    prefers_sql = False


@pytest.fixture(params=[LocalReader, WalkingReader])
def reader_class(request):
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("similar")
    vectors = mf.random_vectors(SIZE, DIM, 3)
    keys = words(SIZE, 3)
    for name, options in {
        "medium": {},
        "small-pages": {"page_size": 1024, "vacuum": False},
        "merged": {},
        "changed": {},
    }.items():
        mf.write_magnitude(folder / name, keys, vectors, subwords=True, **options)
    change(folder / "merged", merge)
    change(folder / "changed", lambda c: reinsert(c, [*range(1, 200, 7), *range(1, 40)]))
    mf.write_magnitude(folder / "light", keys, vectors)
    small = ["a", "ab", "good", "GOOD", "goods", "foods"]
    mf.write_magnitude(folder / "small", small, vectors[:6], subwords=True)
    mf.write_magnitude(folder / "empty", [], vectors[:0], subwords=True)
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with LoggingServer(folder) as server:
        yield server


@pytest.fixture
def sql(folder):
    connections = []

    def connect(name):
        connections.append(apsw.Connection(str(folder / name), flags=apsw.SQLITE_OPEN_READONLY))
        return connections[-1]

    yield connect
    for connection in connections:
        connection.close()


def unknown_keys(connection, count, seed):
    rng = random.Random(seed)
    known = [key for (key,) in connection.execute("SELECT key FROM magnitude ORDER BY rowid")]
    keys = [*ODD, *(misspelt(rng.choice(known), rng) for _ in range(count))]
    return [key for key in dict.fromkeys(keys) if key not in set(known)]


def answer(connection, key, **options):
    """Give the rows that SQLite finds; it takes no surrogates and stops at a NUL."""
    try:
        return sql_similar(connection, key, **options)
    except (UnicodeEncodeError, apsw.SQLError):
        assert "\ud800" in key or "\0" in key
        return None


MEDIUM = ["medium", "small-pages", "merged", "changed", "small", "empty"]


@pytest.mark.parametrize("name", MEDIUM)
def test_rows_and_their_order_are_those_of_sqlite(folder, sql, reader_class, name):
    connection = sql(name)
    keys = unknown_keys(sql("medium"), 600 if name == "medium" else 150, 5)
    known = {key for (key,) in connection.execute("SELECT key FROM magnitude")}
    keys = [key for key in keys if key not in known]
    reader = reader_class(str(folder / name))
    got = similar_to(reader, keys, language="en", case_insensitive=False)
    reader.close()
    expected = [answer(connection, key) for key in keys]
    wrong = [
        (key, rows, right)
        for key, rows, right in zip(keys, got, expected, strict=True)
        if right is not None and rows != right
    ]
    assert not wrong
    assert sum(len(rows) == 3 for rows in got) > len(keys) / 2 or name in ("small", "empty")


def test_the_files_have_segments_of_each_kind(folder):
    kinds = {name: [start > 0 for (start,) in segments(folder / name)] for name in MEDIUM}
    assert kinds["merged"] == [True]  # one tree, with blocks
    assert kinds["small"] == [False]  # a root that is a leaf
    assert kinds["empty"] == []
    assert len(kinds["medium"]) > 1
    assert {True, False} == set(kinds["changed"])


@pytest.mark.parametrize("options", [{"language": None}, {"language": "de"}])
def test_without_a_language_nothing_is_stemmed(folder, sql, reader_class, options):
    connection = sql("medium")
    keys = unknown_keys(connection, 60, 6)
    reader = reader_class(str(folder / "medium"))
    got = similar_to(reader, keys, case_insensitive=False, **options)
    reader.close()
    for key, rows in zip(keys, got, strict=True):
        expected = answer(connection, key, stemmed=lambda key: key)
        assert expected in (None, rows), key


def test_case_insensitive_searches_are_lower_cased(folder, sql, reader_class):
    connection = sql("medium")
    keys = [key.upper() for key in unknown_keys(connection, 60, 7)]
    reader = reader_class(str(folder / "medium"))
    got = similar_to(reader, keys, language="en", case_insensitive=True)
    reader.close()
    for key, rows in zip(keys, got, strict=True):
        assert answer(connection, key, case_insensitive=True) in (None, rows), key


def test_other_windows_of_n_grams_make_phrases_of_several_terms(
    tmp_path, monkeypatch, reader_class
):
    monkeypatch.setattr(mf, "SUBWORD_START", 1)
    monkeypatch.setattr(mf, "SUBWORD_END", 4)
    keys = words(300, 8)
    path = mf.write_magnitude(tmp_path / "a", keys, mf.random_vectors(300, DIM, 8), subwords=True)
    connection = apsw.Connection(str(path))
    asked = ["a-b", "ba-be", "^ba", "a^b", "^-a", "^a-b", "b", "c", "zz", "ter-o", "x-^y", "---"]
    asked = [key for key in [*asked, *unknown_keys(connection, 60, 9)] if key not in keys]
    reader = reader_class(str(path))
    got = similar_to(reader, asked, language="en", case_insensitive=False)
    reader.close()
    for key, rows in zip(asked, got, strict=True):
        assert answer(connection, key, shortest=1, longest=4) in (None, rows), key
    connection.close()


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("name", ["medium", "changed"])
def test_vectors_are_those_of_the_formula(folder, server, sql, name, normalized):
    connection = sql(name)
    keys = [key for key in unknown_keys(connection, 60, 10) if "\ud800" not in key]
    keys = [key for key in keys if "\0" not in key]
    expected = [sql_vector(connection, key, DIM, normalized=normalized) for key in keys]
    streamed = {"stream": True, "stream_options": {"cache_size": 0}}
    with (
        Magnitude(folder / name, normalized=normalized) as local,
        Magnitude(server.url + name, normalized=normalized, **streamed) as remote,
    ):
        got = local.query(keys)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(remote.query(keys), got)
        for key, vector in zip(keys[:20], got, strict=False):
            np.testing.assert_array_equal(remote.query(key), vector)


def test_light_files_know_only_other_cases(folder, sql):
    connection = sql("light")
    with Magnitude(folder / "light", dtype=np.float64) as v:
        for key in ("gooD", "NAïVE", "goverment", "gOoOd", ""):
            rows = [mf.sql_row_at(connection, rowid) for rowid in equal(connection, key, 3)]
            expected = 0.3 * spelling_vector(key, DIM)
            if rows:
                mean = np.mean([row.normalized for row in rows], axis=0, dtype=np.float64)
                expected += 0.7 * mean / np.linalg.norm(mean)
            expected /= np.linalg.norm(expected)
            np.testing.assert_allclose(v.query(key), expected, atol=1e-7)
            assert bool(rows) == (key in ("gooD", "NAïVE", "gOoOd"))


def test_unknown_words_are_streamed_without_sql(folder, server, sql, monkeypatch):
    monkeypatch.setattr(SqlConnection, "execute", None)
    keys = [key for key in unknown_keys(sql("medium"), 60, 11) if '"' not in key]
    options = {"stream": True, "stream_options": {"cache_size": 0}}
    with Magnitude(server.url + "medium", **options) as v:
        v.query(keys)
        with pytest.raises(TypeError):
            v.query('ter"ling')


def test_tables_too_wide_for_sqlite_are_searched_without_it(folder, sql, monkeypatch):
    monkeypatch.setattr(local, "MOST_SQL_COLUMNS", DIM + 1)
    monkeypatch.setattr(SqlConnection, "entered", None)
    connection = sql("medium")
    with Magnitude(folder / "medium") as v:
        expected = sql_vector(connection, "terlingness", DIM)
        np.testing.assert_allclose(v.query("terlingness"), expected, atol=1e-6)


def test_the_language_is_an_option(folder, sql):
    connection = sql("medium")
    with Magnitude(folder / "medium") as v, Magnitude(folder / "medium", language=None) as w:
        expected = sql_vector(connection, "unhappinessless", DIM)
        plain = sql_vector(connection, "unhappinessless", DIM, stemmed=lambda key: key)
        assert not np.allclose(expected, plain)
        np.testing.assert_allclose(v.query("unhappinessless"), expected, atol=1e-6)
        np.testing.assert_allclose(w.query("unhappinessless"), plain, atol=1e-6)
        copy = pickle.loads(pickle.dumps(w))
        np.testing.assert_array_equal(copy.query("unhappinessless"), w.query("unhappinessless"))
        copy.close()


def test_numbers_have_no_similar_keys(folder):
    with Magnitude(folder / "medium") as v, Magnitude(folder / "empty") as w:
        np.testing.assert_array_equal(v.query([1, 2.5, True]), w.query([1, 2.5, True]))


def test_unknown_words_share_their_waves(folder, server, sql, tmp_path):
    keys = [key for key in unknown_keys(sql("medium"), 60, 12) if key not in ODD][:10]

    def waves(asked, number):
        options = {"cache_dir": tmp_path / str(number)}
        with Magnitude(server.url + "medium", stream=True, stream_options=options) as v:
            v.query(asked)
            return v.stats.waves

    alone = [waves(key, number) for number, key in enumerate(keys)]
    assert waves(keys, "all") <= sum(alone) / 3


def test_many_ties_are_decided_from_the_index(folder, server, sql, monkeypatch):
    """Whether keys come from rows or from the index makes no difference."""
    keys = [key for key in unknown_keys(sql("medium"), 150, 13) if '"' not in key]
    answers = []
    for most_rows in (-1, 10**9):
        monkeypatch.setattr(ties, "MOST_ROWS", most_rows)
        reader = WalkingReader(str(folder / "medium"))
        answers.append(similar_to(reader, keys, language="en", case_insensitive=False))
        reader.close()
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("unhappiness", "happi"),
        ("counter-productive", "ctive"),
        ("redoing", "redo"),
        ("im possible", "poss"),
        ("antiable", "antiable"),
        ("a" * 151, "a" * 151),
        ("Uninteresting", "nterest"),
        ("", ""),
    ],
)
def test_stems(key, expected):
    assert stem(key, "en") == stemmed(key) == expected
    assert stem(key, None) == key


def test_damaged_indexes_are_refused(folder, tmp_path):
    """Whatever a block holds, the answer is rows or an error of ours."""
    rng = random.Random(1)
    data = (folder / "merged").read_bytes()
    path = tmp_path / "damaged"
    path.write_bytes(data)
    connection = apsw.Connection(str(path))
    blocks = dict(connection.execute(f"SELECT blockid, block FROM {SUBWORD}_segments"))
    for _ in range(60):
        with connection:
            for number, block in blocks.items():
                broken = bytearray(block)
                for _ in range(rng.choice([1, 5, 40])):
                    broken[rng.randrange(len(broken))] = rng.choice([0, 1, 127, 128, 255])
                broken = broken[: rng.choice([1, len(broken), len(broken) // 2])]
                connection.execute(
                    f"UPDATE {SUBWORD}_segments SET block = ? WHERE blockid = ?",
                    (bytes(broken), number),
                )
        pages = LocalPages(path)
        told = LocalReader(str(path)).contents.format
        fulltext = Fulltext(pages, told.segments_root, told.blocks_root)
        with contextlib.suppress(vfs.DatabaseError):
            run(pages, fulltext.find([b"ter", b"lin", b"zzz", b"the"]))
    connection.close()


def test_sql_that_a_key_with_quotes_needs_is_counted_and_limited(folder, server):
    options = {"stream": True, "stream_options": {"cache_size": 0}}
    with Magnitude(server.url + "medium", **options) as v:
        before = v.stats.requests
        assert v.query('ter"ling').any()
        assert v.stats.requests > before
    with Magnitude(server.url + "medium", **options) as v:
        v.query("zebrra")
        v.budget.max_requests = v.stats.requests + 1
        with pytest.raises(vfs.BudgetError):
            v.query('ter"ling')
        v.budget.max_requests = None
        assert v.query('ter"ling').any()
