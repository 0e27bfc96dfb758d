"""The helpers of the tests are themselves right."""

import subprocess
import threading
import time

import apsw
import lz4.frame
import magnitude_files as mf
import numpy as np
import pytest
import requests
from nginx import find_nginx, nginx_server
from scripted_server import (
    Changed,
    Disconnect,
    Headers,
    Ok,
    Redirect,
    ScriptedServer,
    ShortBody,
    Stall,
    Status,
    Whole,
    WrongRange,
)
from waiting import PATIENCE
from wide_sqlite import why_no_wide_sqlite, wide_sqlite

CONTENT = bytes(range(256)) * 4
needs_nginx = pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed")


def opened(path):
    return apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)


def column(connection, sql, *args):
    return [row[0] for row in connection.execute(sql, args)]


# magnitude_files


@pytest.fixture
def tiny(tmp_path):
    keys = ["The", "the", "Émile", "THE", "the", ""]
    vectors = [[3, 4], [0, -2], [1, 0], [5, 12], [8, 6], [0, 0]]
    return mf.write_magnitude(tmp_path / "tiny", keys, np.array(vectors), precision=4)


def test_sql_row_gives_the_hand_computed_row(tiny):
    row = mf.sql_row(opened(tiny), "THE")
    assert (row.key, row.rowid) == ("THE", 4)
    assert row.normalized.dtype == row.unnormalized.dtype == np.float32
    expected = np.array([3846, 9231], np.float32)  # 5/13 and 12/13, to four places
    np.testing.assert_array_equal(row.normalized, expected / np.float32(10_000))
    np.testing.assert_array_equal(row.unnormalized, expected * np.float32(0.0013))


def test_sql_row_tells_cases_apart_and_takes_the_first_of_equal_keys(tiny):
    connection = opened(tiny)
    assert [mf.sql_row(connection, key).rowid for key in ("The", "the", "THE", "")] == [1, 2, 4, 6]
    assert mf.sql_row(connection, "tHe") is None
    assert mf.sql_row(connection, "tHe", case_insensitive=True).rowid == 1
    assert mf.sql_row(connection, "THE", case_insensitive=True).rowid == 4
    assert mf.sql_row(connection, "ÉMILE", case_insensitive=True).rowid == 3
    assert mf.sql_row(connection, "émile", case_insensitive=True) is None


def test_sql_row_at(tiny):
    row = mf.sql_row_at(opened(tiny), 3)
    assert row.key == "Émile"
    assert row.unnormalized.tolist() == [1, 0]
    assert mf.sql_row_at(opened(tiny), 7) is None


def test_a_zero_vector_becomes_steps_of_the_last_place(tiny):
    row = mf.sql_row(opened(tiny), "")
    np.testing.assert_array_equal(np.abs(row.normalized), np.float32(1) / np.float32(10_000))
    np.testing.assert_array_equal(row.unnormalized, 0)


@pytest.mark.parametrize("vacuum", [True, False])
def test_magnitudes_as_they_lie_on_disk(tmp_path, vacuum):
    vectors = np.array([[1, 0]] * 4)
    magnitudes = [1.0, 2.0, None, 1.5]
    path = mf.write_magnitude(
        tmp_path / "m", list("abcd"), vectors, precision=1, magnitudes=magnitudes, vacuum=vacuum
    )
    content = path.read_bytes()
    # Length of the record's head, types of key, 10, 0 and the magnitude, then the values.
    assert b"\x05\x0f\x01\x08\x09a\x0a" in content  # the constant integer 1
    assert b"\x05\x0f\x01\x08\x01b\x0a\x02" in content  # an integer of one byte
    assert b"\x05\x0f\x01\x08\x00c\x0a" in content  # NULL
    assert b"\x05\x0f\x01\x08\x07d\x0a\x3f\xf8" in content  # a float
    connection = opened(path)
    assert column(connection, "SELECT magnitude FROM magnitude") == magnitudes
    assert np.isnan(mf.sql_row(connection, "c").unnormalized).all()
    assert mf.sql_row(connection, "c").normalized.tolist() == [1, 0]


def test_odd_keys_are_kept(tmp_path):
    keys = ["", "x" * 100_000, "naïve \uf000 日本", 'it\'s "so"', "a\tb c", "dup", "dup"]
    path = mf.write_magnitude(tmp_path / "m", keys, mf.random_vectors(7, 5, 0), subwords=True)
    connection = opened(path)
    assert column(connection, "SELECT key FROM magnitude ORDER BY rowid") == keys
    assert [mf.sql_row(connection, key).rowid for key in keys] == [1, 2, 3, 4, 5, 6, 6]
    assert column(connection, "PRAGMA integrity_check") == ["ok"]


def test_format_rows_and_schema(tmp_path):
    vectors = mf.random_vectors(50, 3, 1)
    vectors[:, 1] = 0  # no entropy
    path = mf.write_magnitude(
        tmp_path / "m", ["a", "A", "a", *mf.random_words(47, 2)], vectors, page_size=1024
    )
    connection = opened(path)
    rows = connection.execute("SELECT key, value FROM magnitude_format").fetchall()
    entropies = [value for key, value in rows if key == "entropy"]
    assert dict(row for row in rows if row[0] != "entropy") == {
        "version": 2,
        "elmo": 0,
        "size": 50,
        "dim": 3,
        "precision": 7,
        "subword": 0,
        "subword_start": 3,
        "subword_end": 6,
        "approx": 0,
        "approx_trees": 0,
        "max_duplicate_keys": 3,
    }
    assert sorted(entropies) == [0, 1, 2]
    assert entropies[2] == 1
    assert column(connection, "SELECT name FROM sqlite_master WHERE type = 'index'") == [
        "magnitude_key_idx",
        f"magnitude_dim_{entropies[0]}_idx",
    ]
    assert column(connection, "PRAGMA page_size") == [1024]
    plan = connection.execute("EXPLAIN QUERY PLAN SELECT 1 FROM magnitude WHERE key = 'a'")
    assert "magnitude_key_idx" in plan.fetchone()[3]


def test_without_vacuum_the_index_root_lies_behind_the_rows(tmp_path):
    roots = []
    for vacuum in (True, False):
        path = mf.write_magnitude(
            tmp_path / "m", mf.random_words(500, 0), mf.random_vectors(500, 20, 0), vacuum=vacuum
        )
        sql = "SELECT rootpage FROM sqlite_master WHERE name = 'magnitude_key_idx'"
        roots += column(opened(path), sql)
    assert roots[0] < 6
    assert roots[1] > 10


def test_subword_rows(tmp_path):
    path = mf.write_magnitude(
        tmp_path / "m", ["Ab", "a-b", "", "ÉO"], mf.random_vectors(4, 3, 0), subwords=True
    )
    connection = opened(path)
    sql = "SELECT docid, char_ngrams, num_ngrams FROM magnitude_subword"
    b = "\uf000"
    assert connection.execute(sql).fetchall() == [
        (1, f"ab{b} {b}ab {b}ab{b}", 12),
        (2, "", 24),
        (3, "", 0),
        (4, f"éo{b} {b}éo {b}éo{b}", 12),
    ]
    match = "SELECT docid FROM magnitude_subword WHERE char_ngrams MATCH ?"
    assert column(connection, match, f'"{b}ab"') == [1]


def test_elmo_tables_are_one_frame_over_rows(tmp_path):
    path = mf.write_magnitude(
        tmp_path / "m", [], np.empty((0, 12)), elmo=True, meta=(b"weights" * 999, b"{}")
    )
    connection = opened(path)
    rows = [
        column(connection, f"SELECT meta_file FROM magnitude_meta_{number}") for number in (1, 2)
    ]
    assert all(len(pieces) == 3 for pieces in rows)
    assert [lz4.frame.decompress(b"".join(pieces)) for pieces in rows] == [b"weights" * 999, b"{}"]


def test_random_words_are_distinct_with_case_variants():
    words = mf.random_words(1000, 3)
    assert words == mf.random_words(1000, 3) != mf.random_words(1000, 4)
    assert len(words) == len(set(words)) == 1000
    assert 800 < len({word.lower() for word in words}) < 950


# wide_sqlite


@pytest.fixture(scope="module")
def wide():
    return wide_sqlite() or pytest.skip(why_no_wide_sqlite())


def test_wide_file_is_written_and_read(wide, tmp_path):
    path = wide.write_wide_magnitude(tmp_path / "wide", rows=60, seed=5)
    keys = mf.random_words(56, 5)
    assert not keys[0].isupper()
    ints, magnitudes = mf.quantize(mf.random_vectors(60, 3072, 5), 7)
    rows = wide.rows(path, rowids=[1, 57, 99], keys=[keys[3], keys[0].upper(), "absent"])
    assert rows.rowids.tolist() == [1, 57, 0, 4, 57, 0]
    assert rows.keys == [keys[0], keys[0].upper(), "", keys[3], keys[0].upper(), ""]
    np.testing.assert_array_equal(rows.dims[[0, 1, 3]], ints[[0, 56, 3]])
    np.testing.assert_array_equal(rows.magnitudes[[0, 1, 3]], magnitudes[[0, 56, 3]])


def test_stock_sqlite_refuses_the_wide_file(wide, tmp_path):
    path = wide.write_wide_magnitude(tmp_path / "wide", rows=8)
    with pytest.raises(apsw.Error, match="too many columns on magnitude"):
        opened(path).execute("SELECT * FROM magnitude_format")


def test_a_failing_script_is_an_error(wide):
    with pytest.raises(subprocess.CalledProcessError):
        wide.run("import sys; sys.exit(3)")
    assert wide.run("import sys; print(sys.argv[1:])", 1, "two") == "['1', 'two']\n"


# nginx


@needs_nginx
def test_nginx_answers_ranges_and_logs_them(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    with nginx_server(tmp_path) as url, requests.Session() as session:
        etag = session.get(f"{url}/file").headers["ETag"]
        headers = {"Range": "bytes=3-9", "If-Match": etag}
        answer = session.get(f"{url}/file", headers=headers)
        assert (answer.status_code, answer.content) == (206, CONTENT[3:10])
        assert answer.headers["Content-Range"] == "bytes 3-9/1024"
        assert session.get(f"{url}/file", headers={"If-Match": '"other"'}).status_code == 412
        log = url.requests()
    assert [entry["status"] for entry in log] == [200, 206, 412]
    assert [entry["body_bytes_sent"] for entry in log][:2] == [1024, 7]
    assert [entry["connection_requests"] for entry in log] == [1, 2, 3]
    assert (log[1]["range"], log[1]["if_match"]) == ("bytes=3-9", etag)
    assert (log[0]["range"], log[0]["method"], log[0]["path"]) == ("", "GET", "/file")


@needs_nginx
def test_nginx_takes_configuration_and_ends(tmp_path):
    (tmp_path / "zip").mkdir()
    for name in ("file", "zip/file"):
        (tmp_path / name).write_bytes(CONTENT)
    extra = """
        etag off;
        limit_conn clients 100;
        location /moved { return 302 /file; }
        location /zip/ { gzip on; gzip_types *; }
    """
    with nginx_server(tmp_path, extra=extra) as url:
        answer = requests.get(f"{url}/moved")
        assert (answer.content, answer.url) == (CONTENT, f"{url}/file")
        assert "ETag" not in answer.headers
        assert requests.get(f"{url}/zip/file").headers["Content-Encoding"] == "gzip"
    with pytest.raises(requests.ConnectionError):
        requests.get(url)


# scripted_server


def get(server, first=None, last=None, **headers):
    if first is not None:
        headers["Range"] = f"bytes={first}-{last}"
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.get(server.url, headers=headers, allow_redirects=False, timeout=PATIENCE)


def test_right_answers():
    with ScriptedServer(CONTENT) as server:
        answer = get(server, 10, 19, If_Match='"v1"')
        assert (answer.status_code, answer.content) == (206, CONTENT[10:20])
        assert answer.headers["Content-Range"] == "bytes 10-19/1024"
        assert answer.headers["ETag"] == '"v1"'
        assert answer.headers["Last-Modified"] == "Fri, 14 Jul 2017 02:40:00 GMT"
        assert get(server, 1000, 5000).headers["Content-Range"] == "bytes 1000-1023/1024"
        assert get(server, 1020, "").content == CONTENT[1020:]
        assert get(server, "", 3).content == CONTENT[-3:]
        assert get(server, 1024, 1024).status_code == 416
        assert get(server, 0, 1, If_Match='"v0", "v2"').status_code == 412
        assert (get(server).status_code, get(server).content) == (200, CONTENT)
        head = requests.head(server.url)
        assert (head.headers["Content-Length"], head.content) == ("1024", b"")
    ranges = [request.range for request in server.requests[:4]]
    assert ranges == [(10, 19), (1000, 5000), (1020, None), (None, 3)]


def test_requests_are_recorded():
    with ScriptedServer(CONTENT) as server, requests.Session() as session:
        for _ in range(2):
            session.get(server.url + "?a=b", headers={"X-Some": "Thing", "Range": "bytes=0-0"})
        get(server)
    first, second, third = server.requests
    assert (first.method, first.path, first.range) == ("GET", "/file.magnitude?a=b", (0, 0))
    assert first.headers["x-some"] == "Thing"
    assert [r.connection for r in server.requests] == [1, 1, 2]
    assert [r.body_bytes_sent for r in (first, second, third)] == [1, 1, 1024]


def test_wrong_answers():
    script = [
        Status(503, {"Retry-After": "0"}, b"busy"),
        WrongRange(2),
        Whole(),
        Headers(ETag=None, content_range="bytes 0-9/9999", Content_Encoding="gzip"),
        Redirect("/elsewhere"),
        Ok(),
    ]
    with ScriptedServer(CONTENT, script, strict=True) as server:
        busy = get(server, 0, 9)
        assert (busy.status_code, busy.content) == (503, b"busy")
        assert busy.headers["Retry-After"] == "0"
        wrong = get(server, 0, 9)
        assert (wrong.status_code, wrong.content) == (206, CONTENT[2:12])
        assert wrong.headers["Content-Range"] == "bytes 2-11/1024"
        assert (get(server, 0, 9).status_code, len(server.requests)) == (200, 3)
        headers = requests.get(server.url, headers={"Range": "bytes=0-9"}, stream=True).headers
        assert (headers["Content-Range"], headers["Content-Encoding"]) == ("bytes 0-9/9999", "gzip")
        assert "ETag" not in headers
        moved = get(server, 0, 9)
        assert (moved.status_code, moved.headers["Location"]) == (302, "/elsewhere")
        assert get(server, 0, 9).content == CONTENT[:10]
        assert server.unexpected == []
        assert get(server, 5, 6).status_code == 500
    assert [request.range for request in server.unexpected] == [(5, 6)]
    assert not server.script


def test_faults_of_the_connection():
    with ScriptedServer(CONTENT, [ShortBody(4), Disconnect(), Stall(0.2)]) as server:
        short = requests.get(server.url, headers={"Range": "bytes=0-9"}, stream=True)
        assert short.headers["Content-Length"] == "10"
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            short.content  # noqa: B018
        with pytest.raises(requests.ConnectionError, match="without response"):
            get(server, 0, 9)
        begin = time.monotonic()
        assert get(server, 0, 9).content == CONTENT[:10]
        assert time.monotonic() - begin >= 0.2


def test_a_body_without_a_length_ends_with_the_connection():
    with ScriptedServer(CONTENT, [Headers(Content_Length=None)]) as server:
        answer = get(server, 0, 9)
        assert (answer.content, answer.headers["Connection"]) == (CONTENT[:10], "close")


def test_a_changed_file():
    with ScriptedServer(CONTENT, [Ok(), Changed(b"new" * 10, '"v2"')]) as server:
        before = get(server, 0, 2, If_Match='"v1"')
        assert get(server, 0, 2, If_Match='"v1"').status_code == 412
        after = get(server, 0, 2)
        assert (after.content, after.headers["ETag"]) == (b"new", '"v2"')
        assert after.headers["Last-Modified"] != before.headers["Last-Modified"]


def test_a_server_that_never_does_right():
    with ScriptedServer(CONTENT, then=Whole(), etag=None) as server:
        answers = [get(server, 0, 9) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert "ETag" not in answers[0].headers


def test_parallel_requests_use_each_entry_once():
    with ScriptedServer(CONTENT, [Status(503) for _ in range(10)]) as server:
        statuses = []
        threads = [
            threading.Thread(target=lambda: statuses.append(get(server, 0, 9).status_code))
            for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(statuses) == [206] * 10 + [503] * 10
    assert len({request.connection for request in server.requests}) == 20


def test_the_server_ends_in_the_middle_of_answers():
    with ScriptedServer(bytes(1 << 26), [Whole(), Stall(3600)]) as server:
        assert requests.get(server.url, stream=True).status_code == 200
        with pytest.raises(requests.ReadTimeout):
            requests.get(server.url, timeout=0.1)
    assert 0 < server.requests[0].body_bytes_sent < 1 << 26
