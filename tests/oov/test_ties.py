"""Rows that many n-grams tie: what is read to tell the first ones makes no difference."""

import random
import tempfile
from collections import Counter
from contextlib import closing
from types import SimpleNamespace

import apsw
import magnitude_files as mf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sql_similar import SUBWORD, misspelt, sql_similar

from streamfile.fts3.builder import NgramIndex
from streamfile.fts3.reader import Fulltext
from streamfile.lookup.vectors import similar_to
from streamfile.oov import ties
from streamfile.oov.ties import Matches, Order, Ties
from streamfile.readers.local import LocalReader
from vfs.btree.pages import LocalPages
from vfs.btree.walk import run

ROWS = 3000
PARTS = ["ter", "lin", "gal", "bo", "ra", "é", "日", "-", "T", "1", "aa", "\u212a", "%"]


def words():
    """Make keys that share their n-grams; many are short, and some have an n-gram twice."""
    rng = random.Random(1)
    keys = dict.fromkeys(["a", "A", "ab", "ter", "Ter", "TER", "k" * 90, "terter", "tertertert"])
    while len(keys) < ROWS:
        keys["".join(rng.choices(PARTS, k=rng.choice([1, 2, 2, 3, 3, 4, 5, 60])))] = None
    made = list(keys)
    rng.shuffle(made)
    return made


KEYS = words()


class WalkingReader(LocalReader):
    """Searches as a streamed file does, without SQL."""

    prefers_sql = False


@pytest.fixture(scope="module", params=[512, 4096])
def path(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("ties") / "a"
    vectors = mf.random_vectors(ROWS, 3, 1)
    mf.write_magnitude(path, KEYS, vectors, page_size=request.param, subwords=True)
    return path


@pytest.fixture(scope="module")
def sql(path):
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        yield connection


@pytest.fixture(scope="module")
def reader(path):
    with closing(WalkingReader(str(path))) as reader:
        yield reader


@pytest.fixture(params=[0, 3, 30])
def most_rows(request, monkeypatch):
    """How many rows are read without more ado."""
    monkeypatch.setattr(ties, "MOST_ROWS", request.param)
    monkeypatch.setattr(ties, "SWEPT", 10**9)
    return request.param


@pytest.fixture
def steps(monkeypatch):
    """What was read, how often."""
    counted = Counter()

    def spy(name):
        original = getattr(Ties, name)

        def called(self, *arguments):
            whole = name == "_sweep" and arguments[0] == b""
            counted["whole index" if whole else name] += 1
            return original(self, *arguments)

        monkeypatch.setattr(Ties, name, called)

    for name in ("_sweep", "_measure", "_read"):
        spy(name)
    return counted


def similar(reader, keys):
    return similar_to(reader, keys, language="en", case_insensitive=False)


def test_misspelt_words_have_the_rows_that_sqlite_finds(reader, sql, most_rows, steps):
    rng = random.Random(3)
    asked = dict.fromkeys(misspelt(rng.choice(KEYS), rng) for _ in range(250))
    keys = [key for key in asked if key not in KEYS and "\0" not in key and '"' not in key]
    assert similar(reader, keys) == [sql_similar(sql, key) for key in keys]
    assert min(steps[name] for name in ("_sweep", "_measure", "_read")) > 3


ANY = st.text(st.sampled_from("terlingalboé日-ATK\u212a1%_"), min_size=1, max_size=9)


@settings(max_examples=150, deadline=None)
@given(ANY, st.sampled_from([0, 1, 10, 100]))
@example("ter1", 0)
@example("%er", 0)
@example("_ter", 0)
@example("\u212aer", 0)
@example("galé", 0)
def test_any_word_has_the_rows_that_sqlite_finds(reader, sql, key, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ties, "MOST_ROWS", most)
        assert similar(reader, [key]) == [sql_similar(sql, key)]


def test_few_keys_are_read_of_many_rows(reader, steps, monkeypatch):
    monkeypatch.setattr(ties, "MOST_ROWS", 20)
    read = []
    original = Ties._read

    def spy(self, able):
        read.append(len(able))
        return original(self, able)

    monkeypatch.setattr(Ties, "_read", spy)
    assert similar(reader, ["lingalter" + "z" * 5, "ralinnnx", "xbogal"]) != []
    assert steps["_measure"] > 0
    assert sum(read) < 60
    assert steps["whole index"] == 0


def test_rows_that_do_not_exist_are_left_out(reader, sql, most_rows):
    rowids = np.array([*range(1, 40), *range(10**6, 10**6 + 300)])
    flags = np.zeros(len(rowids), bool)
    for order in (Order("t", "r", 6), Order("", "", -1)):
        matches = Matches(rowids, np.ones(len(rowids), np.int64), flags, flags)
        found = run(reader.contents.pages, Ties(reader.contents, order, matches).best(3))
        places = sorted((*[-x for x in order.place(KEYS[at - 1])[:2]], at) for at in range(1, 40))
        lengths = {at: len(KEYS[at - 1]) for at in range(1, 40)}
        first = sorted(places, key=lambda place: (*place[:2], lengths[place[2]], place[2]))[:3]
        assert found == [(at, KEYS[at - 1]) for *_, at in first]


def test_what_seems_likely_may_be_wrong(reader, most_rows):
    """An n-gram at the beginning is lower-cased, as that of a Kelvin sign."""
    rowids = np.arange(1, ROWS + 1)
    order, likely = Order("k", "r", 6), np.ones(ROWS, bool)
    matches = Matches(rowids, np.ones(ROWS, np.int64), likely, likely)
    found = run(reader.contents.pages, Ties(reader.contents, order, matches).best(3))
    expected = sorted(
        (*[-flag for flag in order.place(key)[:2]], len(key), at) for at, key in enumerate(KEYS, 1)
    )
    assert [at for at, _ in found] == [at for *_, at in expected[:3]]


@pytest.mark.parametrize("changed", [False, True])
def test_documents_are_counted_as_their_rows_say(path, tmp_path, changed):
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    with closing(apsw.Connection(str(copy))) as connection:
        if changed:  # in segments of their own
            for rowid in range(1, 300, 7):
                connection.execute(f"DELETE FROM {SUBWORD} WHERE docid = ?", (rowid,))
            for rowid in range(1, 200, 7):
                row = (rowid, *mf.subword_row(KEYS[rowid]))
                connection.execute(
                    f"INSERT INTO {SUBWORD} (docid, char_ngrams, num_ngrams) VALUES (?, ?, ?)", row
                )
        expected = {}
        for docid, number in connection.execute(f"SELECT docid, num_ngrams FROM {SUBWORD}"):
            expected.setdefault(number // 4, []).append(docid)
    with closing(LocalReader(str(copy))) as reader:
        told = reader.contents.format
        pages = LocalPages(copy)
        fulltext = Fulltext(pages, told.segments_root, told.blocks_root)
        found = run(pages, fulltext.counted([*expected, 10**6]))
    assert found.pop(10**6).tolist() == []
    assert {number: sorted(docids.tolist()) for number, docids in found.items()} == expected
    assert len(expected) > 10


@given(st.text(max_size=12), st.integers(1, 5), st.integers(0, 4))
def test_a_key_has_no_more_ngrams_than_its_length_allows(key, shortest, more):
    told = SimpleNamespace(subword_start=shortest, subword_end=shortest + more)
    none = np.zeros(0, np.int64)
    ties = Ties(
        SimpleNamespace(format=told, lengths=None),
        Order("", "", -1),
        Matches(none, none, none, none),
    )
    lengths = {}
    for numbers, _ in ties._steps():
        assert not lengths.keys() & numbers.keys()
        lengths |= numbers
    with closing(NgramIndex(shortest, shortest + more, folder=tempfile.gettempdir())) as index:
        try:
            ((_, number),) = index.add(1, [key.encode()])
        except UnicodeEncodeError:
            return
    assert lengths.get(number // 4, 0) <= len(key)
