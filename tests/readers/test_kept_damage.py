"""Bits that flip on the disk, files that are cut off, processes that stop: never a wrong answer."""

import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import apsw
import elmo_files
import lz4.frame
import magnitude_files as mf
import needed
import numpy as np
import pytest
from children import stopped
from scripted_server import Ok, ScriptedServer, Status
from sentences import DIM, KEYS, SENTENCE
from serving import LoggingServer

import vfs
from streamfile import Magnitude, _jit
from streamfile.readers.kept_blobs import keep_blob
from streamfile.readers.remote import RemoteReader
from streamfile.search import matrix, scan
from vfs.cache.checksums import PIECE
from vfs.cache.directory import default_kept_files
from vfs.deadline import within

ROOT = Path(__file__).parents[2]
META = "magnitude_meta_1"
WORDS = list(dict.fromkeys(mf.random_words(6000, 8)))
WIDTH = 24
CACHE = 24 << 20  # bytes
MARGIN = 20  # seconds beyond a deadline, on a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damage")


@pytest.fixture(scope="module")
def server(folder):
    with LoggingServer(folder) as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A small cache directory of the test's own; even small matrices are kept."""
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("STREAMFILE_CACHE_SIZE", str(CACHE))
    monkeypatch.setattr(matrix, "LEAST_FILE", 0)
    monkeypatch.setattr(scan, "LEAST_COMPILED", 1 << 60)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def vectors():
    return mf.random_vectors(len(WORDS), WIDTH, 8)


@pytest.fixture(scope="module")
def words(folder, vectors):
    return mf.write_magnitude(folder / "words.magnitude", WORDS, vectors)


@pytest.fixture(scope="module")
def elmo(folder):
    needed.module("torch")
    options, weights = elmo_files.write_model(folder / "model")
    meta = weights.read_bytes(), options.read_bytes()
    stored = mf.random_vectors(len(KEYS), DIM, 3)
    return mf.write_magnitude(folder / "elmo.magnitude", KEYS, stored, elmo=True, meta=meta)


@pytest.fixture(scope="module")
def heavy(folder, vectors):
    """The words with an index of neighbours."""
    index = needed.module("annoy", "-e '.[annoy]'").AnnoyIndex(WIDTH, "angular")
    index.set_seed(1)
    for at, vector in enumerate(vectors):
        index.add_item(at, vector.tolist())
    index.build(10, 1)
    index.save(str(folder / "index"))
    path = mf.write_magnitude(folder / "heavy.magnitude", WORDS, vectors)
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE magnitude_approx (trees INTEGER, index_file BLOB)")
    frame = lz4.frame.compress((folder / "index").read_bytes())
    connection.execute("INSERT INTO magnitude_approx VALUES (10, ?)", (frame,))
    for key, value in (("approx", 1), ("approx_trees", 10)):
        connection.execute("UPDATE magnitude_format SET value = ? WHERE key = ?", (value, key))
    connection.close()
    return path


def double(number):
    """A kernel as small as can be."""
    return 2 * number


class Use:
    """One use of what is kept, in an object of its own each time.

    Attributes
    ----------
    bytes
        How many the last use has fetched.
    """

    def __init__(self, name, request, server, monkeypatch):
        self.name, self.server, self.patch, self.bytes = name, server, monkeypatch, 0
        if name == "code":
            needed.module("numba")
        needs = {"elmo": "elmo", "index, annoy": "heavy", "index, numpy": "heavy"}
        self.path = request.getfixturevalue(needs.get(name, "words"))
        if name == "index, numpy":
            monkeypatch.setitem(sys.modules, "annoy", None)

    def __call__(self):
        if self.name == "code":
            self.patch.setattr(_jit, "_known", {})
            kernel = _jit.Kernel(double, "int64")
            function = _jit.compiled(kernel, default_kept_files())
            return None if function is None else [function(number) for number in (3, -4)]
        with Magnitude(self.server.url + self.path.name, stream=True) as v:
            before = v.stats.bytes
            if self.name == "elmo":
                answer = v.query(SENTENCE).round(5).tolist()
            elif self.name == "matrix":
                answer = v.most_similar(WORDS[5], topn=20)
            elif self.name == "blocks":
                answer = v.query(WORDS[::97]).tolist()
            else:
                answer = v.most_similar_approx(WORDS[5], topn=20)
            self.bytes = v.stats.bytes - before
        return answer


@pytest.fixture
def use(request, server, monkeypatch):
    return Use(request.param, request, server, monkeypatch)


def uses(*names):
    return pytest.mark.parametrize("use", names, indirect=True)


INDEXES = "index, numpy", "index, annoy"
FILES = "elmo", "matrix", *INDEXES, "code"


def kept(cache):
    """Give the content of what rests on the disk by its path."""
    return {
        path: path.read_bytes()
        for folder in ("files", "sums")
        for path in sorted((cache / folder).iterdir())
    }


def changed(content, rng, kind):
    at = rng.randrange(len(content))
    if kind == "bit":
        return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    if kind == "page":
        begin = at // 4096 * 4096
        return content[:begin] + bytes(len(content[begin : begin + 4096])) + content[begin + 4096 :]
    if kind == "cut":
        return content[:at]
    return content + bytes(at + 1)


@uses(*FILES)
@pytest.mark.parametrize("kind", ["bit", "page", "cut", "longer"])
def test_no_damage_gives_a_wrong_answer_and_the_next_use_heals_it(use, cache, kind, caplog):
    rng = random.Random(f"{use.name} {kind}")
    expected, whole = use(), kept(cache)
    assert expected is not None
    trials = (4 if use.name == "code" else 40) if kind == "bit" else 4
    large = [path for path in whole if len(whole[path]) == max(map(len, whole.values()))]
    for trial in range(trials):
        # A flipped bit of the large file would be found in every second trial only.
        path = large[0] if trial % 2 else rng.choice([path for path in whole if whole[path]])
        content = changed(whole[path], rng, kind)
        path.write_bytes(content)
        caplog.clear()
        assert use() == expected
        if path.read_bytes() == content != whole[path]:  # a use may read a part of the index alone
            assert use.name == "index, numpy"
            path.write_bytes(whole[path])
            continue
        healed = kept(cache)
        assert healed == whole or use.name == "code"  # whose names have numbers
        told = [one for one in caplog.records if one.levelno == logging.WARNING]
        assert len(told) == (content != whole[path])
        inodes = [one.stat().st_ino for one in healed]
        assert use() == expected
        assert [one.stat().st_ino for one in kept(cache)] == inodes  # not made again
        whole = healed


@uses("blocks")
def test_no_bit_of_the_block_store_gives_a_wrong_answer(use, cache):
    rng = random.Random(7)
    expected = use()
    for _ in range(80):
        store = bytearray((cache / "blocks.v1").read_bytes())
        used = np.flatnonzero(np.frombuffer(store, np.uint8))
        assert len(used) > 100_000
        for at in rng.choices(used, k=20):
            store[at] ^= 1 << rng.randrange(8)
        (cache / "blocks.v1").write_bytes(store)
        assert use() == expected
    use()
    assert use() == expected
    assert use.bytes <= 128 << 10  # one request, which confirms the version


@uses("elmo", "matrix", *INDEXES)
def test_without_damage_nothing_is_made_twice(use, cache, caplog):
    first = use()
    assert use.bytes > 1000
    inodes = {path: path.stat().st_ino for path in kept(cache)}
    for _ in range(3):
        assert use() == first
        assert use.bytes <= 128 << 10  # one request, which confirms the version
    assert {path: path.stat().st_ino for path in kept(cache)} == inodes
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


@uses("elmo", "matrix", *INDEXES)
def test_a_folder_in_the_place_of_a_file_is_no_wrong_answer(use, cache):
    expected = use()
    for path in kept(cache):
        path.unlink()
        path.mkdir()
        (path / "x").touch()
    if use.name == "matrix":  # in memory
        assert use() == expected
        return
    with pytest.raises(vfs.CacheDirectoryError, match="is a directory"):
        use()


@uses("elmo", "matrix", *INDEXES)
def test_a_damaged_file_that_cannot_be_fetched_again_is_an_error(words, use, cache):
    with ScriptedServer(use.path.read_bytes(), then=Ok()) as server:
        use.server, use.path = server, Path("f")
        use()
        for path, content in kept(cache).items():
            if path.parent.name == "files":
                path.write_bytes(changed(content, random.Random(1), "cut"))
        (cache / "blocks.v1").write_bytes(bytes((cache / "blocks.v1").stat().st_size))
        server.then = Status(403)
        for _ in range(2):
            with pytest.raises(vfs.AccessError):
                use()


@pytest.mark.parametrize("damage", ["cut", "empty", "longer", "bit"])
def test_a_matrix_that_changes_while_it_is_mapped(words, cache, damage):
    script = """
import os, sys
from pathlib import Path
from streamfile import Magnitude
from streamfile.search import matrix
matrix.LEAST_FILE = 0
with Magnitude(sys.argv[1]) as v:
    first = v.most_similar(sys.argv[2])
with Magnitude(sys.argv[1]) as v:
    assert v.most_similar(sys.argv[2]) == first
    path, = (Path(os.environ["STREAMFILE_CACHE_DIR"]) / "files").iterdir()
    size = path.stat().st_size
    if sys.argv[3] == "bit":
        with path.open("r+b") as file:
            file.seek(5000)
            file.write(b"x")
    else:
        os.truncate(path, {"cut": size // 2, "empty": 0, "longer": size + 1}[sys.argv[3]])
    if sys.argv[3] != "bit":  # what was checked is not checked again
        assert v.most_similar(sys.argv[2]) == first
with Magnitude(sys.argv[1]) as v:
    assert v.most_similar(sys.argv[2]) == first
"""
    command = [sys.executable, "-c", script, str(words), WORDS[5], damage]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("made again") == 1


@uses(*INDEXES)
def test_an_index_that_is_cut_off_while_it_is_mapped(use, cache):
    expected = use()
    large = max((cache / "files").iterdir(), key=lambda path: path.stat().st_size)
    with Magnitude(use.server.url + use.path.name, stream=True) as v:
        assert v.most_similar_approx(WORDS[5], topn=20) == expected
        os.truncate(large, 1000)
        assert v.most_similar_approx(WORDS[5], topn=20) == expected


@uses("index, numpy")
def test_a_search_in_numpy_checks_what_it_reads_of_an_index(use, cache):
    use()
    large = max((cache / "files").iterdir(), key=lambda path: path.stat().st_size)
    size = large.stat().st_size
    assert size > 4 * PIECE
    with Magnitude(use.server.url + use.path.name, stream=True) as v:
        v.most_similar_approx(WORDS[5], topn=1, effort=0.01)
        checked = v._approximate._opened.get().index._checked
        assert not checked.complete
        v.most_similar_approx(WORDS[5], topn=None)
        assert checked.complete


@pytest.mark.parametrize("at", [0, 0.3, 0.99])
def test_a_bit_that_flips_before_a_copy_goes_on_is_not_believed(tmp_path, at, caplog):
    weights = random.Random(9).randbytes(24 << 20)
    path = tmp_path / "f.magnitude"
    mf.write_magnitude(path, ["a"], mf.random_vectors(1, 12, 1), elmo=True, meta=(weights, b"{}"))
    with ScriptedServer(path.read_bytes(), [Ok()] * 40, then=Status(403)) as server:
        reader = RemoteReader(server.url, cache_dir=tmp_path / "own", cache_size=128 << 20)
        with pytest.raises(vfs.AccessError):
            keep_blob(reader, META)
        (part,) = (tmp_path / "own" / "files").glob("*.part")
        written = np.flatnonzero(np.frombuffer(part.read_bytes(), np.uint8))
        with part.open("r+b") as file:
            place = int(written[int(at * (8 << 20))])
            file.seek(place)
            file.write(bytes([weights[place] ^ 1]))
        server.then = Ok()
        caplog.clear()
        with keep_blob(reader, META) as file:
            assert file.path.read_bytes() == weights
        told = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
        assert len(told) == 1
        assert str(part) in told[0]
        reader.close()


# Processes that are stopped

HOLDER = """
import sys
from streamfile import Magnitude, _jit
from streamfile.search import matrix
from vfs.cache.directory import default_kept_files
matrix.LEAST_FILE = 0
def wait(*_):
    print("holds", flush=True)
    sys.stdin.read()
if sys.argv[1] == "matrix":
    matrix._lengths = wait
    Magnitude(sys.argv[2]).most_similar(sys.argv[3])
elif sys.argv[1] == "lock":
    default_kept_files().make(bytes(16), 0, lambda part: None).close()
    with default_kept_files().locked():
        wait()
else:
    default_kept_files().make(bytes.fromhex(sys.argv[1]), 0, wait)
"""


@pytest.mark.parametrize("what", ["matrix", "lock"])
def test_a_search_needs_no_file_that_a_stopped_process_writes(words, what, monkeypatch):
    with monkeypatch.context() as patch, Magnitude(words) as v:
        patch.setattr(matrix, "LEAST_FILE", 1 << 60)
        expected = v.most_similar(WORDS[5])
    with stopped(HOLDER, what, words, WORDS[5]), Magnitude(words) as v:
        begun = time.monotonic()
        with within(4):
            assert v.most_similar(WORDS[5]) == expected
        assert time.monotonic() - begun < 4 + MARGIN
        with within(4):
            assert v.most_similar(WORDS[7])


def test_machine_code_is_not_waited_for_long(monkeypatch, cache):
    needed.module("numba")
    files, kernel = default_kept_files(), _jit.Kernel(double, "int64")
    assert _jit.compiled(kernel, files)(4) == 8
    (path,) = (cache / "files").iterdir()
    path.unlink()
    monkeypatch.setattr(_jit, "_known", {})
    with stopped(HOLDER, path.name):
        begun = time.monotonic()
        with within(3):
            assert _jit.compiled(kernel, files) is None
        assert time.monotonic() - begun < 3 + MARGIN


def test_weights_that_a_stopped_process_writes_are_an_error_in_time(elmo, server, cache):
    url = server.url + elmo.name
    reader = RemoteReader(url)
    name = reader.kept(META)[1].hex()
    with stopped(HOLDER, name), Magnitude(url, stream=True) as v:
        begun = time.monotonic()
        with within(2), pytest.raises(vfs.DeadlineError, match=rf"{name}\.part.*stopped"):
            v.query(SENTENCE)
        assert time.monotonic() - begun < 2 + MARGIN
    with Magnitude(url, stream=True) as v:
        assert v.query(SENTENCE).shape == (len(SENTENCE), DIM)
    reader.close()
