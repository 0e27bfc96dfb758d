"""Converted files, held against files made by plain SQL, and conversions that cannot succeed."""

import gzip
import os
import random
import signal
import time
from contextlib import closing
from pathlib import Path

import apsw
import magnitude_files as mf
import needed
import numpy as np
import pytest
from children import child
from serving import LoggingServer
from vector_files import binary_file, text_file
from waiting import wait_until

from streamfile import Magnitude, errors
from streamfile.tools.convert import Converted, convert
from streamfile.write import magnitude_file
from vfs.btree.pages import LocalPages
from vfs.btree.record import decode_record

DIM = 10
PLAIN = mf.random_words(600, 1)
ODD = [
    PLAIN[0], PLAIN[1].upper(), PLAIN[2].swapcase(), PLAIN[0].upper(), "É", "é", "日本語", "naïve",
    'say"hi"', "it's", "<html>", "a*b", "^", "\0", "a\0b", "a\0c", "\ufeff", "k" * 58, "ß" * 300,
    "K" * 9000, "k" * 9000, "state-of-the-art", "😀", "1234.5", "",
]  # fmt: skip
SPACED = ["new york city", ". . .", " ", "1 2 3"]
KEYS = [*PLAIN, *ODD]
UNKNOWN = [
    "bananna",
    "Untrained",
    PLAIN[5] + "zz",
    "",
    "日本",
    "x",
    'say"',
    "foooobar",
    "unknowable",
]
VECTORS = mf.random_vectors(len(KEYS) + len(SPACED), DIM, 1)
KINDS = {
    "word2vec.txt": lambda keys, vectors: text_file(keys, vectors),
    "glove.txt": lambda keys, vectors: text_file(keys, vectors, header=False),
    "tabs.txt": lambda keys, vectors: text_file(keys, vectors, separator=b"\t"),
    "windows.txt": lambda keys, vectors: text_file(keys, vectors).replace(b"\n", b"\r\n"),
    "fasttext.vec": lambda keys, vectors: text_file(keys, vectors),
    "packed.txt.gz": lambda keys, vectors: gzip.compress(text_file(keys, vectors)),
    "newline.bin": lambda keys, vectors: binary_file(keys, vectors),
    "none.bin": lambda keys, vectors: binary_file(keys, vectors, newline=False),
    "packed.bin.gz": lambda keys, vectors: gzip.compress(binary_file(keys, vectors)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("converted")


@pytest.fixture(scope="module")
def plain(folder):
    """The files of the same rows that plain SQL makes, without and with keys that have spaces."""
    made = {}
    for spaced in (False, True):
        keys = KEYS + SPACED * spaced
        path = folder / f"plain{spaced}.magnitude"
        made[spaced] = mf.write_magnitude(path, keys, VECTORS[: len(keys)], subwords=True)
    return made


def converted(folder, content, name="words.txt", **options):
    """Convert the content of a file, and give what became of it."""
    (folder / name).write_bytes(content)
    (done,) = convert(folder / name, folder / f"{name}.magnitude", **options)
    return done


def units(vectors):
    return vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)


def sql(path):
    return closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY))


def facts(connection):
    """Give magnitude_format, and the order of its dimensions apart."""
    rows = connection.execute("SELECT key, value FROM magnitude_format ORDER BY rowid").fetchall()
    order = [value for key, value in rows if key == "entropy"]
    return [row for row in rows if row[0] != "entropy"], order


def subwords(connection):
    rows = connection.execute("SELECT docid, char_ngrams, num_ngrams FROM magnitude_subword")
    return [(docid, sorted(grams.split()), count) for docid, grams, count in rows]


def matches(connection, gram):
    """Give the rows with an n-gram, and how often they have it."""
    rows = connection.execute(
        "SELECT docid, offsets(magnitude_subword) FROM magnitude_subword WHERE char_ngrams MATCH ? "
        "ORDER BY docid",
        (f'"{gram}"',),
    )
    return [(docid, len(offsets.split()) // 4) for docid, offsets in rows]


def assert_same_database(path, other):
    """Compare a converted medium file with one made by SQL."""
    with sql(path) as ours, sql(other) as theirs:
        assert ours.pragma("integrity_check") == "ok"
        names = "SELECT rowid, key, typeof(magnitude) FROM magnitude ORDER BY rowid"
        keys = theirs.execute(names).fetchall()
        assert ours.execute(names).fetchall() == keys
        values = "SELECT * FROM magnitude ORDER BY rowid"
        found, expected = (
            np.array([row[1:] for row in connection.execute(values)], np.float64)
            for connection in (ours, theirs)
        )
        assert np.abs(found - expected)[:, :-1].max() <= 1  # of the last place
        np.testing.assert_allclose(found[:, -1], expected[:, -1], rtol=1e-12)

        told, order = facts(ours)
        assert told == facts(theirs)[0]
        assert sorted(order) == list(range(found.shape[1] - 1))
        best = f"dim_{order[0]}"
        for column, index in [("key", "magnitude_key_idx"), (best, f"magnitude_{best}_idx")]:
            by_index = f"SELECT rowid FROM magnitude INDEXED BY {index} ORDER BY {column}, rowid"
            by_itself = f"SELECT rowid FROM magnitude NOT INDEXED ORDER BY +{column}, rowid"
            assert ours.execute(by_index).fetchall() == ours.execute(by_itself).fetchall()
        lookup = "SELECT rowid FROM magnitude WHERE key = ? ORDER BY rowid"
        plan = ours.execute(f"EXPLAIN QUERY PLAN {lookup}", ("",)).fetchall()
        assert any("magnitude_key_idx" in step[-1] for step in plan)
        for _, key, _ in keys:
            rows = ours.execute(lookup, (key,)).fetchall()
            assert rows == theirs.execute(lookup, (key,)).fetchall() != []

        assert subwords(ours) == subwords(theirs)
        for gram in ["ba", "bab", mf.BOW + "ba", "kkkkkk", "日本語", "naï", "zz", "nothere"]:
            assert matches(ours, gram) == matches(theirs, gram)
        assert matches(ours, "kkkkkk")


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_becomes_what_sql_makes(tmp_path, plain, name):
    spaced = not name.removesuffix(".gz").endswith(".bin")
    keys = KEYS + SPACED * spaced
    vectors = VECTORS[: len(keys)]
    done = converted(tmp_path, KINDS[name](keys, vectors), name)
    assert done == Converted(tmp_path / f"{name}.magnitude", len(keys), DIM, 0)
    assert_same_database(done.path, plain[spaced])
    with Magnitude(done.path) as v, Magnitude(plain[spaced]) as other:
        first = [keys.index(key) for key in keys]
        np.testing.assert_allclose(v.query(keys), units(vectors)[first], rtol=0, atol=1.2e-7)
        np.testing.assert_allclose(v.query(UNKNOWN), other.query(UNKNOWN), rtol=0, atol=1e-6)
        assert [key for key, _ in v] == keys
    with Magnitude(done.path, normalized=False) as v:
        np.testing.assert_allclose(v.query(keys), vectors[first], rtol=1e-6, atol=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {name, done.path.name}


@pytest.mark.parametrize("kind", ["word2vec.txt", "none.bin"])
def test_keys_that_are_no_utf8_are_reported(tmp_path, kind):
    keys = [b"ok", b"\xff", b"b\xc3", "é".encode(), b"\xff"]
    done = converted(tmp_path, KINDS[kind](keys, VECTORS[:5]), kind)
    assert (done.rows, done.encoding_errors) == (5, 3)
    with Magnitude(done.path) as v:
        assert [key for key, _ in v] == ["ok", "\ufffd", "b\ufffd", "é", "\ufffd"]


def test_vectors_without_a_direction_are_random_steps_of_the_last_place(tmp_path):
    vectors = mf.random_vectors(40, 64, 3).astype(np.float64)
    lost = {3: 0.0, 7: np.nan, 9: np.inf, 20: 0.0}
    for row, value in lost.items():
        vectors[row, slice(None) if value == 0 else 5] = value
    keys = PLAIN[:40]
    done = converted(tmp_path, text_file(keys, vectors), precision=5)
    with sql(done.path) as connection:
        assert connection.pragma("integrity_check") == "ok"
        rows = [connection.execute("SELECT * FROM magnitude").fetchall()[row] for row in lost]
    assert all(set(row[1:-1]) == {-1, 1} for row in rows)
    assert [row[-1] for row in rows] == [0, None, np.inf, 0]
    assert rows[0][1:-1] != rows[3][1:-1]
    with Magnitude(done.path) as v:
        assert np.array_equal(np.abs(v.query(keys[3])), np.full(64, 1e-5, np.float32))
        kept = [row for row in range(40) if row not in lost]
        found = v.query([keys[row] for row in kept])
        np.testing.assert_allclose(found, units(vectors[kept]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("content", [b"0 3\n", b"1 3\nonly 1 2 3\n"])
@pytest.mark.parametrize("subword", [False, True])
def test_no_rows_or_one(tmp_path, content, subword):
    done = converted(tmp_path, content, subword=subword)
    rows = int(content[:1])
    assert (done.rows, done.dim) == (rows, 3)
    with sql(done.path) as connection:
        assert connection.pragma("integrity_check") == "ok"
        told = dict(facts(connection)[0])
        assert (told["size"], told["max_duplicate_keys"]) == (rows, rows)
    with Magnitude(done.path) as v:
        assert [key for key, _ in v] == ["only"][:rows]
        assert v.query("other").shape == (3,)


# How it is asked to


def test_precision(tmp_path):
    sizes = []
    for precision in (1, 3, 9):
        content = text_file(PLAIN, VECTORS[: len(PLAIN)])
        done = converted(tmp_path, content, f"{precision}.txt", precision=precision)
        with sql(done.path) as connection:
            assert dict(facts(connection)[0])["precision"] == precision
            assert connection.execute("SELECT max(abs(dim_0)) FROM magnitude").get <= 10**precision
        with Magnitude(done.path) as v:
            away = np.abs(v.query(PLAIN) - units(VECTORS[: len(PLAIN)])).max()
            assert away <= max(0.51 * 10.0**-precision, 1e-7)
            assert precision == 9 or away > 10.0 ** -(precision + 1)
        sizes.append(done.path.stat().st_size)
    assert sizes == sorted(set(sizes))


def test_a_light_file_has_no_ngrams(tmp_path):
    done = converted(tmp_path, text_file(PLAIN, VECTORS[: len(PLAIN)]), subword=False)
    with sql(done.path) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
        assert not [name for name in names if name.startswith("magnitude_subword")]
        told = dict(facts(connection)[0])
        assert [told[f"subword{part}"] for part in ("", "_start", "_end")] == [0, 0, 0]
    other = mf.write_magnitude(tmp_path / "plain", PLAIN, VECTORS[: len(PLAIN)])
    with Magnitude(done.path) as v, Magnitude(other) as theirs:
        np.testing.assert_allclose(v.query(UNKNOWN), theirs.query(UNKNOWN), rtol=0, atol=1e-6)


def test_the_window_of_ngrams(tmp_path):
    done = converted(tmp_path, text_file(["banana", "b"], VECTORS[:2]), ngrams=(2, 4))
    with sql(done.path) as connection:
        told = dict(facts(connection)[0])
        assert (told["subword_start"], told["subword_end"]) == (2, 4)
        grams = connection.execute("SELECT char_ngrams FROM magnitude_subword").fetchall()
    edge = mf.BOW
    assert set(grams[0][0].split()) == {
        f"{edge}b", "ba", "an", "na", f"a{edge}", f"{edge}ba", "ban", "ana", "nan", f"na{edge}",
        f"{edge}ban", "bana", "anan", "nana", f"ana{edge}",
    }  # fmt: skip
    assert set(grams[1][0].split()) == {f"{edge}b", f"b{edge}", f"{edge}b{edge}"}


@pytest.mark.parametrize("subword", [False, True])
def test_equal_inputs_give_equal_files(tmp_path, subword):
    files = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        vectors = VECTORS.copy()
        vectors[7] = 0
        content = text_file(KEYS + SPACED, vectors)
        files.append(converted(tmp_path / place, content, subword=subword).path.read_bytes())
        time.sleep(0.01)
    assert files[0] == files[1]


def test_a_heavy_file_finds_neighbours(tmp_path):
    needed.module("annoy", "-e '.[annoy]'")
    vectors = VECTORS[: len(PLAIN)]
    done = converted(tmp_path, text_file(PLAIN, vectors), approx=True, trees=7)
    with sql(done.path) as connection:
        assert connection.pragma("integrity_check") == "ok"
        told = dict(facts(connection)[0])
        assert (told["approx"], told["approx_trees"]) == (1, 7)
        assert connection.execute("SELECT trees FROM magnitude_approx").get == 7
    directions = units(vectors)
    with Magnitude(done.path) as v:
        for row in (0, 5, 599):
            found = v.most_similar_approx(PLAIN[row], topn=5, effort=1.0)
            assert PLAIN[row] not in dict(found)
            cosines = directions @ directions[row]
            for key, similarity in found:
                assert similarity == pytest.approx(cosines[PLAIN.index(key)], abs=1e-5)
        nearest = np.argsort(-(directions @ directions[5]))[1]
        assert v.most_similar_approx(PLAIN[5], topn=50)[0][0] == PLAIN[nearest]
    for content in (b"0 3\n", b"1 3\none 1 2 3\n"):
        done = converted(tmp_path, content, "few.txt", approx=True, force=True)
        with Magnitude(done.path) as v:
            found = v.most_similar_approx(np.ones(3))
            cosine = 6 / np.sqrt(3 * 14)
            assert found == [("one", pytest.approx(cosine, abs=1e-6))][: len(v)]
    with sql(done.path) as connection:
        assert dict(facts(connection)[0])["approx_trees"] == 50
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_folder(tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    (source / "sub.txt").mkdir(parents=True)
    files = {"a.txt": "word2vec.txt", "b.vec.gz": "packed.txt.gz", "C.BIN": "none.bin"}
    for name, kind in {**files, "notes.md": "none.bin", "d.hdf5.gz": "none.bin"}.items():
        (source / name).write_bytes(KINDS[kind](PLAIN[:9], VECTORS[:9]))
    done = convert(source, target)
    assert [one.path.name for one in done] == ["C.magnitude", "a.magnitude", "b.magnitude"]
    assert {path.name for path in target.iterdir()} == {one.path.name for one in done}
    for one in done:
        with Magnitude(one.path) as v:
            assert [key for key, _ in v] == PLAIN[:9]
    with pytest.raises(errors.ExistsError, match=r"C\.magnitude: exists"):
        convert(source, target)
    (source / "a.vec").write_bytes(b"a 1 2\nb 1 2\n")
    with pytest.raises(errors.ArgumentError, match=r"would both become a\.magnitude"):
        convert(source, target, force=True)


# What cannot be


BAD = {
    "short.txt": (b"2 3\na 1 2 3\nb 1 2\n", r"line 3: expected a key and 3 numbers, found 3 f"),
    "number.txt": (b"a 1 2\nb 1 2\nc 1 x\n", "line 3: expected a number as number 2 of 2"),
    "few.txt": (
        b"3 2\na 1 2\nb 1 2\n",
        "the header declares 3 rows of 2 numbers, but 2 rows follow",
    ),
    "many.txt": (
        b"1 2\na 1 2\nb 1 2\n",
        "the header declares 1 rows of 2 numbers, but 2 rows follow",
    ),
    "lie.txt": (
        b"9" * 18 + b" 2\n" + b"".join(b"k%d 1 2\n" % at for at in range(20_000)),
        "999,999,999,999,999,999 rows of 2 numbers, but 20,000 rows follow",
    ),
    "lie.bin": (b"9" * 18 + b" 2\n" + b"k 1234567" * 20_000, "but the file ends in it"),
    "cut.bin": (b"2 2\na " + bytes(8) + b"b " + bytes(7), "byte 14: expected row 2 of the 2"),
    "late.txt": (
        b"".join(b"k%d 1 2\n" % at for at in range(400_000)) + b"last 1 2 3 x\n",
        "line 400,001: expected a number as number 2 of 2, found 'x'",
    ),
    "empty.txt": (b"", "empty; expected lines"),
    "cut.txt.gz": (gzip.compress(b"a 1 2\n" * 9999)[:-20], "broken gzip"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_leaves_nothing(tmp_path, name):
    content, message = BAD[name]
    with pytest.raises(errors.FormatError, match=message):
        converted(tmp_path, content, name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    kept = tmp_path / f"{name}.magnitude"
    kept.write_bytes(b"kept")
    with pytest.raises(errors.FormatError, match=message):
        converted(tmp_path, content, name, force=True)
    assert kept.read_bytes() == b"kept"
    assert len(list(tmp_path.iterdir())) == 2


def test_an_output_that_exists(tmp_path):
    content = text_file(PLAIN[:9], VECTORS[:9])
    path = converted(tmp_path, content).path
    path.write_bytes(b"kept")
    with pytest.raises(errors.ExistsError, match=r"pass force=True \(--force\) to replace it"):
        converted(tmp_path, content)
    assert path.read_bytes() == b"kept"
    assert converted(tmp_path, content, force=True).rows == 9
    assert len(list(tmp_path.iterdir())) == 2
    for force in (False, True):
        with pytest.raises(errors.PathError, match="a directory; expected the path of the file"):
            convert(tmp_path / "words.txt", tmp_path, force=force)
    with pytest.raises(errors.PathError, match="there is no directory"):
        convert(tmp_path / "words.txt", tmp_path / "no" / "file")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": 0}, "precision=0: expected decimal places from 1 to 9"),
        ({"precision": 10}, "precision=10"),
        ({"ngrams": (4, 3)}, r"ngrams=\(4, 3\)"),
        ({"ngrams": (0, 3)}, r"ngrams=\(0, 3\)"),
        ({"ngrams": (3, 101)}, r"ngrams=\(3, 101\)"),
        ({"trees": 0}, "trees=0: expected at least one"),
        ({"vocab": "words.txt"}, "vocab is for ELMo models"),
    ],
)
def test_arguments_that_cannot_be(tmp_path, options, message):
    with pytest.raises(errors.ArgumentError, match=message):
        converted(tmp_path, b"a 1 2\nb 1 2\n", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["words.txt"]


def test_no_input(tmp_path):
    with pytest.raises(errors.PathError, match="no such file or directory"):
        convert(tmp_path / "none.txt", tmp_path / "out")
    (tmp_path / "notes.md").write_bytes(b"a")
    with pytest.raises(errors.PathError, match=r"no file in it ends in \.txt"):
        convert(tmp_path, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.md"]


# Large files: what they take, and what is left of them


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A text of 60 MB."""
    numbers = np.random.default_rng(0).integers(0, 9, (50, 200))
    tails = [b"".join(b" 0.%d" % number for number in row) for row in numbers.tolist()]
    lines = [b"word%d%s\n" % (at, tails[at % len(tails)]) for at in range(70_000)]
    path = tmp_path_factory.mktemp("large") / "large.txt"
    path.write_bytes(b"".join(lines))
    assert 50 << 20 < path.stat().st_size < 70 << 20
    return path


MEASURE = """
import re, sys
from pathlib import Path
from streamfile.tools.convert import convert
def peak():  # getrusage would count what the parent had before it became this process
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
convert(sys.argv[1], sys.argv[2])
before = peak()
convert(sys.argv[3], sys.argv[4])
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak")
def test_memory_does_not_grow_with_the_file(tmp_path, large):
    small = tmp_path / "small.txt"
    small.write_bytes(text_file(PLAIN, VECTORS[: len(PLAIN)]))
    done = child(MEASURE, small, tmp_path / "small", large, tmp_path / "large")
    out, err = done.communicate()
    assert done.returncode == 0, err
    assert int(out) < 200 << 10
    with Magnitude(tmp_path / "large") as v:
        assert (len(v), v.dim) == (70_000, 200)


CLI = "import sys; from streamfile.cli.main import main; sys.exit(main())"


def interrupted(path, folder, begun, *options):
    """Convert on the command line, and press Ctrl-C once something is there."""
    arguments = ["convert", "-i", path, "-o", folder / "out.magnitude", *options]
    run = child(CLI, *arguments, start_new_session=True)

    def there():
        assert run.poll() is None, run.communicate()
        return any(file.stat().st_size > 1 << 16 for file in folder.glob(begun))

    wait_until(there)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    return run, *run.communicate()


def test_ctrl_c_leaves_nothing(tmp_path, large):
    run, out, err = interrupted(large, tmp_path, ".*.tmp")
    assert (run.returncode, out) == (130, "")
    assert err == "streamfile: interrupted; nothing was left behind\n"
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_annoy_builds_leaves_nothing(tmp_path):
    needed.module("annoy", "-e '.[annoy]'")
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "words.txt"
    path.write_bytes(text_file(PLAIN, VECTORS[: len(PLAIN)]))
    (tmp_path / "out").mkdir()
    options = ("-s", "-a", "-t", "100000")
    run, out, err = interrupted(path, tmp_path / "out", ".annoy*/index", *options)
    assert (run.returncode, out) == (130, "")
    assert err == "streamfile: interrupted; nothing was left behind\n"
    assert list((tmp_path / "out").iterdir()) == []


LIMITED = """
import os, resource, sys
from streamfile.cli.main import main
limit, path, folder, *options = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
else:
    assert os.system(f"mount -t tmpfs -o size=4m none {folder}") == 0
code = main(["convert", "-i", path, "-o", folder + "/out.magnitude", *options])
print(os.listdir(folder))
sys.exit(code)
"""


def own_mounts():
    """Give a command that runs another one with mounts of its own, or skip the test."""
    prefix = ["unshare", "-rm"]
    without = ("no space left", "invalid argument")  # a kernel that has no namespaces to give
    probe = [*prefix, "sh", "-c", "mount -t tmpfs none /mnt"]
    needed.allowed(probe, (*needed.REFUSALS, *without))
    return prefix


@pytest.mark.parametrize("options", [("-s",), (), ("-s", "-a")])
@pytest.mark.parametrize("limit", [0, 2 << 20])
def test_no_space_left(tmp_path, limit, options):
    if "-a" in options:
        needed.module("annoy", "-e '.[annoy]'")
    rows = 10_000 if "-a" in options else 40_000
    path, folder = tmp_path / "words.txt", tmp_path / "out"
    folder.mkdir()
    # The vectors take less than the limit in heavy files: it is Annoy that meets it.
    line = b"%s\n" % b" ".join([b"%.3f"] * 25)
    numbers = np.random.default_rng(0).standard_normal((rows, 25))
    path.write_bytes(
        b"".join(b"w%d " % at + line % tuple(row) for at, row in enumerate(numbers.tolist()))
    )
    prefix = () if limit else own_mounts()
    run = child(LIMITED, limit, path, folder, "-p", "4", *options, prefix=prefix)
    out, err = run.communicate()
    assert (run.returncode, out) == (2, "[]\n"), err
    said = err.splitlines()[-1]
    assert said.startswith("streamfile: ")
    if not limit:
        assert said.endswith(f"No space left on device: '{folder}/out.magnitude'")
    assert list(folder.iterdir()) == []


def zero_the_last_page(data):
    data[-4096:] = bytes(4096)


def change_a_key_of_the_index(data):
    at = [found for found in range(len(data)) if data.startswith(PLAIN[9].encode(), found)]
    assert len(at) >= 2
    data[at[1]] ^= 0x40


def change_the_first_row(data):
    at = data.index(PLAIN[0].encode())
    data[at + len(PLAIN[0].encode()) + 1] ^= 1


@pytest.mark.parametrize(
    "damage", [zero_the_last_page, change_a_key_of_the_index, change_the_first_row]
)
def test_a_file_that_was_written_wrong_is_refused(tmp_path, monkeypatch, damage):
    def check_damaged(path, rows, samples):
        data = bytearray(path.read_bytes())
        damage(data)
        path.write_bytes(data)
        check(path, rows, samples)

    check = magnitude_file.check
    monkeypatch.setattr(magnitude_file, "check", check_damaged)
    with pytest.raises(errors.FormatError, match="the file that was written is damaged"):
        converted(tmp_path, text_file(PLAIN, VECTORS[: len(PLAIN)]))
    assert [path.name for path in tmp_path.iterdir()] == ["words.txt"]


def test_the_number_of_rows_is_checked(tmp_path):
    path = converted(tmp_path, text_file(PLAIN, VECTORS[: len(PLAIN)])).path
    magnitude_file.check(path, len(PLAIN), {})
    for rows in (len(PLAIN) - 1, len(PLAIN) + 1):
        with pytest.raises(errors.FormatError, match=f"has 600 rows instead of {rows}"):
            magnitude_file.check(path, rows, {})


# Streamed


ROWS = 8000
MANY = mf.random_words(ROWS, 2)
MANY_VECTORS = mf.random_vectors(ROWS, 20, 2)


@pytest.fixture(scope="module")
def many(folder):
    (folder / "many").mkdir()
    content = binary_file(MANY, MANY_VECTORS)
    return converted(folder / "many", content, "many.bin").path


@pytest.fixture
def server(many):
    with LoggingServer(many.parent) as running:
        yield running


@pytest.fixture
def cold(server, many):
    opened = []

    def open_():
        options = {"stream": True, "stream_options": {"cache_size": 0}}
        opened.append(Magnitude(server.url + many.name, **options))
        return opened[-1]

    yield open_
    for v in opened:
        v.close()


def interior_keys(path):
    """Find the keys in the interior pages of the index, which are in no leaf."""
    with sql(path) as connection:
        numbers = connection.execute(
            "SELECT pageno FROM dbstat WHERE name = 'magnitude_key_idx' AND pagetype = 'internal'"
        ).fetchall()
    data, keys = path.read_bytes(), []
    for (number,) in numbers:
        page = data[(number - 1) * 4096 : number * 4096]
        assert page[0] == 2
        for at in range(int.from_bytes(page[3:5], "big")):
            cell = int.from_bytes(page[12 + 2 * at : 14 + 2 * at], "big")
            size = page[cell + 4]
            keys.append(decode_record(page[cell + 5 : cell + 5 + size])[0].decode())
    return keys


def test_opening_and_asking_for_keys_takes_three_waves(server, cold, many):
    assert many.stat().st_size > 1 << 20
    directions, asked = units(MANY_VECTORS), 0
    for seed in range(5):
        v = cold()
        assert (v.stats.requests, v.stats.waves, len(v)) == (1, 1, ROWS)
        rows = random.Random(seed).sample(range(ROWS), 25)
        keys = [MANY[row] for row in rows]
        np.testing.assert_allclose(v.query(keys), directions[rows], rtol=0, atol=1.2e-7)
        assert v.stats.waves == 3
        asked += v.stats.requests
    server.requests(asked)


def test_every_key_is_found_streamed(cold, many):
    directions = units(MANY_VECTORS)
    v = cold()
    order = random.Random(0).sample(range(ROWS), ROWS)
    for begin in range(0, ROWS, 400):
        rows = order[begin : begin + 400]
        found = v.query([MANY[row] for row in rows])
        np.testing.assert_allclose(found, directions[rows], rtol=0, atol=1.2e-7)
    interior = interior_keys(many)
    assert len(interior) > 20
    v = cold()
    found = v.query(interior)
    expected = directions[[MANY.index(key) for key in interior]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1.2e-7)
    assert v.stats.waves == 3
    for key in interior[::9]:
        assert key in cold()


def test_unknown_words_are_those_of_the_local_file(cold, many):
    words = [*UNKNOWN, MANY[3] + "x", "z" + MANY[4], MANY[5].upper() + "s"]
    v = cold()
    with Magnitude(many) as local:
        for word in words:
            np.testing.assert_array_equal(v.query(word), local.query(word))


def test_the_front_is_in_the_first_request(many):
    with sql(many) as connection:
        pages = connection.execute(
            "SELECT max(pageno) FROM dbstat WHERE name IN "
            "('sqlite_schema', 'magnitude_format', 'magnitude_router', 'magnitude_subword_segdir')"
        ).get
        assert connection.execute("SELECT count(*) FROM magnitude_router").get == 1
        lengths = b"".join(
            row[0] for row in connection.execute("SELECT data FROM magnitude_key_lengths")
        )
        sizes = connection.execute("SELECT length(key) FROM magnitude ORDER BY rowid").fetchall()
    assert pages * 4096 <= 128 << 10
    assert list(lengths) == [min(size, 255) for (size,) in sizes]
    assert LocalPages(many).layout.page_size == 4096
