"""Rows whose keys are no text: an error that names the row, and right answers for all others."""

import apsw
import magnitude_files as mf
import numpy as np
import pytest

import streamfile
from streamfile import FormatError, Magnitude

KEYS = ["cat", "dog", "mouse", "horse"]
AT = 1  # the position of the odd key
NO_TEXTS = {"NULL": "NULL", "integer": "5", "real": "1.5", "blob": "x'00ff'", "empty blob": "x''"}
TEXTS = {"empty": ("''", ""), "NUL": ("'a' || char(0) || 'b'", "a\0b"), "no UTF-8": (
    "CAST(x'61ff62' AS TEXT)", "a\udcffb")}  # fmt: skip


@pytest.fixture
def with_key(folder, request):
    """Write a file with a key that only SQL can give."""

    def write(sql, *, subwords=True):
        path = mf.write_magnitude(
            folder / "odd", KEYS, mf.random_vectors(len(KEYS), 5, 1), subwords=subwords
        )
        connection = apsw.Connection(str(path))
        # A column of type TEXT would make texts of numbers.
        connection.pragma("writable_schema", 1)
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'key TEXT', 'key') WHERE name='magnitude'"
        )
        connection.close()
        connection = apsw.Connection(str(path))
        connection.execute(f"UPDATE magnitude SET key = {sql} WHERE rowid = {AT + 1}")
        kind = connection.execute(f"SELECT typeof(key) FROM magnitude WHERE rowid = {AT + 1}").get
        connection.close()
        return path, kind

    return write


@pytest.mark.parametrize("sql", NO_TEXTS.values(), ids=NO_TEXTS)
@pytest.mark.parametrize("case_insensitive", [False, True])
def test_a_key_that_is_no_text(with_key, opened, sql, case_insensitive):
    path, kind = with_key(sql)
    assert kind != "text"
    v = opened(path, case_insensitive=case_insensitive)
    for ask in (
        lambda: v.index(AT),
        lambda: v[AT],
        lambda: v[0:3],
        lambda: v.index([AT], return_vector=False),
        lambda: list(v),
        lambda: list(v.index_to_key),
        lambda: v.most_similar("cat"),
        lambda: v.distances("cat"),
        lambda: v.query("dogg"),  # the row has n-grams of it
        lambda: v.query('do"gg'),  # by SQL
        v.get_vectors_mmap,
    ):
        with pytest.raises(FormatError, match=r"no text.*row 2;"):
            ask()
    others = [key for key in KEYS if key != KEYS[AT]]
    assert [v[at][0] for at in (0, 2, 3)] == others
    np.testing.assert_array_equal(v.query(others), [v[at][1] for at in (0, 2, 3)])
    assert [key in v for key in KEYS] == [key in others for key in KEYS]
    for key in (5, 1.5, "5", "1.5", "", "NULL", "None", "zzz", "\0\udcff"):
        assert np.isfinite(v.query(key)).all()
        assert key not in v
    assert v.get_index("mouse") == 2
    assert v.get_index(KEYS[AT], -1) == -1


@pytest.mark.parametrize("sql", NO_TEXTS.values(), ids=NO_TEXTS)
def test_tools_for_a_file_with_a_key_that_is_no_text(with_key, tmp_path, sql):
    path, _ = with_key(sql)
    assert streamfile.info(path).rows == len(KEYS)
    assert streamfile.route(path, tmp_path / "route") == (tmp_path / "route").stat().st_size
    with pytest.raises(FormatError, match=r"no text.*row 2;"):
        streamfile.repack(path, tmp_path / "repacked", log=False)
    assert [file.name for file in tmp_path.iterdir()] == ["route"]


@pytest.mark.parametrize(("sql", "key"), TEXTS.values(), ids=TEXTS)
def test_a_text_that_is_odd_is_a_key(with_key, opened, tmp_path, sql, key):
    path, _ = with_key(sql)
    v = opened(path)
    assert v.index(AT, return_vector=False) == key
    assert [name for name, _ in v] == [KEYS[0], key, *KEYS[2:]]
    assert key in [name for name, _ in v.most_similar("cat")]
    assert key in v
    np.testing.assert_array_equal(v.query(key), v[AT][1])
    assert v.get_index(key) == AT
    streamfile.repack(path, tmp_path / "repacked", verify=True, log=False)
    with Magnitude(tmp_path / "repacked") as copy:
        assert copy[AT][0] == key


@pytest.mark.parametrize("key", [None, b"cat", object(), {"cat"}])
def test_what_is_no_key_is_not_looked_for(with_key, opened, key):
    path, _ = with_key("NULL", subwords=False)
    v = opened(path)
    with pytest.raises(streamfile.ArgumentError, match="is no key"):
        v.query(key)
    assert key not in v
    with pytest.raises(KeyError):
        v.get_index(key)
