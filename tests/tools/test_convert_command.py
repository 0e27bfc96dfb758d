"""The command `streamfile convert`: its options, exit codes and messages."""

import builtins
import subprocess
import sys

import apsw
import magnitude_files as mf
import needed
import pytest
from vector_files import text_file

from streamfile import Magnitude
from streamfile.cli.main import main

KEYS = mf.random_words(50, 1)
CONTENT = text_file(KEYS, mf.random_vectors(50, 6, 1))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in" / "words.txt"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def convert(source, tmp_path, capsys):
    """Run the command, and give its exit code, what it prints and the facts of the file."""

    def convert_(*options, path=source, target=tmp_path / "out.magnitude"):
        code = main(["convert", "-i", str(path), "-o", str(target), *options])
        out, err = capsys.readouterr()
        return code, out, err

    convert_.target = tmp_path / "out.magnitude"
    return convert_


def told(path):
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    rows = connection.execute("SELECT key, value FROM magnitude_format").fetchall()
    connection.close()
    return {key: value for key, value in rows if key != "entropy"}


MEDIUM = {"subword": 1, "subword_start": 3, "subword_end": 6, "approx": 0, "precision": 7}
LIGHT = {"subword": 0, "subword_start": 0, "subword_end": 0}
HEAVY = {"approx": 1, "approx_trees": 50}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {}),
        (("-p", "4"), {"precision": 4}),
        (("--precision", "4"), {"precision": 4}),
        (("-s",), LIGHT),
        (("-w", "2,5"), {"subword_start": 2, "subword_end": 5}),
        (("-a",), HEAVY),
        (("-a", "-s"), LIGHT | HEAVY),
        (("-a", "-t", "3"), HEAVY | {"approx_trees": 3}),
        (("--flavour", "light"), LIGHT),
        (("--flavour", "medium"), {}),
        (("--flavour", "heavy", "--trees", "3"), HEAVY | {"approx_trees": 3}),
        (("--quiet",), {}),
    ],
    ids=" ".join,
)
def test_options(convert, options, expected):
    if "approx" in expected:
        needed.module("annoy", "-e '.[annoy]'")
    said = f"{convert.target}: 50 vectors of 6 dimensions\n"
    assert convert(*options) == (0, said, "")
    facts = told(convert.target)
    assert facts == facts | MEDIUM | expected
    with Magnitude(convert.target) as v:
        assert [key for key, _ in v] == KEYS


def test_keys_that_are_no_utf8_are_told(convert, source):
    source.write_bytes(b"a\xff 1 2\nb 3 4\n\xff 5 6\n")
    assert convert() == (
        0,
        f"{convert.target}: 3 vectors of 2 dimensions\n"
        "  2 keys were no UTF-8; U+FFFD replaces what is wrong\n",
        "",
    )


def test_a_folder(convert, source, tmp_path):
    (source.parent / "b.vec").write_bytes(b"1 2\nx 1 2\n")
    out = tmp_path / "many"
    said = f"{out}/b.magnitude: 1 vectors of 2 dimensions\n{out}/words.magnitude: 50 vectors of 6"
    assert convert(path=source.parent, target=out) == (0, said + " dimensions\n", "")
    assert sorted(path.name for path in out.iterdir()) == ["b.magnitude", "words.magnitude"]


def test_an_output_that_exists(convert):
    convert.target.write_bytes(b"kept")
    message = f"{convert.target}: exists; pass force=True (--force) to replace it, or another"
    assert convert() == (2, "", f"streamfile: {message} output path\n")
    assert convert.target.read_bytes() == b"kept"
    assert convert("--force")[0] == 0
    assert told(convert.target)["size"] == 50


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"2 2\na 1 2\nb 1\n", (), "words.txt: line 3: expected a key and 2 numbers, found 2"),
        (b"3 2\na 1 2\n", (), "line 1: the header declares 3 rows of 2 numbers, but 1 rows follow"),
        (CONTENT, ("-p", "0"), "precision=0: expected decimal places from 1 to 9"),
        (CONTENT, ("-w", "5,2"), "ngrams=(5, 2): expected the shortest and the longest"),
        (CONTENT, ("-t", "0"), "trees=0: expected at least one"),
        (CONTENT, ("-v", "vocab"), "vocab is for ELMo models (.hdf5), and "),
        (CONTENT, ("--flavour", "light", "-a"), "--flavour says what -s and -a say"),
        (CONTENT, ("--flavour", "medium", "-s"), "--flavour says what -s and -a say"),
    ],
)
def test_what_cannot_be_is_code_2_and_one_line(
    convert, source, tmp_path, content, options, message
):
    source.write_bytes(content)
    code, out, err = convert(*options)
    assert (code, out) == (2, "")
    assert err.startswith("streamfile: ")
    assert message in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_missing_extra(convert, tmp_path, monkeypatch):
    def no_annoy(name, *args, **options):
        if name == "annoy":
            raise ImportError
        return import_(name, *args, **options)

    import_ = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", no_annoy)
    code, out, err = convert("-a")
    assert (code, out) == (2, "")
    assert 'is made by Annoy: pip install "streamfile[annoy]"' in err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-w", "3"), "argument -w/--window: '3': expected two numbers such as 3,6"),
        (("-p", "x"), "argument -p/--precision: invalid int value: 'x'"),
        (("--flavour", "strong"), "argument --flavour: invalid choice: 'strong'"),
    ],
)
def test_arguments_that_are_no_command(convert, capsys, options, message):
    with pytest.raises(SystemExit) as left:
        convert(*options)
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_the_module_is_the_command(source, tmp_path):
    command = [sys.executable, "-m", "streamfile", "convert", "-i", source, "-o", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'out'}: 50 vectors of 6 dimensions\n"
    assert done.stderr == ""  # no progress where no terminal is
