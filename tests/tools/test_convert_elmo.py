"""ELMo models converted to files, held against the bare model."""

import shutil
from contextlib import closing

import apsw
import elmo_files as ef
import lz4.frame
import magnitude_files as mf
import needed
import numpy as np
import pytest
from serving import LoggingServer
from wide_sqlite import why_no_wide_sqlite, wide_sqlite

from streamfile import Magnitude, errors
from streamfile.elmo import Encoder
from streamfile.tools.convert import Converted, convert

needed.module("torch")

WORDS = ["the", "cat", "sat", "The", "naïve", "日本語", "new york", " x ", "", "cat", "k" * 70, *(
    word + "x" for word in mf.random_words(40, 1)
)]  # fmt: skip
SENTENCE = ["the", "quick", "cat", "sat"]
WIDE = 3072


def write_model(folder, name="small_{}", **options):
    """Write a model under the names that a converter looks for."""
    made = ef.write_model(folder / "made", ef.options(**options))
    paths = [folder / f"{name.format(part)}" for part in ("options.json", "weights.hdf5")]
    for path, target in zip(made, paths, strict=True):
        path.replace(target)
    return paths


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("wide"), projection_dim=WIDE // 6)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


def each(model, words):
    """Give what the model makes of each word in a sentence of its own."""
    return np.stack([vectors[0] for vectors in Encoder(*model).embed([word] for word in words)])


def ways(path):
    """Open a file from the disk and from a server."""
    with Magnitude(path) as v:
        yield v
    with (
        LoggingServer(path.parent) as server,
        Magnitude(server.url + path.name, stream=True) as v,
    ):
        yield v


def assert_near(found, expected, precision=7):
    """Compare vectors that are stored to so many places of their unit vectors."""
    lengths = np.linalg.norm(expected, axis=-1, keepdims=True)
    away = np.abs(found.astype(np.float64) - expected) / lengths
    assert away.max() <= 10.0**-precision + 2e-7
    assert found.dtype == np.float32


def test_a_model_without_a_vocabulary(tmp_path, small):
    target = tmp_path / "model.magnitude"
    (done,) = convert(small[1], target)
    assert done == Converted(target, 0, 48, 0)
    with closing(apsw.Connection(str(target), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        assert connection.pragma("integrity_check") == "ok"
        told = connection.execute("SELECT key, value FROM magnitude_format")
        told = {key: value for key, value in told if key != "entropy"}
        assert (told["elmo"], told["size"], told["dim"]) == (1, 0, 48)
        for number, file in ((1, small[1]), (2, small[0])):
            sql = f"SELECT meta_file FROM magnitude_meta_{number} ORDER BY rowid"
            frame = b"".join(row[0] for row in connection.execute(sql))
            assert lz4.frame.decompress(frame) == file.read_bytes()
    expected = next(iter(Encoder(*small).embed([SENTENCE])))
    for v in ways(target):
        assert (len(v), v.dim) == (0, 48)
        np.testing.assert_allclose(v.query(SENTENCE), expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(v.query("dog"), each(small, ["dog"])[0], rtol=0, atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"model.magnitude"}


@pytest.mark.parametrize("kind", ["text", "magnitude"])
def test_a_model_with_a_vocabulary(tmp_path, small, kind):
    vocab = tmp_path / f"vocab.{kind}"
    if kind == "text":
        vocab.write_bytes(
            "".join(word + "\n" for word in WORDS).encode().replace(b"sat\n", b"sat\r\n")
        )
    else:
        mf.write_magnitude(vocab, WORDS, mf.random_vectors(len(WORDS), 4, 1))
    (done,) = convert(small[1], tmp_path / "words.magnitude", vocab=vocab, precision=5)
    assert (done.rows, done.dim) == (len(WORDS), 48)
    expected = each(small, WORDS)
    with closing(apsw.Connection(str(done.path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        assert connection.pragma("integrity_check") == "ok"
        assert connection.execute("SELECT count(*) FROM magnitude_subword").get == len(WORDS)
    for v in ways(done.path):
        assert [key for key, _ in v[: len(WORDS)]] == WORDS
        assert_near(mf.by_themselves(v, WORDS), expected, precision=5)
        away = mf.by_themselves(v, WORDS) - expected
        assert np.abs(away).max() > 1e-7  # the rows that are stored, not what the model gives
        np.testing.assert_allclose(v.query("dog"), each(small, ["dog"])[0], rtol=0, atol=1e-5)
        in_context = next(iter(Encoder(*small).embed([SENTENCE])))
        np.testing.assert_allclose(v.query(SENTENCE), in_context, rtol=0, atol=1e-5)


def test_more_words_than_are_embedded_at_once(tmp_path, small, monkeypatch):
    monkeypatch.setattr("streamfile.tools.convert_elmo.WORDS", 7)
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(WORDS), encoding="utf-8")
    (done,) = convert(small[1], tmp_path / "words.magnitude", vocab=vocab, subword=False)
    with Magnitude(done.path) as v:
        assert len(v) == len(WORDS)
        assert_near(mf.by_themselves(v, WORDS), each(small, WORDS))


def test_a_wide_model(tmp_path, wide):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("".join(word + "\n" for word in WORDS), encoding="utf-8")
    (done,) = convert(wide[1], tmp_path / "wide.magnitude", vocab=vocab)
    assert (done.rows, done.dim) == (len(WORDS), WIDE)
    expected = each(wide, WORDS)
    for v in ways(done.path):
        assert (len(v), v.dim) == (len(WORDS), WIDE)
        assert_near(mf.by_themselves(v, WORDS), expected)
        np.testing.assert_allclose(v.query("dog"), each(wide, ["dog"])[0], rtol=0, atol=1e-5)
    if not (sqlite := wide_sqlite()):
        pytest.skip(why_no_wide_sqlite())
    check = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('{}').fetchone())"
    assert sqlite.run(check.format("PRAGMA integrity_check"), done.path) == "ok\n"
    rows = sqlite.rows(done.path, keys=WORDS)
    assert rows.rowids.tolist() == [WORDS.index(word) + 1 for word in WORDS]
    np.testing.assert_allclose(
        rows.dims * rows.magnitudes[:, None] / 10**7, expected, rtol=0, atol=1e-5
    )


def test_a_folder_with_a_model(tmp_path, small):
    source = tmp_path / "in"
    source.mkdir()
    for path in small:
        shutil.copy(path, source)
    shutil.copy(small[1], source / "other.hdf5")
    shutil.copy(small[0], source / "other.json")
    done = convert(source, tmp_path / "out")
    names = ["other.magnitude", "small_weights.magnitude"]
    assert [one.path.name for one in done] == names
    for one in done:
        with Magnitude(one.path) as v:
            assert v.query(SENTENCE).shape == (4, 48)


def bad_inputs(folder, small):
    """Give arguments that cannot be converted, and what is said of them."""
    options, weights = small
    for name in ("alone.hdf5", "alone_weights.hdf5", "unlike.hdf5", "text.hdf5", "good.hdf5"):
        shutil.copy(weights, folder / name)
    shutil.copy(options, folder / "good.json")
    shutil.copy(options, folder / "text.json")
    (folder / "text.hdf5").write_bytes(b"no weights")
    (folder / "unlike.json").write_text(options.read_text().replace('"dim": 24', '"dim": 25'))
    (folder / "latin.txt").write_bytes(b"the\n" * 5001 + b"\xe9\n")
    yield "alone.hdf5", None, errors.PathError, r"the model's options beside it, in .*alone\.json"
    yield "alone_weights.hdf5", None, errors.PathError, r"beside it, in .*alone_options\.json"
    yield "unlike.hdf5", None, errors.FormatError, "unlike"
    yield "text.hdf5", None, errors.FormatError, "text"
    yield "good.hdf5", "none.txt", errors.PathError, "no such file: expected keys"
    yield "good.hdf5", "latin.txt", errors.FormatError, r"latin\.txt: line 5,002: expected a key in"


def test_bad_input_leaves_nothing(tmp_path, small):
    (tmp_path / "out").mkdir()
    for name, vocab, kind, message in bad_inputs(tmp_path, small):
        vocab = vocab and tmp_path / vocab
        with pytest.raises(kind, match=message):
            convert(tmp_path / name, tmp_path / "out" / "file", vocab=vocab)
        assert list((tmp_path / "out").iterdir()) == []
