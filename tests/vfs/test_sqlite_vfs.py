import logging
import random
import threading
import time
from contextlib import suppress
from pathlib import Path

import apsw
import pytest
from nginx import find_nginx, nginx_server
from scripted_server import Changed, Disconnect, Ok, ScriptedServer, ShortBody, Status, Whole
from waiting import wait_until

import vfs
from streamfile.web.range_server import RangeServer
from vfs.cache.disk import SET
from vfs.sqlite_vfs import LAST_WINDOW, ReadAhead

QUERIES = [
    "SELECT count(*), sum(length(b)) FROM t",
    "SELECT k, length(b) FROM t WHERE rowid IN (1, 77, 5000, 11999, 999999)",
    "SELECT t.rowid, t.k, o.name FROM t JOIN o ON o.word = t.k WHERE o.name < 'name 2'",
    "SELECT count(*) FROM t JOIN t AS u ON t.rowid = u.rowid + 1 WHERE t.k < u.k",
    "SELECT docid FROM f WHERE text MATCH 'red AND blue' ORDER BY docid",
    "SELECT docid FROM f WHERE text MATCH 'gre*' ORDER BY docid LIMIT 5 OFFSET 30",
    "SELECT k, rowid FROM t ORDER BY b LIMIT 20 OFFSET 4000",  # no index: a sort of everything
    "SELECT DISTINCT substr(k, 1, 6) AS p, count(*) FROM t GROUP BY p ORDER BY 2 DESC, 1",
    "SELECT name, type FROM sqlite_schema ORDER BY name",
    "PRAGMA integrity_check",
]


def write(path, rows, length, *, vacuum=True):
    rng = random.Random(0)
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF; BEGIN")
    connection.execute("CREATE TABLE t (k TEXT, b BLOB)")
    connection.execute("CREATE TABLE o (word TEXT PRIMARY KEY, name TEXT)")
    connection.execute("CREATE VIRTUAL TABLE f USING fts3 (text)")
    keys = [f"key {rng.randrange(10**9)}" for _ in range(rows)]
    blobs = ((key, rng.randbytes(length)) for key in keys)
    connection.executemany("INSERT INTO t VALUES (?, ?)", blobs)
    names = ((key, f"name {i}") for i, key in enumerate(rng.sample(sorted(set(keys)), rows // 40)))
    connection.executemany("INSERT INTO o VALUES (?, ?)", names)
    colours = ["red", "green", "blue", "grey", "greenish"]
    texts = (" ".join(rng.sample(colours, 2)) for _ in range(500))
    connection.executemany("INSERT INTO f (text) VALUES (?)", ((text,) for text in texts))
    connection.execute("COMMIT; CREATE INDEX i ON t (k)")
    if vacuum:
        connection.execute("VACUUM")
    connection.close()
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Give a folder with a database of more than 10 MB."""
    folder = tmp_path_factory.mktemp("files")
    write(folder / "a.db", 12_000, 850)
    assert (folder / "a.db").stat().st_size > 10 << 20
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with RangeServer(folder) as running:
        yield running


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write(tmp_path_factory.mktemp("small") / "a.db", 1500, 600).read_bytes()


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("STREAMFILE_CACHE_SIZE", str(64 << 20))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def answers(folder):
    connection = apsw.Connection(str(folder / "a.db"), flags=apsw.SQLITE_OPEN_READONLY)
    expected = {query: list(connection.execute(query)) for query in QUERIES}
    connection.close()
    return expected


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_answers_as_on_the_local_file(server, answers, query):
    assert answers[query]
    connection = vfs.connect(f"{server.url}a.db")
    assert list(connection.execute(query)) == answers[query]
    connection.close()


@pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed")
def test_nginx_is_a_server_too(folder, answers):
    with nginx_server(folder) as url:
        connection = vfs.connect(f"{url}/a.db")
        for query in QUERIES:
            assert list(connection.execute(query)) == answers[query]
        connection.close()


def test_a_second_connection_finds_everything_in_the_cache(server, answers):
    for sent in (True, False):
        connection = vfs.connect(f"{server.url}a.db")
        assert list(connection.execute(QUERIES[0])) == answers[QUERIES[0]]
        stats = vfs.file_of(connection).stats
        assert (stats.bytes > 10 << 20) is sent
        connection.close()
    assert stats.requests == 1  # is it still that version?


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t VALUES ('a', 'b')",
        "UPDATE t SET k = 'a'",
        "DELETE FROM t",
        "CREATE TABLE u (a)",
        "DROP TABLE t",
        "VACUUM",
        "PRAGMA user_version = 5",
    ],
)
def test_writing_is_refused(server, statement):
    connection = vfs.connect(f"{server.url}a.db")
    with pytest.raises(apsw.ReadOnlyError):
        connection.execute(statement)
    assert connection.execute("SELECT count(*) FROM t").get == 12_000
    connection.close()


@pytest.mark.parametrize("statement", ["ATTACH '{}' AS other", "VACUUM INTO '{}'"])
def test_local_files_are_not_opened_or_made(server, tmp_path, statement):
    connection = vfs.connect(f"{server.url}a.db")
    with pytest.raises(apsw.CantOpenError, match="no remote file"):
        connection.execute(statement.format(tmp_path / "local.db"))
    assert not (tmp_path / "local.db").exists()
    connection.close()


def test_nothing_is_written_beside_the_cache_directory(server, tmp_path, cache_dir, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name in ("TMPDIR", "SQLITE_TMPDIR"):
        monkeypatch.setenv(name, str(work))
    connection = vfs.connect(f"{server.url}a.db")
    connection.execute("PRAGMA cache_size = 5")
    connection.execute("CREATE TEMP TABLE x AS SELECT * FROM t")
    rows = connection.execute("SELECT * FROM t ORDER BY b")
    assert next(rows)
    assert not [file for file in _open_files() if file.startswith(str(work))]
    assert list(work.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"work", "cache"}
    assert {path.name for path in cache_dir.iterdir()} == {"blocks.v1", "blocks.lock"}
    rows.close()
    connection.close()


def _open_files():
    """Name the open files, sockets included, where the system tells."""
    names = []
    for link in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # the one that lists the others
            names.append(str(link.readlink()))
    return names


def test_two_connections_at_once(server, folder):
    write(folder / "b.db", 100, 50)
    first, second = (vfs.connect(f"{server.url}{name}.db") for name in "ab")
    one, other = (c.execute("SELECT k FROM t ORDER BY rowid") for c in (first, second))
    local = [apsw.Connection(str(folder / f"{name}.db")) for name in "ab"]
    expected = [c.execute("SELECT k FROM t ORDER BY rowid LIMIT 100").fetchall() for c in local]
    pairs = [(next(one), next(other)) for _ in range(100)]
    assert [pair[0] for pair in pairs] == expected[0]
    assert [pair[1] for pair in pairs] == expected[1]
    assert vfs.file_of(first).url != vfs.file_of(second).url
    first.close()
    assert second.execute("SELECT count(*) FROM t").get == 100
    second.close()


def test_threads_with_a_connection_each(server, answers):
    results = {}

    def work(number):
        connection = vfs.connect(f"{server.url}a.db")
        try:
            query = QUERIES[number % 6]
            results[number] = list(connection.execute(query)) == answers[query]
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(12), True)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT sum(length(b)) FROM t",
        "SELECT sum(length(b)) FROM (SELECT b FROM t ORDER BY rowid DESC)",
        "PRAGMA integrity_check",
    ],
)
def test_a_scan_takes_few_waves(server, query):
    connection = vfs.connect(f"{server.url}a.db")
    file = vfs.file_of(connection)
    with file.stats.measure() as cost:
        assert connection.execute(query).get
    assert cost.waves < 40
    assert 10 << 20 < cost.bytes <= file.size + (1 << 20)
    connection.close()


def test_a_point_lookup_reads_little(server):
    connection = vfs.connect(f"{server.url}a.db")
    file = vfs.file_of(connection)
    key = connection.execute("SELECT k FROM t WHERE rowid = 6000").get
    for query, binding in (
        ("SELECT length(b) FROM t WHERE rowid = ?", 9000),
        ("SELECT length(b) FROM t WHERE k = ?", key),
    ):
        with file.stats.measure() as cost:
            assert connection.execute(query, (binding,)).get == 850
        assert 0 < cost.bytes < 100_000
        assert cost.waves <= 5
    connection.close()


def test_the_window_grows_along_a_scan_and_stays_small_elsewhere():
    ahead = ReadAhead(100 << 20)
    page = 4096
    lengths = []
    for at in range(0, 40 * page, page):
        start, end = ahead.window(at, page)
        assert start == at
        lengths.append(end - start)
    assert lengths[0] == page
    assert lengths[-1] == LAST_WINDOW
    assert lengths == sorted(lengths)
    rng = random.Random(0)
    for _ in range(50):
        at = rng.randrange(200, 20_000) * 100 // 99 * page
        start, end = ahead.window(at, page)
        assert start <= at < at + page <= end


def test_the_window_of_a_scan_backwards_lies_before_it():
    size = 50 << 20
    ahead = ReadAhead(size)
    for at in range(size - 4096, size - 60 * 4096, -4096):
        start, end = ahead.window(at, 4096)
        assert end == at + 4096
        assert start >= 0
    assert end - start == LAST_WINDOW
    for at in range(20 * 4096, -1, -4096):
        start, end = ahead.window(at, 4096)
        assert (start, end)[0] >= 0
        assert start <= at
        assert end >= at + 4096


def test_scans_that_alternate_each_have_their_window():
    ahead = ReadAhead(200 << 20)
    for step in range(30):
        for base in (0, 40 << 20, 80 << 20, 120 << 20):
            start, end = ahead.window(base + step * 4096, 4096)
    assert end - start == LAST_WINDOW


FAILURES = [
    (Status(404), vfs.NotFoundError),
    (Status(403), vfs.AccessError),
    (Status(500), vfs.StatusError),
    (Disconnect(), vfs.ConnectError),
    (ShortBody(10), vfs.TransportError),
    (Whole(), vfs.RangeError),
]


@pytest.mark.parametrize(("failure", "error"), FAILURES)
@pytest.mark.parametrize("query", ["SELECT sum(length(b)) FROM t", "PRAGMA integrity_check"])
def test_a_failure_within_a_statement_is_ours_and_passes(small, failure, error, query):
    with ScriptedServer(small) as server:
        connection = vfs.connect(server.url, retries=0)
        server.then = failure
        for _ in range(2):
            before = len(server.requests)
            with pytest.raises(error) as caught:
                list(connection.execute(query))
            assert server.url in str(caught.value)
            assert isinstance(caught.value, vfs.TransportError)
            assert len(server.requests) - before < 10  # SQLite does not go on after it
        server.then = Ok()
        assert connection.execute("SELECT count(*) FROM t").get == 1500
        assert connection.execute(query).get in (1500 * 600, "ok")
        connection.close()


def test_a_failure_between_the_rows_of_a_statement_is_ours(small):
    with ScriptedServer(small) as server:
        connection = vfs.connect(server.url, retries=0)
        rows = connection.execute("SELECT b FROM t")
        next(rows)
        server.then = Status(404)
        with pytest.raises(vfs.NotFoundError):
            rows.fetchall()
        server.then = Ok()
        assert connection.execute("SELECT sum(length(b)) FROM t").get == 1500 * 600
        connection.close()


def test_a_failure_leaves_other_statements_alone(small):
    with ScriptedServer(small) as server:
        connection = vfs.connect(server.url, retries=0)
        other = connection.execute("SELECT name FROM sqlite_schema")
        next(other)
        server.then = Status(404)
        with pytest.raises(vfs.NotFoundError):
            connection.execute("SELECT sum(length(b)) FROM t")
        server.then = Ok()
        time.sleep(0.1)
        assert connection.execute("SELECT sum(length(b)) FROM t").get == 1500 * 600
        assert other.fetchall()
        connection.close()


def test_a_passing_failure_is_tried_again(small, caplog):
    with ScriptedServer(small) as server:
        connection = vfs.connect(server.url)
        server.script.extend([Status(503, {"Retry-After": "0"}), Disconnect()])
        assert connection.execute("SELECT sum(length(b)) FROM t").get == 1500 * 600
        assert vfs.file_of(connection).stats.retries == 2
        connection.close()


def test_a_file_that_changes_under_a_connection_is_an_error(small):
    with ScriptedServer(small) as server:
        connection = vfs.connect(server.url)
        server.script.append(Changed(small[:-4096] + bytes(4096), '"v2"'))
        with pytest.raises(vfs.FileChangedError, match="changed"):
            connection.execute("SELECT sum(length(b)) FROM t")
        connection.close()


def test_an_interrupt_in_a_read_ends_the_statement(small, monkeypatch):
    with ScriptedServer(small) as server:
        connection = vfs.connect(server.url)
        reads = []

        def interrupted(*_):
            reads.append(1)
            raise KeyboardInterrupt

        file = vfs.file_of(connection)
        monkeypatch.setattr(file, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(connection.execute("PRAGMA integrity_check"))
        assert len(reads) <= 2
        monkeypatch.undo()
        assert connection.execute("SELECT count(*) FROM t").get == 1500
        connection.close()


def test_a_budget_holds_within_a_statement(small):
    with ScriptedServer(small) as server:
        connection = vfs.connect(server.url, max_bytes=300_000)
        with pytest.raises(vfs.BudgetError, match="max_bytes"):
            connection.execute("SELECT sum(length(b)) FROM t")
        vfs.file_of(connection).budget.max_bytes = None
        assert connection.execute("SELECT sum(length(b)) FROM t").get == 1500 * 600
        connection.close()


@pytest.mark.parametrize(
    "content",
    [b"", b"SQLite format 3\0", b"<!doctype html>" * 100, bytes(8192), b"PK\3\4" + bytes(5000)],
)
def test_what_is_no_database_is_refused(content):
    with ScriptedServer(content) as server, pytest.raises(vfs.DatabaseError) as caught:
        vfs.connect(server.url)
    assert server.url in str(caught.value)
    assert "not a SQLite database" in str(caught.value)


@pytest.mark.parametrize("length", [100, 4096, 100_000, -4096, -1])
def test_a_truncated_database_is_refused(small, length):
    with ScriptedServer(small[:length]) as server, pytest.raises(vfs.DatabaseError) as caught:
        vfs.connect(server.url)
    assert server.url in str(caught.value)
    assert "truncated" in str(caught.value)


def test_a_database_with_a_damaged_schema_is_an_error(small):
    damaged = small[:100] + b"\xff" * 5000 + small[5100:]
    errors, match = (vfs.DatabaseError, apsw.Error), r"malformed|not a database"
    with ScriptedServer(damaged) as server, pytest.raises(errors, match=match):
        vfs.connect(server.url).execute("SELECT * FROM t")


@pytest.mark.parametrize(
    ("answer", "error"), [(Status(404), vfs.NotFoundError), (Status(401), vfs.AccessError)]
)
def test_a_file_that_cannot_be_had_is_named(answer, error):
    with ScriptedServer(b"", then=answer) as server, pytest.raises(error) as caught:
        vfs.connect(server.url)
    assert server.url in str(caught.value)


def test_an_unknown_option_is_refused(server):
    with pytest.raises(vfs.OptionError, match="nonsense"):
        vfs.connect(f"{server.url}a.db", nonsense=1)


def test_closing_the_connection_closes_the_file(server):
    before, threads = len(_open_files()), threading.active_count()
    for _ in range(3):
        connection = vfs.connect(f"{server.url}a.db", connections=4)
        assert connection.execute("SELECT count(*) FROM t").get == 12_000
        file = vfs.file_of(connection)
        connection.close()
        assert file._cache.disk is None
    del connection
    # The test's own server has a thread and a socket a connection.
    wait_until(lambda: threading.active_count() <= threads)
    wait_until(lambda: len(_open_files()) <= before)


def test_a_refused_file_is_closed():
    before = len(_open_files())
    for _ in range(3):
        with ScriptedServer(bytes(5000)) as server, pytest.raises(vfs.DatabaseError):
            vfs.connect(server.url)
    wait_until(lambda: len(_open_files()) <= before)


def test_a_connection_of_another_kind_has_no_file():
    connection = apsw.Connection(":memory:")
    with pytest.raises(TypeError, match=r"vfs\.connect"):
        vfs.file_of(connection)


def test_the_log_is_silent_where_all_is_well(server, caplog):
    with caplog.at_level(logging.INFO, logger="vfs"):
        connection = vfs.connect(f"{server.url}a.db", cache_size=4 * SET)
        connection.execute("SELECT sum(length(b)) FROM t")
        connection.close()
    assert [record for record in caplog.records if record.name.startswith("vfs")] == []
