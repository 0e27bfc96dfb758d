"""Files of word vectors, held against Python's own numbers, gensim and what was written."""

import gzip
import re
import tracemalloc
from unittest import mock

import needed
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernels import machine_code

from streamfile import FormatError
from streamfile.errors import PathError
from streamfile.inputs import base, binary, text
from streamfile.inputs.compiled_text import KERNEL, CompiledParser
from streamfile.inputs.decimals import MARGIN, parse_decimals
from streamfile.inputs.open import open_vectors

NUMBER = re.compile(rb"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf(inity)?)", re.IGNORECASE)
FORMATS = [
    "{!r}",
    "{:.6f}",
    "{:.4g}",
    "{:.18e}",
    "{:.9f}",
    "{:.16f}",
    "{:.17f}",
    "{:.0f}",
    "{:+.3f}",
]
WRITTEN = (
    st.builds(str.format, st.sampled_from(FORMATS), st.floats(-1e6, 1e6) | st.floats())
    | st.from_regex(r"-?[0-9]{1,2}\.[0-9]{1,20}", fullmatch=True)
    | st.from_regex(r"-?9\.00719925474[0-9]{4,6}", fullmatch=True)
    | st.sampled_from(
        ["-0.0", "0", "5.", ".5", "-.5", "1e5", "1E-400", "NaN", "-Infinity", "9" * 40]
    )
).map(str.encode)
KEYS = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=8)
PLAIN_KEYS = st.text("ab,é\u00a0\u2028\x0b\r", min_size=1, max_size=4).map(str.encode)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("inputs")


@pytest.fixture(scope="module")
def code(folder):
    """The machine code, compiled once."""
    return machine_code(KERNEL, folder)


@pytest.fixture(scope="module", params=["numpy", "compiled"], autouse=True)
def parser(request):
    """Which of both parses all text, however short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "LEAST_COMPILED", 0)
        function = request.getfixturevalue("code") if request.param == "compiled" else None
        patch.setattr(text, "compiled_by_default", lambda kernel: function)
        yield request.param


def read(path):
    """Give all keys and vectors, and the file."""
    file = open_vectors(path)
    batches = list(file.batches())
    file.close()
    keys = [key for batch in batches for key in batch.keys]
    vectors = [batch.vectors for batch in batches]
    return keys, np.concatenate([np.empty((0, file.dim)), *vectors]), file


def save(path, content):
    path.write_bytes(content)
    return path


def same(found, expected):
    """Tell whether numbers are equal to the last bit, the sign of zero too."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    both = np.isnan(found) & np.isnan(expected)
    return np.array_equal(
        np.where(both, 0, found).view("i8"), np.where(both, 0, expected).view("i8")
    )


def laid_out(numbers):
    """Place numbers in a text as `parse_decimals` takes them."""
    sizes = np.array([len(number) for number in numbers], np.int64)
    text = bytes(MARGIN) + b" ".join(numbers) + bytes(MARGIN)
    return text, np.cumsum(sizes + 1) - 1 + MARGIN, sizes


@given(st.lists(WRITTEN, min_size=1, max_size=40))
@example([b"9.007199254740993", b"9.007199254740992", b"0.9007199254740993"])
@example([b"-0.00000000", b"-0.000000000", b"0.0000000000000000", b"-9.9999999999999999"])
@settings(max_examples=300, deadline=None)
def test_numbers_are_those_of_python(numbers):
    values, wrong = parse_decimals(*laid_out(numbers))
    assert wrong == -1
    assert same(values, [float(number) for number in numbers])


@given(
    st.lists(WRITTEN, max_size=5),
    st.text("0123456789.-+eE_ \x0b\x0cnaif\0x\u0663", min_size=1, max_size=18)
    .filter(lambda text: not set(text) & set(" "))
    .map(str.encode),
    st.lists(WRITTEN, max_size=5),
)
@example([], b"1_0", [])
@example([b"1.5"], b"0.1\x0b", [b"2.5"])
@example([b"1.5"], b"0.1234:67", [b"2.5"])
@example([], b"/.5", [b"x"])
@settings(max_examples=300, deadline=None)
def test_what_is_no_number_is_found(before, field, after):
    numbers = [*before, field, *after]
    wrong = [at for at, number in enumerate(numbers) if not NUMBER.fullmatch(number)]
    assert parse_decimals(*laid_out(numbers))[1] == (wrong[0] if wrong else -1)


def test_every_byte_beside_a_digit_is_seen():
    for place in range(12):
        for byte in range(256):
            number = bytearray(b"0.1234567890")
            number[place] = byte
            expected = -1 if NUMBER.fullmatch(number) else 0
            assert parse_decimals(*laid_out([bytes(number)]))[1] == expected, number


def compile_parsed(code, numbers):
    """Give what the compiled parser makes of numbers that are far from the end of the text."""
    row = b" ".join(numbers) + b"\n"
    return CompiledParser(code, len(numbers)).parse(b"a " + row + b"b" * 20 + b"\t" + row, 2)


@given(st.lists(WRITTEN, min_size=1, max_size=40))
@example([b"9.007199254740993", b"9.007199254740992", b"0.9007199254740993"])
@example([b"-0.00000000", b"-0.000000000", b"0.0000000000000000", b"-9.9999999999999999"])
@settings(max_examples=300, deadline=None)
def test_numbers_compiled_are_those_of_python(code, numbers):
    keys, values = compile_parsed(code, numbers)
    assert keys == [b"a", b"b" * 20]
    assert same(values, [[float(number) for number in numbers]] * 2)


def test_every_byte_beside_a_digit_is_seen_by_the_compiled_parser(code):
    for number in (b"0.1234567890", b"-0.12345", b"0.12345678"):
        for place in range(len(number)):
            for byte in set(range(256)) - set(b" \t\n"):
                changed = bytearray(number)
                changed[place] = byte
                parsed = compile_parsed(code, [b"1.5", bytes(changed), b"2.5"])
                if NUMBER.fullmatch(changed):
                    assert same(parsed[1], [[1.5, float(changed), 2.5]] * 2)
                else:
                    assert parsed is None, changed


def test_usual_lines_leave_nothing_to_python(code):
    rows = np.random.default_rng(0).uniform(-9, 9, (50, 30))
    lines = [b"k%d " % at + b" ".join(b"%.6f" % x for x in row) for at, row in enumerate(rows)]
    text = b"\n".join(lines) + b"\n" + b"end" + 30 * b" 0.5" + b"\n"
    with mock.patch(
        "streamfile.inputs.compiled_text.read_each", return_value=([0.5] * 4, -1)
    ) as rest:
        keys, values = CompiledParser(code, 30).parse(text, 51)
    assert keys == [*(b"k%d" % at for at in range(50)), b"end"]
    assert same(values[:50], [[float(b"%.6f" % x) for x in row] for row in rows])
    assert rest.call_args.args == ([b"0.5"] * 4,)  # at the end of the text


@given(
    st.data(),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([b" ", b"\t"]),
    st.sampled_from([b"", b" ", b"\t "]),
    st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n \r\n"]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 60),
    st.integers(1, 60),
)
@settings(max_examples=300, deadline=None)
def test_text_as_written(
    folder, data, dim, header, separator, trailing, end, last_end, packed, part, batch
):
    first_keys = st.lists(PLAIN_KEYS, min_size=2, max_size=2)
    keys = data.draw(first_keys) + data.draw(st.lists(KEYS.map(str.encode), max_size=6))
    if header:
        keys = data.draw(st.permutations(keys))
        dim = max(dim, 2)
    rows = [data.draw(st.lists(WRITTEN, min_size=dim, max_size=dim)) for _ in keys]
    lines = [separator.join([key, *row]) + trailing for key, row in zip(keys, rows, strict=True)]
    if header:
        lines.insert(0, b"%d %d" % (len(keys), dim))
    content = end.join(lines) + (end if last_end else b"")
    path = save(folder / "written.txt", gzip.compress(content) if packed else content)
    with (
        mock.patch.object(text, "PART", part),
        mock.patch.object(text, "BATCH", batch),
    ):
        found, vectors, file = read(path)
    assert found == keys
    assert same(vectors, [[float(number) for number in row] for row in rows])
    assert (file.dim, file.declared) == (dim, len(keys) if header else None)
    assert (file.size, file.encoding_errors) == (path.stat().st_size, 0)


@given(
    st.lists(
        st.text(st.characters(exclude_characters=" \n", exclude_categories=["Cs"]), max_size=9)
    ),
    st.integers(1, 5),
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.booleans(),
    st.integers(1, 60),
)
@settings(max_examples=200, deadline=None)
def test_binary_as_written(folder, keys, dim, newlines, packed, batch):
    vectors = np.random.default_rng(0).standard_normal((len(keys), dim)).astype("<f4")
    vectors.view(np.uint8)[::2] = ord("\n")  # numbers that look like newlines and spaces
    vectors.view(np.uint8)[1::3] = ord(" ")
    rows = [
        key.encode() + b" " + vector.tobytes() + b"\n" * newlines[at % len(newlines)]
        for at, (key, vector) in enumerate(zip(keys, vectors, strict=True))
    ]
    content = b"%d %d\n" % vectors.shape + b"".join(rows)
    path = save(folder / "written.bin", gzip.compress(content) if packed else content)
    with mock.patch.object(binary, "BATCH", batch):
        found, floats, file = read(path)
    assert found == [key.encode() for key in keys]
    assert np.array_equal(floats, vectors)
    assert (file.dim, file.declared) == (dim, len(keys))


@pytest.mark.parametrize("name", ["gensim.txt", "gensim.bin", "gensim.vec.gz", "gensim.bin.gz"])
def test_files_of_gensim(folder, name):
    gensim = needed.module("gensim.models")
    model = gensim.KeyedVectors(20)
    words = [f"wörd{at}" for at in range(500)]
    model.add_vectors(words, np.random.default_rng(0).normal(0, 0.1, (500, 20)).astype("f4"))
    model.save_word2vec_format(str(folder / name), binary=".bin" in name)
    keys, vectors, file = read(folder / name)
    assert [key.decode() for key in keys] == model.index_to_key
    assert np.array_equal(vectors.astype(np.float32), model.vectors)
    assert file.declared == 500


def test_special_keys(folder):
    content = b"a 1 2\nb 1 2\n. . . 3 4\n 5 6\n  7 8\n1 2 3 4\nx\ty 9 10\nz \t 11 12\nb 13 14\n"
    keys, vectors, file = read(save(folder / "special.txt", content))
    assert keys == [b"a", b"b", b". . .", b"", b" ", b"1 2", b"x\ty", b"z \t", b"b"]
    assert vectors[3:].tolist() == [[5, 6], [7, 8], [3, 4], [9, 10], [11, 12], [13, 14]]
    assert file.declared is None


def test_keys_that_are_no_utf8_are_counted_and_replaced(folder):
    text = b"4 2\n\xff 1 2\nok 3 4\nb\xc3 5 6\n\xc3\xa9\xed\xa0\x80 7 8\n"
    keys, _, file = read(save(folder / "errors.txt", text))
    assert [key.decode() for key in keys] == ["\ufffd", "ok", "b\ufffd", "é" + 3 * "\ufffd"]
    assert file.encoding_errors == 3
    file = open_vectors(folder / "errors.txt")
    for _ in range(2):  # counted anew
        assert [len(list(file.batches())), file.encoding_errors] == [1, 3]
    file.close()
    binary = b"2 1\n\xc3 " + bytes(4) + b"\xa9 " + bytes(4)
    keys, _, file = read(save(folder / "errors.bin", binary))
    assert [key.decode() for key in keys] == ["\ufffd", "\ufffd"]
    assert file.encoding_errors == 2


ROW = bytes(8)
BAD_TEXT = {
    b"": "empty; expected lines of a key and numbers",
    b"\n \r\n\t\n": "empty; expected lines of a key and numbers",
    b"3 2\na 1 2\nb 1 2\n": "line 1: the header declares 3 rows of 2 numbers, but 2 rows follow",
    b"\n1 2\na 1 2\nb 1 2": "line 2: the header declares 1 rows of 2 numbers, but 2 rows follow",
    b"3 2\n": "line 1: the header declares 3 rows of 2 numbers, but 0 rows follow",
    b"2 2\na 1 2\n\n\nb 1\n": "line 5: expected a key and 2 numbers, found 2 fields: 'b 1'",
    b"2 2\na 1 2\n1 2\n": "line 3: expected a key and 2 numbers, found 2 fields: '1 2'",
    b"a 1 2\nb 1 2\nc 1 x\n": "line 3: expected a number as number 2 of 2, found 'x'",
    b"a 1 2\r\nb 1\r 2\r\n": r"line 2: expected a number as number 1 of 2, found '1\r'",
    b"a 1 2\nb 1 2\nc \xff 2\n": "line 3: expected a number as number 1 of 2, found '\ufffd'",
    b"a 1 2\nb 1 " + b"9" * 99 + b"_\n": f"found '{'9' * 40}'...",
    b"a b 1 2\n\nc 1 2\nd 1 2\n": "line 1: expected a header (the number of rows and the dimen",
    b"\n\na 1\nb 1 2\n": "or as many fields as in the next line, 3; found 2: 'a 1'",
    b"a\nb\n": "expected vectors of 1 to 30,000 dimensions, found 0",
    b"1 0\na 1 2\n": "expected vectors of 1 to 30,000 dimensions, found 0",
    b"1 30001\na 1 2\n": "expected vectors of 1 to 30,000 dimensions, found 30,001",
    b"-1 2\na 1 2\n": "line 1: expected a header",
    b"a 1 2\n" + b"b" * (17 << 20): "line 2: longer than 16 MiB",
    b"a" * (17 << 20): "line 1: longer than 16 MiB",
    b"\x1f\x8bno gzip": "broken gzip",
    gzip.compress(b"a 1 2\n" * 9999)[:-20]: "broken gzip",
}
BAD_BINARY = {
    b"": "byte 0: expected word2vec's header (the number of rows and the dimensions), found ''",
    b"\xba\x16\x4f\x2f" + bytes(99): "of fastText's models convert the .vec file",
    b"2 x\n": "byte 0: expected word2vec's header",
    b"2 2": "byte 0: expected word2vec's header",
    b"1 0\n": "expected vectors of 1 to 30,000 dimensions, found 0",
    b"1 99999999999999\n": "expected vectors of 1 to 30,000 dimensions",
    b"2 2\na " + ROW + b"\nb " + ROW[1:]: "byte 14: expected row 2 of the 2 of 2 numbers that the "
    "header declares, but the file ends in it",
    b"999999999999999 2\na " + ROW: "but the file ends in it",
    b"1 2\na " + ROW + b"b " + ROW: "byte 14: more than the 1 rows of 2 numbers that the header",
    b"1 2\na " + ROW + b"\n\n": "byte 15: more than the 1 rows of 2 numbers that the header",
    b"0 2\na": "byte 4: more than the 0 rows",
    b"1 2\n" + b"a" * (19 << 20): "byte 4: expected row 1 of the 1 of 2 numbers that the header "
    "declares, but no space behind its key",
}


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [("txt", *pair) for pair in BAD_TEXT.items()] + [("bin", *pair) for pair in BAD_BINARY.items()],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_bad_files(folder, suffix, content, message):
    path = save(folder / f"bad.{suffix}", content)
    with pytest.raises(FormatError, match=re.escape(message)) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 400 + len(str(path))


def test_a_line_number_beyond_the_first_part(folder):
    content = b"".join(b"key%d 1.5 -2.5\n\n" % at for at in range(50_000)) + b"last 1.5 two\n"
    with pytest.raises(FormatError, match=r"line 100,001: .* found 'two'"):
        read(save(folder / "long.txt", content))


@pytest.mark.parametrize(
    ("suffix", "content"), [("txt", b"0 3\n"), ("txt", b"0 3"), ("bin", b"0 3\n")]
)
def test_no_rows(folder, suffix, content):
    keys, _, file = read(save(folder / f"none.{suffix}", content))
    assert (keys, file.dim, file.declared) == ([], 3, 0)


def test_a_single_line(folder):
    keys, vectors, file = read(save(folder / "single.txt", b"one 1 2 3"))
    assert (keys, vectors.tolist(), file.declared) == ([b"one"], [[1, 2, 3]], None)


def test_no_such_file(folder):
    with pytest.raises(PathError, match="there is no such file"):
        open_vectors(folder / "missing.txt")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", ["txt", "bin"])
def test_memory_is_bounded_and_the_position_tells_how_far(folder, suffix, packed):
    rows = 40_000
    if suffix == "txt":
        numbers = np.random.default_rng(0).integers(100_000, 1_000_000, (1000, 60))
        tails = [b"".join(b" -0.%d" % number for number in some) for some in numbers.tolist()]
        content = b"".join(b"key%d%s\n" % (at, tails[at % 1000]) for at in range(rows))
    else:
        content = b"%d 150\n" % rows + b"".join(b"%d %s" % (at, bytes(600)) for at in range(rows))
    path = save(folder / f"large.{suffix}", gzip.compress(content, 1) if packed else content)
    assert len(content) > 10 * base.BATCH
    del content
    tracemalloc.start()
    try:
        file = open_vectors(path)
        read_rows, positions = 0, []
        for batch in file.batches():
            read_rows += len(batch.keys)
            positions.append(batch.position)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    file.close()
    assert read_rows == rows
    assert len(positions) >= 10
    assert positions == sorted(positions)
    assert positions[0] < file.size / 2
    assert positions[-1] == file.size
    assert peak < 8 * base.BATCH
