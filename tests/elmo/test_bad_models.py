"""ELMo models that files hold and that cannot be used."""

import json
import subprocess
import sys

import elmo_files as ef
import h5py
import magnitude_files as mf
import needed
import pytest
from sentences import DIM, KEYS, SENTENCE

from streamfile import Magnitude
from streamfile.errors import ArgumentError, FormatError

needed.module("torch")

pytestmark = pytest.mark.usefixtures("cache")
UNUSABLE = r"-\d+: its ELMo model cannot be used; get the file again"


@pytest.fixture
def bad(tmp_path, folder, files, opened_file, request):
    """Open a file that is written for one test, by what writes it."""

    def open_it(write, **options):
        path = folder / f"{request.node.originalname}-{len(files)}"
        write(path)
        files[path.name] = path
        return opened_file(path.name, **options)

    return open_it


@pytest.mark.parametrize("dim", [DIM - 6, DIM + 1, 3 * DIM])
def test_a_model_of_other_dimensions(bad, meta, dim):
    v = bad(
        lambda path: mf.write_magnitude(
            path, KEYS, mf.random_vectors(len(KEYS), dim, 1), elmo=True, meta=meta
        )
    )
    for ask in (lambda: v.query(SENTENCE), lambda: v.unroll(v.query("cat"))):
        with pytest.raises(FormatError, match=f"{DIM} dimensions, the file says {dim}"):
            ask()
    assert v.query("cat").shape == (dim,)


@pytest.mark.parametrize(
    "options",
    [b"", b"{", b"[]", b"{}", b"\xff\xfe", json.dumps(ef.options(projection_dim=9)).encode()],
)
def test_options_that_are_none(bad, meta, elmo_vectors, options):
    v = bad(
        lambda path: mf.write_magnitude(
            path, KEYS, elmo_vectors, elmo=True, meta=(meta[0], options)
        )
    )
    for _ in range(2):
        with pytest.raises(FormatError, match=UNUSABLE):
            v.query(SENTENCE)
    assert v.query("cat").shape == (DIM,)


@pytest.mark.parametrize(
    "weights",
    [lambda whole: b"not HDF5" * 100, lambda whole: whole[:-3000], lambda whole: whole[:100]],
    ids=["other", "truncated", "short"],
)
def test_weights_that_are_none(bad, meta, elmo_vectors, weights):
    model = weights(meta[0]), meta[1]
    v = bad(lambda path: mf.write_magnitude(path, KEYS, elmo_vectors, elmo=True, meta=model))
    with pytest.raises(FormatError, match=UNUSABLE):
        v.query(SENTENCE)


def test_the_options_of_another_model(bad, meta, elmo_vectors):
    model = meta[0], json.dumps(ef.options(dim=32)).encode()
    v = bad(lambda path: mf.write_magnitude(path, KEYS, elmo_vectors, elmo=True, meta=model))
    with pytest.raises(FormatError, match=UNUSABLE + r".*W_0 must be of shape \(16, 128\)"):
        v.query(SENTENCE)


def test_a_missing_dataset(bad, model, elmo_vectors, tmp_path):
    options, weights = model
    changed = tmp_path / "weights"
    changed.write_bytes(weights.read_bytes())
    with h5py.File(changed, "a") as file:
        del file["CNN_proj/W_proj"]
    meta = changed.read_bytes(), options.read_bytes()
    v = bad(lambda path: mf.write_magnitude(path, KEYS, elmo_vectors, elmo=True, meta=meta))
    with pytest.raises(FormatError, match=UNUSABLE + ".*dataset CNN_proj/W_proj is missing"):
        v.query(SENTENCE)


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame[:-2000],
        lambda frame: frame[:15] + b"\xff\xff\xff\x7f" + frame[19:],  # a block's length
        lambda frame: b"no frame" + frame[8:],
        lambda frame: b"",
    ],
    ids=["truncated", "corrupt", "other", "empty"],
)
def test_a_damaged_frame(bad, meta, elmo_vectors, change):
    def write(path):
        mf.write_magnitude(path, KEYS, elmo_vectors, elmo=True, meta=meta)
        ef.changed_frame(path, change)

    v = bad(write)
    for _ in range(2):
        with pytest.raises(FormatError, match="magnitude_meta_1"):
            v.query(SENTENCE)
    assert v.query("cat").shape == (DIM,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "one of float32, bfloat16, not 'int8'"),
        ({"backend": "keras"}, "one of torch, allennlp, not 'keras'"),
        ({"backend": "allennlp", "precision": "bfloat16"}, "float32 only, not bfloat16"),
        ({"devices": 0}, r"the numbers of GPUs, such as \[0\].* not 0"),
        ({"devices": "cuda"}, "not 'cuda'"),
    ],
)
def test_what_a_model_cannot_be_computed_with_is_refused_at_opening(files, options, message):
    with pytest.raises(ArgumentError, match=message):
        Magnitude(files["words"], **options)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from streamfile import Magnitude
with Magnitude(sys.argv[1], stream=True) as v:
    assert v.query("cat").shape and "zebra" not in v
    before = v.stats.bytes
    try:
        v.query(["the", "cat"])
    except ImportError as failure:
        print(v.stats.bytes - before, failure)
"""


def test_torch_is_not_installed(server):
    said = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, server.url + "words"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert said.startswith("0 ")
    assert 'pip install "streamfile[elmo]"' in said
