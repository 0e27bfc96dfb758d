"""Downloads that break off, short names, batches and classes."""

import itertools
import pickle
import threading
from collections import Counter
from pathlib import Path

import magnitude_files as mf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_server import Changed, Disconnect, Headers, Ok, ScriptedServer, ShortBody, Status
from serving import LoggingServer

import streamfile.magnitude.download as downloading
import vfs
from streamfile import (
    ArgumentError,
    FeaturizerMagnitude,
    FormatError,
    Magnitude,
    MagnitudeUtils,
    PathError,
)
from streamfile.magnitude import published

PIECE = 256 << 10  # which goes in one request
NAME = "a/light/words"
LOCAL = "a_light_words.magnitude"
KEYS = [f"word {number}" for number in range(8000)]


@pytest.fixture(autouse=True)
def own_settings(monkeypatch, tmp_path):
    """Ask no real server, write into no real home, and go in small pieces."""
    monkeypatch.setattr(published, "PUBLISHED", "http://127.0.0.1:9/")
    monkeypatch.setattr(downloading, "PIECE", PIECE)
    monkeypatch.delenv("STREAMFILE_REMOTE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Give two .magnitude files of several pieces each."""
    folder = tmp_path_factory.mktemp("versions")
    return [
        mf.write_magnitude(folder / str(seed), KEYS, mf.random_vectors(8000, 50, seed)).read_bytes()
        for seed in (1, 2)
    ]


@pytest.fixture
def old(versions):
    assert 5 * PIECE < len(versions[0]) < 12 * PIECE
    return versions[0]


@pytest.fixture
def new(versions):
    return versions[1] + bytes(4096)


def download(server, folder, **options):
    return MagnitudeUtils.download_model(NAME, folder, server.url.rpartition("/")[0], **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def only_partial(folder):
    (partial,) = folder.iterdir()
    assert partial.name.startswith(LOCAL + ".")
    assert partial.name.endswith(".part")
    return partial


def starts(server):
    """Take where the requests since the last call began, data requests only."""
    begun = [request.range[0] for request in server.requests]
    server.requests.clear()
    return begun


# Downloading


def test_a_model_is_downloaded_once(old, tmp_path):
    with ScriptedServer(old) as server:
        path = download(server, tmp_path)
        assert path == str(tmp_path / LOCAL)
        assert names(tmp_path) == [LOCAL]
        assert (tmp_path / LOCAL).read_bytes() == old
        assert server.requests[0].path == "/a/light/words.magnitude"
        assert {request.method for request in server.requests} == {"GET"}
        server.requests.clear()
        assert download(server, tmp_path) == path
        assert not server.requests
    with Magnitude(path) as v:
        assert "word 7999" in v


def test_the_directory_is_made_and_by_default_in_the_home(old, tmp_path):
    with ScriptedServer(old) as server:
        path = MagnitudeUtils.download_model(NAME + ".magnitude", remote_path=server.url)
        assert path == str(tmp_path / "home" / ".magnitude" / LOCAL)
        assert server.requests[0].path == "/file.magnitude/a/light/words.magnitude"


@pytest.mark.parametrize("pieces", [1, 3, 5])
def test_an_interrupted_download_goes_on(old, tmp_path, pieces):
    with ScriptedServer(old, [Ok()] * (1 + pieces) + [Status(403)]) as server:
        with pytest.raises(vfs.AccessError):
            download(server, tmp_path)
        partial = only_partial(tmp_path)
        assert partial.read_bytes() == old[: pieces * PIECE]
        starts(server)
        download(server, tmp_path)
        assert starts(server) == [0, *range(pieces * PIECE, len(old), PIECE)]
    assert names(tmp_path) == [LOCAL]
    assert (tmp_path / LOCAL).read_bytes() == old


def test_a_download_stopped_by_the_user_goes_on(old, tmp_path, monkeypatch):
    read = vfs.RemoteFile.read

    def read_and_stop(file, offset, length):
        if offset == 2 * PIECE:
            raise KeyboardInterrupt
        return read(file, offset, length)

    with ScriptedServer(old) as server:
        with monkeypatch.context() as patch:
            patch.setattr(vfs.RemoteFile, "read", read_and_stop)
            with pytest.raises(KeyboardInterrupt):
                download(server, tmp_path)
        assert only_partial(tmp_path).stat().st_size == 2 * PIECE
        starts(server)
        download(server, tmp_path)
        assert starts(server)[1] == 2 * PIECE
    assert (tmp_path / LOCAL).read_bytes() == old


def test_an_odd_length_and_a_whole_partial_file_go_on_too(old, tmp_path):
    with ScriptedServer(old, [Ok(), Ok(), Status(403)]) as server:
        with pytest.raises(vfs.AccessError):
            download(server, tmp_path)
        partial = only_partial(tmp_path)
        for kept in (len(old) - 12345, len(old)):
            partial.write_bytes(old[:kept])
            starts(server)
            download(server, tmp_path)
            assert len(starts(server)) == (2 if kept < len(old) else 1)
            assert (tmp_path / LOCAL).read_bytes() == old
            (tmp_path / LOCAL).unlink()


def test_a_partial_file_that_is_too_long_is_not_believed(old, tmp_path):
    with ScriptedServer(old, [Ok(), Ok(), Status(403)]) as server:
        with pytest.raises(vfs.AccessError):
            download(server, tmp_path)
        only_partial(tmp_path).write_bytes(old + b"more")
        with pytest.raises(OSError, match=f"{len(old) + 4:,} bytes instead of {len(old):,}"):
            download(server, tmp_path)
        assert names(tmp_path) == []
        download(server, tmp_path)
    assert (tmp_path / LOCAL).read_bytes() == old


def test_a_partial_file_of_another_version_is_thrown_away(old, new, tmp_path):
    with ScriptedServer(old, [Ok(), Ok(), Ok(), Status(403)]) as server:
        with pytest.raises(vfs.AccessError):
            download(server, tmp_path)
        before = only_partial(tmp_path)
        server.script.extend([Changed(new, '"v2"'), Ok(), Status(403)])
        with pytest.raises(vfs.AccessError):
            download(server, tmp_path)
        assert only_partial(tmp_path) != before
        assert only_partial(tmp_path).read_bytes() == new[:PIECE]
        download(server, tmp_path)
    assert names(tmp_path) == [LOCAL]
    assert (tmp_path / LOCAL).read_bytes() == new


def test_a_file_that_changes_under_the_download_begins_anew(old, new, tmp_path, caplog):
    with ScriptedServer(old, [Ok(), Ok(), Ok(), Changed(new, '"v2"')]) as server:
        download(server, tmp_path)
        assert server.requests[2].headers["if-match"] == '"v1"'
    assert names(tmp_path) == [LOCAL]
    assert (tmp_path / LOCAL).read_bytes() == new
    assert "begins anew" in caplog.text


def test_a_file_that_changes_all_the_time_is_given_up(old, tmp_path):
    number = itertools.count()

    def change(server, request):
        return Changed(old, f'"{next(number)}"')(server, request)

    with ScriptedServer(old, then=change) as server:
        with pytest.raises(vfs.FileChangedError):
            download(server, tmp_path)
        assert len(server.requests) < 20
    assert not (tmp_path / LOCAL).exists()


@pytest.mark.parametrize("fault", [ShortBody(1000), Disconnect(), Status(503)])
def test_faults_that_pass_are_passed(old, tmp_path, fault):
    with ScriptedServer(old, [Ok(), fault, Ok(), fault]) as server:
        download(server, tmp_path)
    assert (tmp_path / LOCAL).read_bytes() == old


def test_bodies_that_stay_short_leave_nothing_under_the_name(old, tmp_path, monkeypatch):
    monkeypatch.setattr("vfs.transport.retries.LONGEST_BACKOFF", 0.01)
    with ScriptedServer(old, [Ok(), Ok()], then=ShortBody(1000)) as server:
        with pytest.raises((vfs.ResponseError, vfs.ConnectError)):
            download(server, tmp_path)
        assert only_partial(tmp_path).read_bytes() == old[:PIECE]


def test_without_validators_nothing_is_kept_of_a_broken_download(old, tmp_path):
    plain = Headers(ETag=None, Last_Modified=None)
    with ScriptedServer(old, [plain] * 3 + [Status(403)], then=plain) as server:
        with pytest.raises(vfs.AccessError):
            download(server, tmp_path)
        assert names(tmp_path) == []
        download(server, tmp_path)
    assert names(tmp_path) == [LOCAL]
    assert (tmp_path / LOCAL).read_bytes() == old


@pytest.mark.parametrize("body", [b"", b"<html>We have moved", bytes(10**6)])
def test_what_is_no_magnitude_file_is_not_kept(tmp_path, body):
    with ScriptedServer(body) as server:
        with pytest.raises((FormatError, vfs.VFSError)):
            download(server, tmp_path)
        assert names(tmp_path) == []
        assert len(server.requests) == 1


def test_several_downloads_at_once(old, tmp_path):
    paths = []
    with ScriptedServer(old) as server:
        threads = [
            threading.Thread(target=lambda: paths.append(download(server, tmp_path)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert paths == [str(tmp_path / LOCAL)] * 4
    assert (tmp_path / LOCAL).read_bytes() == old
    assert names(tmp_path) == [LOCAL]


def test_progress_is_for_terminals(old, tmp_path, capsys, monkeypatch):
    with ScriptedServer(old) as server:
        download(server, tmp_path / "1", log=True)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
        download(server, tmp_path / "2", log=True)
        shown = capsys.readouterr().err
        assert LOCAL in shown
        assert "100%" in shown
        download(server, tmp_path / "3")
        assert capsys.readouterr().err == ""


def test_names_that_cannot_leave_the_directory(old, tmp_path):
    with ScriptedServer(old) as server:
        base = server.url.rpartition("/")[0]
        path = MagnitudeUtils.download_model("../../x", tmp_path, base)
        assert path == str(tmp_path / ".._.._x.magnitude")
        url = server.url.replace("http://", "http://me:secret@")
        url += "?Expires=1&Signature=2&Key-Pair-Id=3"
        path = MagnitudeUtils.download_model(url, tmp_path)
        assert path == str(
            tmp_path / f"127.0.0.1_{server.url.split(':')[2].split('/')[0]}_file.magnitude"
        )
    with pytest.raises(ArgumentError, match="name or a URL"):
        MagnitudeUtils.download_model("", tmp_path)


def test_files_that_a_query_selects_are_downloaded_apart(old, tmp_path):
    """They have the same size and the same date, and no ETag."""
    with ScriptedServer(old, etag=None) as server:
        paths = []
        for number in (1, 2, 1):
            server.content = old[:-1] + bytes([number])
            path = MagnitudeUtils.download_model(f"{server.url}?f={number}", tmp_path)
            paths.append(path)
            assert Path(path).read_bytes()[-1] == number
            assert path.endswith(".magnitude")
            assert "?" not in path
        assert paths[0] == paths[2] != paths[1]


# Names of models


@pytest.mark.parametrize(
    ("model", "remote", "url"),
    [
        ("a/light/x", None, "http://magnitude.plasticity.ai/a/light/x.magnitude"),
        ("a/light/x.magnitude", None, "http://magnitude.plasticity.ai/a/light/x.magnitude"),
        ("a/light/x", "https://h/base", "https://h/base/a/light/x.magnitude"),
        ("a/light/x", "https://h/base/", "https://h/base/a/light/x.magnitude"),
        ("a/light/x y?#%", "https://h", "https://h/a/light/x%20y%3F%23%25.magnitude"),
        ("https://g/x?y", "https://h", "https://g/x?y"),
        ("HTTPS://g/x", "https://h", "HTTPS://g/x"),
    ],
)
def test_urls_of_models(monkeypatch, model, remote, url):
    monkeypatch.undo()
    monkeypatch.delenv("STREAMFILE_REMOTE", raising=False)
    assert published.model_url(model, remote) == url
    if remote:
        monkeypatch.setenv("STREAMFILE_REMOTE", remote)
        assert published.model_url(model) == url
        assert published.model_url("a/b", "http://other").startswith("http://other/")


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """Serve a model as the published host does, and say so in the environment."""
    folder = tmp_path / "remote" / "a" / "light"
    folder.mkdir(parents=True)
    mf.write_magnitude(folder / "words.magnitude", KEYS[:50], mf.random_vectors(50, 4, 1))
    with LoggingServer(tmp_path / "remote") as server:
        monkeypatch.setenv("STREAMFILE_REMOTE", server.url)
        yield server


@pytest.mark.parametrize("name", [NAME, NAME + ".magnitude"])
def test_short_names(remote, tmp_path, name):
    expected = Magnitude(tmp_path / "remote" / "a" / "light" / "words.magnitude").query(KEYS[:50])
    with Magnitude(name, stream=True, stream_options={"cache_size": 0}) as v:
        np.testing.assert_array_equal(v.query(KEYS[:50]), expected)
        assert v.stats.requests
    assert not (tmp_path / "home").exists()
    with Magnitude(name) as v:
        np.testing.assert_array_equal(v.query(KEYS[:50]), expected)
        assert not v.stats.requests
    assert names(tmp_path / "home" / ".magnitude") == [LOCAL]
    before = len(remote.log)
    with Magnitude(name) as v:
        np.testing.assert_array_equal(v.query(KEYS[:50]), expected)
    assert len(remote.log) == before


def test_the_server_of_short_names_is_an_argument(remote, tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMFILE_REMOTE", "http://127.0.0.1:9/")
    options = {"remote_path": remote.url}
    with Magnitude(NAME, stream=True, stream_options={"cache_size": 0}, **options) as v:
        expected = v.query("word 1")
    with Magnitude(NAME, log=False, **options) as v:
        np.testing.assert_array_equal(v.query("word 1"), expected)
        with pickle.loads(pickle.dumps(v)) as w:
            np.testing.assert_array_equal(w.query("word 1"), expected)
    with pytest.raises(ArgumentError, match="no file"):
        FeaturizerMagnitude(10, remote_path=remote.url)


def test_urls_are_downloaded_unless_streamed(remote, tmp_path):
    with Magnitude(remote.url + "a/light/words.magnitude") as v:
        assert v.query("word 1").shape == (4,)
    (name,) = names(tmp_path / "home" / ".magnitude")
    assert name.endswith("_a_light_words.magnitude")


def test_a_local_file_goes_before_a_short_name(remote, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "light").mkdir(parents=True)
    mf.write_magnitude(tmp_path / "a" / "light" / "words", ["here"], mf.random_vectors(1, 4, 1))
    with Magnitude(NAME) as v:
        assert "here" in v
    with pytest.raises(vfs.OptionError, match="no URL"):
        Magnitude(NAME, stream=True)
    assert not remote.log


def test_models_that_do_not_exist(remote, tmp_path):
    with pytest.raises(PathError, match=r"a/light/none: no such file here.*http://127.*404"):
        Magnitude("a/light/none")
    with pytest.raises(vfs.NotFoundError):
        Magnitude("a/light/none", stream=True)
    with pytest.raises(PathError, match="on the web"):
        Magnitude(remote.url + "none")
    assert names(tmp_path / "home" / ".magnitude") == []


@pytest.mark.parametrize("name", ["none", "./a/b", "../a/b", "~/a/b", "/a/b", "a/../b", "a//b"])
def test_what_is_no_short_name_is_a_local_path(remote, name):
    with pytest.raises(PathError, match=r"no such file; .*URL.*stream=True.*glove/light"):
        Magnitude(name)
    assert not remote.log


@pytest.mark.parametrize("suffix", [".txt", ".vec", ".TXT", ".bin"])
def test_other_formats_are_converted_once(tmp_path, caplog, suffix):
    path = tmp_path / f"vectors{suffix}"
    binary = b"2 3\na " + np.float32([3, 0, 4]).tobytes() + b"b " + np.float32([1, 2, 2]).tobytes()
    path.write_bytes(binary if suffix == ".bin" else b"a 3 0 4\nb 1 2 2\n")
    for _ in range(2):
        with Magnitude(path) as v:
            assert v.query("a").tolist() == np.float32([0.6, 0, 0.8]).tolist()
    assert [record.message.count("streamfile convert") for record in caplog.records] == [1]
    (converted,) = names(tmp_path / "home" / ".magnitude")
    path.write_bytes(path.read_bytes().replace(b"b ", b"c "))
    with Magnitude(path) as v:
        assert "c" in v
    assert len(names(tmp_path / "home" / ".magnitude")) == 2
    assert converted in names(tmp_path / "home" / ".magnitude")


def test_what_cannot_be_converted_leaves_nothing(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("a 3 0 4\nb 1 2 3\nc 1\n")
    with pytest.raises(FormatError, match="line 3"):
        Magnitude(path)
    assert names(tmp_path / "home" / ".magnitude") == []


# Batches and classes


def test_batches_go_round_without_end():
    X, y = np.arange(10).reshape(5, 2), list("abcde")  # noqa: N806
    batches = MagnitudeUtils.batchify(X, y, 2)
    got = [(x.tolist(), list(z)) for x, z in itertools.islice(batches, 7)]
    one = [
        ([[0, 1], [2, 3]], ["a", "b"]),
        ([[4, 5], [6, 7]], ["c", "d"]),
        ([[8, 9]], ["e"]),
    ]
    assert got == [*one, *one, one[0]]
    x, z = next(MagnitudeUtils.batchify(X, y, 99))
    assert (len(x), z) == (5, y)
    for wrong in [([1], [], 1), ([], [], 1), ([1], [1], 0)]:
        with pytest.raises(ArgumentError, match="batch_size"):
            MagnitudeUtils.batchify(*wrong)


def test_classes_are_numbered_in_the_order_in_which_they_come():
    add_class, class_to_int, int_to_class = MagnitudeUtils.class_encoding()
    assert [add_class(c) for c in ("x", "y", "x", ("z", 1))] == [0, 1, 0, 2]
    assert [class_to_int(c) for c in ("y", ("z", 1))] == [1, 2]
    assert [int_to_class(i) for i in range(3)] == ["x", "y", ("z", 1)]
    with pytest.raises(KeyError):
        class_to_int("w")
    for number in (3, -1):
        with pytest.raises(IndexError):
            int_to_class(number)
    assert MagnitudeUtils.class_encoding()[0]("y") == 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), max_size=20), st.integers(21, 25) | st.none())
def test_categories_there_and_back(y, count):
    got = MagnitudeUtils.to_categorical(y, count)
    assert got.dtype == np.float32
    assert got.shape == (len(y), count or max(y, default=-1) + 1)
    assert Counter(got.ravel().tolist())[1.0] == got.sum() == len(y)
    if y:
        assert MagnitudeUtils.from_categorical(got).tolist() == y


def test_shapes_of_categories():
    to, back = MagnitudeUtils.to_categorical, MagnitudeUtils.from_categorical
    np.testing.assert_array_equal(to([0, 2]), [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(to([[0], [2]]), [[1, 0, 0], [0, 0, 1]])
    assert to([[0, 1], [2, 3]]).shape == (2, 2, 4)
    assert to(1).tolist() == [0, 1]
    assert back(to([[0, 1], [2, 3]])).tolist() == [[0, 1], [2, 3]]
    assert back([[0.1, 0.7, 0.2]]).tolist() == [1]
    for wrong in [([-1], None), ([3], 3), ([0, -2], 5)]:
        with pytest.raises(ArgumentError, match="classes from"):
            to(*wrong)
