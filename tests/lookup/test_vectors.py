"""The vectors of keys, local and streamed, held against plain SQL, and those in memory."""

import itertools
import multiprocessing
import os
import random
import string
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import apsw
import magnitude_files as mf
import numpy as np
import pytest
from children import fork_succeeds
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sql_rows import DIM, Sql, same
from waiting import PATIENCE

import vfs
from streamfile import Magnitude
from streamfile._lru import RecentVectors

PAGE_SIZES = [1024, 4096, 65536]
KINDS = {
    "light": (1500, 10, {}),
    "medium": (500, 5, {"subwords": True}),
    "elmo768": (60, 768, {"elmo": True}),
    "elmo1536": (40, 1536, {"elmo": True}),
}
ODD_KEYS = [
    "",
    "x" * 100_000,
    "naïve 日本",
    'it\'s "so"',
    "a\tb c\n",
    "The",
    "the",
    "THE",
    "the",
    "É",
    "a\0b",
    "a\0c",
    "A\0B",
    "a",
    "a\0",
    "\U0001f600",
    "\uf000",
    "%_*^",
    "x" * 99_999 + "X",
    "É" * 40_000,
    "é" * 40_000,
]


@pytest.fixture(scope="module")
def odd(folder):
    """Keys that are hard to keep apart."""
    vectors = mf.random_vectors(len(ODD_KEYS), DIM, 4)
    return mf.write_magnitude(folder / "odd", ODD_KEYS, vectors, page_size=1024)


# Rows


@pytest.mark.parametrize("vacuum", [True, False], ids=["compact", "loose"])
@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_the_one_that_sql_gives(opened, folder, kind, page_size, vacuum):
    count, dim, options = KINDS[kind]
    path = folder / f"{kind}-{page_size}-{vacuum}"
    if not path.exists():
        keys = mf.random_words(count - 10, 1)
        vectors = mf.random_vectors(count, dim, 1)
        mf.write_magnitude(
            path, keys + keys[:10], vectors, page_size=page_size, vacuum=vacuum, **options
        )
    sql = Sql(path)
    v = opened(path)
    unit = "elmo" not in kind
    assert (len(v), v.dim, v.emb_dim, v.normalized) == (count, dim, dim, unit)
    keys = random.Random(1).sample(sql.keys, count)
    same(mf.by_themselves(v, keys), sql.vectors(keys, normalized=unit))
    for normalized in (True, False):
        fresh = opened(path, normalized=normalized)
        assert fresh.normalized is normalized
        same(mf.by_themselves(fresh, keys[:30]), sql.vectors(keys[:30], normalized=normalized))
        other = mf.by_themselves(fresh, keys[:30], not normalized)
        same(other, sql.vectors(keys[:30], normalized=not normalized))
        same(fresh.query(keys[0]), sql.vectors(keys[:1], normalized=normalized)[0])
    for row, (key, vector) in zip(sql.rows, v, strict=True):
        assert key == row.key
        same(vector, row.normalized if unit else row.unnormalized)


def test_overflowing_and_local_rows_are_what_the_page_sizes_are_for(folder, opened):
    """The files of the test above have the overflow chains, and the levels, that it is for."""
    for kind, page_size, overflows in [
        ("light", 1024, False),
        ("elmo768", 1024, True),
        ("elmo768", 4096, False),
        ("elmo1536", 4096, True),
        ("elmo1536", 65536, False),
    ]:
        count, dim, options = KINDS[kind]
        path = folder / f"shape-{kind}-{page_size}"
        vectors = mf.random_vectors(count, dim, 1)
        mf.write_magnitude(path, mf.random_words(count, 1), vectors, page_size=page_size, **options)
        query = "SELECT count(*) FROM dbstat WHERE name = 'magnitude' AND pagetype = 'overflow'"
        assert (Sql(path).connection.execute(query).get > 0) == overflows


def test_keys_that_are_in_interior_pages_of_the_index_only(folder, opened):
    keys = [f"{word} and more of the same" for word in mf.random_words(4000, 5)]
    path = folder / "interior"
    if not path.exists():
        mf.write_magnitude(path, keys, mf.random_vectors(4000, 3, 5), page_size=1024)
    sql = Sql(path)
    interior = interior_keys(path, sql.connection)
    assert 50 < len(interior) < 1000
    v = opened(path)
    same(v.query(interior), sql.vectors(interior))
    same(opened(path).query(keys), sql.vectors(keys))
    for key in random.Random(2).sample(interior, 30):
        same(opened(path, lazy_loading=1).query(key), sql.vectors([key])[0])
        assert key in v


def interior_keys(path, connection):
    """Read the keys of the cells in interior index pages (https://sqlite.org/fileformat2.html)."""
    size = connection.execute("PRAGMA page_size").get
    numbers = connection.execute(
        "SELECT pageno FROM dbstat WHERE name = 'magnitude_key_idx' AND pagetype = 'internal'"
    ).fetchall()
    content, keys = path.read_bytes(), []
    for (number,) in numbers:
        page = content[(number - 1) * size : number * size]
        assert page[0] == 2
        for i in range(int.from_bytes(page[3:5], "big")):
            cell = int.from_bytes(page[12 + 2 * i : 14 + 2 * i], "big") + 4
            # Payload size, header size and the key's type are one byte each: short keys.
            header, kind = page[cell + 1], page[cell + 2]
            assert max(page[cell], kind) < 128
            begin = cell + 1 + header
            keys.append(page[begin : begin + (kind - 13) // 2].decode())
    return keys


def test_whole_number_null_and_lost_magnitudes(folder, opened):
    magnitudes = [1.0, 2.0, None, 1.5, 0.0, 1e30, -3.0, 2.0**53, 1e-30]
    vectors = np.ones((9, 2))
    vectors[7] = [np.nan, 1]
    path = mf.write_magnitude(
        folder / "magnitudes", list("abcdefghi"), vectors, magnitudes=magnitudes, precision=3
    )
    sql = Sql(path)
    v = opened(path)
    same(v.query(sql.keys, normalized=False), sql.vectors(sql.keys, normalized=False))
    same(v.query(sql.keys), sql.vectors(sql.keys))
    assert np.isnan(v.query("c", normalized=False)).all()
    assert not np.isnan(v.query("h")).any()


@pytest.mark.parametrize("precision", [0, 1, 4, 7, 9, 15])
def test_precisions(folder, opened, precision):
    """Small ones give the constant integers 0 and 1, great ones integers of eight bytes."""
    keys = mf.random_words(40, 6)
    path = folder / f"precision{precision}"
    mf.write_magnitude(path, keys, mf.random_vectors(40, 6, 6), precision=precision)
    sql = Sql(path)
    for normalized in (True, False):
        got = opened(path).query(keys, normalized=normalized)
        same(got, sql.vectors(keys, normalized=normalized))


def test_one_row_and_one_dimension(folder, opened):
    path = mf.write_magnitude(folder / "one", ["one"], np.array([[-2.0]]))
    v = opened(path)
    assert (len(v), v.dim) == (1, 1)
    same(v.query("one"), [-1])
    same(v.query("one", normalized=False), [-2])
    assert v[-1][0] == v[0][0] == "one"


def test_a_file_without_rows(folder, opened):
    path = mf.write_magnitude(folder / "none", [], np.zeros((0, 6)))
    v = opened(path)
    assert (len(v), v.dim, list(v), v[:], "a" in v) == (0, 6, [], [], False)
    assert v.query("a").shape == (6,)
    for place in (0, -1):
        with pytest.raises(IndexError):
            v[place]


# Keys


def test_odd_keys(odd, opened):
    sql = Sql(odd)
    v = opened(odd)
    same(v.query(ODD_KEYS), sql.vectors(ODD_KEYS))
    for key in ODD_KEYS:
        same(opened(odd).query(key), sql.vectors([key])[0])
        assert key in v
    for key in ["tHe", "é", "A", "A\0", "a\0B", "b", "x" * 99_999, "\ud800", "\udcff", "\0", " "]:
        assert key not in v
        assert v.query(key).shape == (DIM,)
    assert 5 not in v
    assert None not in v
    assert ["a"] not in v


def test_of_equal_keys_the_first_counts(folder, opened):
    keys = ["b", "a", "A", "a", "b"] * 300
    path = mf.write_magnitude(folder / "equal", keys, mf.random_vectors(1500, 4, 1), page_size=512)
    v = opened(path)
    for key, place in [("b", 0), ("a", 1), ("A", 2)]:
        same(v.query(key), v[place][1])
        assert v[place][0] == key
    same(v.query(["A", "b", "a"]), [v[place][1] for place in (2, 0, 1)])
    insensitive = opened(path, case_insensitive=True)
    same(insensitive.query("B"), v[0][1])
    same(insensitive.query("A"), v[2][1])


def test_case_duplicates_that_span_pages(folder, opened):
    letters = "abcdefghijklmnopqrstuvwxyz" * 2
    rng = random.Random(8)
    variants = {"".join(rng.choice((c, c.upper())) for c in letters) for _ in range(3000)}
    keys = ["zebra", *sorted(variants), *mf.random_words(500, 9)]
    rng.shuffle(keys)
    path = folder / "variants"
    if not path.exists():
        mf.write_magnitude(path, keys, mf.random_vectors(len(keys), 3, 9), page_size=1024)
    sql = Sql(path)
    shared = set(interior_keys(path, sql.connection)) & variants
    assert len(shared) > 20  # and so some of them are in interior pages of the index
    v = opened(path)
    asked = [*rng.sample(sorted(variants), 100), *shared, "zebra"]
    same(v.query(asked), sql.vectors(asked))
    same(v.query(sql.keys[:1]), sql.vectors(sql.keys[:1]))
    missing = "".join(rng.choice((c, c.upper())) for c in letters)
    assert missing not in variants
    assert missing not in v
    first = next(row for row in sql.rows if row.key in variants)
    same(opened(path, case_insensitive=True).query(missing), first.normalized)


def test_case_insensitive_lookups(odd, opened):
    v = opened(odd, case_insensitive=True)
    sql = Sql(odd)
    for asked, found in [
        ("tHe", "The"),  # the first of them
        ("the", "the"),  # an exact match wins
        ("THE", "THE"),
        ("A", "a"),
        ('IT\'S "SO"', 'it\'s "so"'),
        ("NAïVE 日本", "naïve 日本"),
        ("a\0B", "a\0b"),  # NOCASE ends at a NUL, but lower-cased keys do not
        ("a\0C", "a\0c"),
        ("A\0", "a\0"),
        ("X" * 100_000, "x" * 100_000),
    ]:
        assert asked in v
        same(v.query(asked), sql.by_key[found].normalized)
    for absent in ["é", "NAÏVE 日本", "a\0d", "\0"]:
        assert absent not in v
    same(v.query(["tHE", "A", "é"])[:2], sql.vectors(["The", "a"]))


def test_keys_that_are_no_utf8(folder, opened):
    path = mf.write_magnitude(folder / "latin", ["a", "b", "c"], np.eye(3))
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE magnitude SET key = CAST(x'ff41' AS TEXT) WHERE rowid = 2")
    connection.execute("UPDATE magnitude SET key = CAST(x'eda080' AS TEXT) WHERE rowid = 3")
    connection.close()
    v = opened(path)
    assert v.index([0, 1, 2], return_vector=False) == ["a", "\udcffA", "\udced\udca0\udc80"]
    same(v.query("\udcffA"), [0, 1, 0])
    assert "\udcffa" not in v
    assert "\udcffa" in opened(path, case_insensitive=True)
    assert "ÿA" not in v
    same(v.query("\ud800"), [0, 0, 1])  # those bytes are what becomes of it


quick = settings(max_examples=60)
letters = st.text(alphabet="abAB\0éÉ", max_size=4) | st.text(max_size=3).filter(str.isprintable)


@quick
@given(
    keys=st.lists(letters, min_size=1, max_size=60),
    others=st.lists(letters, max_size=20),
    page_size=st.sampled_from([512, 1024]),
    case_insensitive=st.booleans(),
)
@example(keys=["a\0b", "A\0C"], others=["a\0c"], page_size=512, case_insensitive=True)
def test_lookups_are_those_of_sql(opened, folder, keys, others, page_size, case_insensitive):
    vectors = mf.random_vectors(len(keys), 40, 0)
    path = mf.write_magnitude(folder / "drawn", keys, vectors, page_size=page_size)
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    v = opened(path, case_insensitive=case_insensitive)
    asked = [*others, *keys]
    answer = v.query(asked)
    for key, vector in zip(asked, answer, strict=True):
        row = mf.sql_row(connection, key, case_insensitive=case_insensitive)
        assert (key in v) == (row is not None)
        if row is not None:
            same(vector, row.normalized)
    v.close()


def test_keys_of_random_printable_text_are_in_the_file_or_not(words, sql, opened):
    v = opened(words)
    rng = random.Random(6)
    for _ in range(200):
        key = "".join(rng.choice(string.printable) for _ in range(rng.randrange(4)))
        assert (key in v) == (key in sql.by_key)


# Keeping vectors


@pytest.mark.parametrize("lazy_loading", [-1, 0, 1, 7, 10**15])
@pytest.mark.parametrize("blocking", [True, False])
def test_what_is_kept_in_memory_changes_no_answer(words, sql, opened, lazy_loading, blocking):
    v = opened(words, lazy_loading=lazy_loading, blocking=blocking, placeholders=1)
    rng = random.Random(4)
    for _ in range(30):
        keys = [rng.choice(sql.keys[:40]) for _ in range(rng.randrange(12))]
        normalized = rng.random() < 0.5
        got = v.query([*keys, "not there"], normalized=normalized)
        expected = sql.vectors(keys, normalized=normalized).reshape(-1, DIM)
        same(got[:-1, :DIM], expected)


names = st.integers(0, 12)


@quick
@given(
    capacity=st.integers(1, 8),
    steps=st.lists(st.tuples(st.booleans(), st.lists(names, max_size=12)), max_size=20),
)
def test_the_memory_of_vectors_is_a_least_recently_used_one(capacity, steps):
    memory, model, clock = RecentVectors(capacity, 2, np.float32), {}, itertools.count()
    for keep, asked in steps:
        if keep:
            new = {name: next(clock) for name in asked}
            memory.keep(list(new), np.array([[n, -n] for n in new.values()]).reshape(-1, 2))
            model = {name: n for name, n in model.items() if name not in new} | new
            model = dict(list(model.items())[-capacity:])
        else:
            found, vectors = memory.take(asked)
            used = {name: model[name] for name in asked if name in model}
            assert found == list(used)
            same(vectors, np.array([[n, -n] for n in used.values()]).reshape(-1, 2))
            vectors[:] = 99
            model = {name: n for name, n in model.items() if name not in used} | used
        assert {name for name in range(13) if name in memory} == set(model)


def streamed(server, path, **options):
    own = {"cache_size": 0, "memory_size": 0}
    return Magnitude(server.url + path.name, stream=True, stream_options=own, **options)


def test_the_vectors_used_last_are_kept(words, sql, server):
    a, b, c = sql.keys[:3]
    with streamed(server, words, lazy_loading=2) as v:

        def costs(key, **options):
            with v.stats.measure() as used:
                vector = v.query(key, **options)
            if key in sql.by_key:
                same(vector, sql.vectors([key], **options)[0])
            return used.requests > 0

        assert costs(a)
        assert costs(b)
        assert not costs(a)
        assert costs(c)  # in the place of b
        assert not costs(a)
        assert costs(b)  # in the place of c
        assert costs(c)  # in the place of a
        assert costs(c, normalized=False)  # another vector
        assert not costs(c, normalized=False)
        assert costs("not there")  # in the place of b
        assert not costs(c)
        assert costs(b)


def test_all_vectors_are_loaded_from_the_start(words, sql, server):
    with streamed(server, words, lazy_loading=-1, blocking=True) as v, v.stats.measure() as used:
        same(v.query(sql.keys), sql.vectors(sql.keys))
    assert used.requests == 0


def test_all_vectors_are_loaded_in_the_background(words, sql, server):
    before = set(threading.enumerate())
    with streamed(server, words, lazy_loading=-1) as v:
        same(v.query(sql.keys[:9]), sql.vectors(sql.keys[:9]))
        wait_for_loading(before)
        with v.stats.measure() as used:
            same(v.query(sql.keys), sql.vectors(sql.keys))
        assert used.requests == 0


def wait_for_loading(before):
    for thread in set(threading.enumerate()) - before:
        if "load" in thread.name:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_loading_in_the_background_ends_with_the_object(folder, server):
    path = mf.write_magnitude(folder / "long", list(map(str, range(9000))), np.ones((9000, 30)))
    before = set(threading.enumerate())
    server.latency = 0.1
    try:
        with streamed(server, path, lazy_loading=-1) as v:
            assert v.stats.requests >= 1
        waves = v.stats.waves
        wait_for_loading(before)
    finally:
        server.latency = 0
    assert v.stats.waves <= waves + 1  # one may have been about to begin
    with Magnitude(path, lazy_loading=-1):
        pass


def test_loading_in_the_background_that_fails_is_told(folder, server, caplog):
    path = mf.write_magnitude(folder / "long", list(map(str, range(9000))), np.ones((9000, 30)))
    before = set(threading.enumerate())
    own = {"cache_size": 0, "max_requests": 1}
    with Magnitude(server.url + "long", stream=True, stream_options=own, lazy_loading=-1) as v:
        wait_for_loading(before)
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert "max_requests=1" in record.message
        with pytest.raises(vfs.BudgetError):
            v.query("8999")
        v.budget.max_requests = None
        same(v.query("8999"), v[-1][1])
    with pytest.raises(vfs.BudgetError):
        Magnitude(
            server.url + path.name,
            stream=True,
            stream_options=own,
            lazy_loading=-1,
            blocking=True,
        )


# Processes and threads


def test_a_forked_child_and_its_parent_both_get_answers(words, sql, opened):
    v = opened(words, lazy_loading=5)
    same(v.query(sql.keys[:9]), sql.vectors(sql.keys[:9]))

    def ask(begin):
        for at in range(begin, begin + 300, 50):
            same(v.query(sql.keys[at : at + 50]), sql.vectors(sql.keys[at : at + 50]))
            assert sql.keys[at] in v
            same(v[at][1], sql.rows[at].normalized)

    assert fork_succeeds(lambda: ask(100))
    ask(400)
    assert fork_succeeds(lambda: ask(700))
    assert not fork_succeeds(lambda: same(v.query(sql.keys[0]), np.zeros(DIM)))
    same(v.query(sql.keys[:9]), sql.vectors(sql.keys[:9]))


def test_a_fork_before_the_first_query_and_one_while_threads_ask(words, sql, opened):
    v = opened(words, lazy_loading=5)
    assert fork_succeeds(lambda: same(v.query(sql.keys), sql.vectors(sql.keys)))
    over = threading.Event()

    def ask():
        rng = random.Random(0)
        while not over.is_set():
            v.query(rng.sample(sql.keys, 3))

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            for _ in range(20):
                assert fork_succeeds(lambda: same(v.query(sql.keys), sql.vectors(sql.keys)))
        finally:
            over.set()
        for thread in asking:
            thread.result()


SHARED = {}


def ask_in_worker(name, keys):
    return os.getpid(), SHARED[name].query(keys)


def test_a_pool_of_forked_workers(words, sql, opened, way):
    SHARED[way] = opened(words)
    SHARED[way].query(sql.keys[:2])
    tasks = [sql.keys[at : at + 25] for at in range(0, 1500, 25)]
    with multiprocessing.get_context("fork").Pool(4) as pool:
        answers = pool.map(partial(ask_in_worker, way), tasks, chunksize=1)
        same(SHARED[way].query(tasks[3]), sql.vectors(tasks[3]))
    for keys, (_, vectors) in zip(tasks, answers, strict=True):
        same(vectors, sql.vectors(keys))
    assert os.getpid() not in {process for process, _ in answers}


@pytest.mark.parametrize("lazy_loading", [0, 3, -1])
def test_eight_threads_share_an_object(words, sql, opened, lazy_loading):
    v = opened(words, lazy_loading=lazy_loading)
    ready = threading.Barrier(8)

    def ask(seed):
        rng = random.Random(seed)
        ready.wait(PATIENCE)
        for _ in range(20):
            keys = rng.sample(sql.keys, rng.randrange(1, 9))
            normalized = rng.random() < 0.5
            got = v.query(keys, normalized=normalized)
            same(got, sql.vectors(keys, normalized=normalized))
            place = rng.randrange(1500)
            assert v[place][0] == sql.keys[place]
            assert keys[0] in v

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
