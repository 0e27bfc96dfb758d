"""ELMo's numbers: a plain numpy model, AllenNLP's own fixture, and AllenNLP itself."""

import concurrent.futures
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

import allennlp_stubs
import building
import elmo_files
import h5py
import needed
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import PATIENCE

from streamfile import ArgumentError, FormatError, PathError
from streamfile.elmo import (
    Encoder,
    batches,
    character_layer,
    lstm,
    lstm_steps,
    matrix_product,
    model,
)

ROOT = Path(__file__).parents[2]
KEPT = Path(tempfile.gettempdir()) / f"streamfile-tests-{os.getuid()}"
NEAR = 1e-5
LSTM = "RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell"

SENTENCES = [
    ["The", "cat", "sat", "on", "the", "mat", "."],
    ["naïve", "Straßenbahn", "ÉCOLE", "İstanbul"],
    ["日本語テキスト", "を", "読む"],
    ["x" * 70, "word"],
    ["é" * 30, "\U0001f600" * 13],
    ["a"],
    ["<S>", "word", "</S>"],
    ["</S>"],
    ["<S"],
    ["", "empty", ""],
    ["x" * 47, "x" * 48, "x" * 49],
    ["\u00e9", "e\u0301"],
    ["a", "a", "a", "a", "a"],
    ["1,234.5", "--", "''", "$"],
    ["pneumonoultramicroscopicsilicovolcanoconiosis"],
    ["\x00", "\t", "\x7f", "\ud800"],
    ["the"] * 30,
    ["קר", "בחוץ"],
    ["New", "York", "City"],
    ["end"],
]


def plain_elmo(options, weights, sentence):
    """The model in numpy: a token and a step at a time, in float64."""
    lstm, cnn = options["lstm"], options["char_cnn"]
    most, size, dim = cnn["max_characters_per_token"], lstm["projection_dim"], lstm["dim"]
    weights = {name: array.astype(np.float64) for name, array in weights.items()}

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def clip(x, limit):
        return np.clip(x, -limit, limit) if limit else x

    def layer_0(token):
        special = {"<S>": [256], "</S>": [257]}
        ids = special.get(token) or list(token.encode("utf-8", "ignore")[: most - 2])
        ids = [258, *ids, 259]
        x = weights["char_embed"][ids + [260] * (most - len(ids))]
        found = []
        for at, (width, _) in enumerate(cnn["filters"]):
            windows = np.stack([x[begin : begin + width] for begin in range(most - width + 1)])
            values = np.einsum("twc,wcn->tn", windows, weights[f"CNN/W_cnn_{at}"][0])
            values = values.max(axis=0) + weights[f"CNN/b_cnn_{at}"]
            found.append(np.maximum(values, 0) if cnn["activation"] == "relu" else np.tanh(values))
        x = np.concatenate(found)
        for at in range(cnn["n_highway"]):
            layer = {part: weights[f"CNN_high_{at}/{part}"] for part in PARTS}
            carry = sigmoid(x @ layer["W_carry"] + layer["b_carry"])
            new = np.maximum(x @ layer["W_transform"] + layer["b_transform"], 0)
            x = carry * new + (1 - carry) * x
        return x @ weights["CNN_proj/W_proj"] + weights["CNN_proj/b_proj"]

    tokens = np.stack([layer_0(token) for token in ["<S>", *sentence, "</S>"]])
    layers = [[tokens, tokens]]
    for layer in range(lstm["n_layers"]):
        outputs = []
        for direction in range(2):
            folder = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
            below = layers[-1][direction][:: -1 if direction else 1]
            h, c, found = np.zeros(size), np.zeros(dim), []
            for x in below:
                gates = np.concatenate([x, h]) @ weights[f"{folder}/W_0"] + weights[f"{folder}/B"]
                i, m, f, o = gates.reshape(4, dim)
                c = clip(sigmoid(i) * np.tanh(m) + sigmoid(f + 1) * c, lstm["cell_clip"])
                h = clip((sigmoid(o) * np.tanh(c)) @ weights[f"{folder}/W_P_0"], lstm["proj_clip"])
                found.append(h + x if layer and lstm["use_skip_connections"] else h)
            outputs.append(np.stack(found)[:: -1 if direction else 1])
        layers.append(outputs)
    return np.concatenate([np.concatenate(pair, axis=1) for pair in layers], axis=1)[1:-1]


PARTS = ("W_carry", "b_carry", "W_transform", "b_transform")


def read(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def embed(encoder, sentences):
    return list(encoder.embed(sentences))


def furthest(found, expected):
    assert [array.shape for array in found] == [array.shape for array in expected]
    return max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True) if a.size)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return elmo_files.write_model(tmp_path_factory.mktemp("elmo"))


@pytest.fixture(scope="module")
def encoder(files):
    return Encoder(*files)


@pytest.fixture(scope="module")
def expected(encoder):
    return embed(encoder, SENTENCES)


# The numbers


@pytest.fixture(params=["as installed", "all packed", "without oneDNN", "not compiled"])
def products(request, monkeypatch):
    if request.param == "all packed":
        monkeypatch.setattr(matrix_product, "LEAST_BYTES", 0)
    if request.param == "without oneDNN":
        monkeypatch.setattr(matrix_product, "ONEDNN", False)
    if request.param == "not compiled":
        monkeypatch.setattr(lstm, "steps", lstm_steps._steps)


def test_the_numbers_are_those_of_a_plain_model(products, files):
    weights = read(files[1])
    expected = [plain_elmo(elmo_files.SMALL, weights, sentence) for sentence in SENTENCES]
    found = embed(Encoder(*files), SENTENCES)
    assert furthest(found, expected) <= NEAR
    assert {array.dtype for array in found} == {np.dtype(np.float32)}


clips = st.sampled_from([None, 0, 0.05, 0.3, 3])
models = st.builds(
    elmo_files.options,
    dim=st.integers(1, 9),
    projection_dim=st.integers(1, 5),
    n_layers=st.integers(1, 4),
    cell_clip=clips,
    proj_clip=clips,
    use_skip_connections=st.booleans(),
    activation=st.sampled_from(["relu", "tanh"]),
    filters=st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 5)).map(list), min_size=1, max_size=4
    ),
    max_characters_per_token=st.integers(6, 20),
    n_highway=st.integers(0, 3),
    n_characters=st.sampled_from([261, 262]),
)
tokens = st.text(max_size=25) | st.sampled_from(["<S>", "</S>", "the", "", "x" * 18])


@settings(max_examples=60, deadline=None)
@given(models, st.lists(st.lists(tokens, min_size=1, max_size=6), min_size=1, max_size=10))
def test_any_model_gives_the_numbers_of_a_plain_one(options, sentences):
    with tempfile.TemporaryDirectory() as folder:
        paths = elmo_files.write_model(Path(folder), options, scale=2.0)
        weights = read(paths[1])
        found = embed(Encoder(*paths), sentences)
    expected = [plain_elmo(options, weights, sentence) for sentence in sentences]
    assert furthest(found, expected) <= NEAR


def download(folder):
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d"]
    building.run([*pip, folder, "allennlp==0.9.0"])
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def fixture(tmp_path_factory):
    """The folder of AllenNLP's ELMo fixture."""
    needed.module("pip")
    inside = "allennlp/tests/fixtures/elmo/"
    folder = tmp_path_factory.mktemp("fixture")
    with zipfile.ZipFile(building.once(KEPT / "allennlp-0.9.0.whl", download)) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(inside)])
    return folder / inside


def test_allennlps_fixture_whose_states_go_on(fixture):
    encoder = Encoder(fixture / "options.json", fixture / "lm_weights.hdf5")
    texts = json.loads((fixture / "sentences.json").read_text())
    with (
        h5py.File(fixture / "lm_embeddings_0.hdf5") as first,
        h5py.File(fixture / "lm_embeddings_1.hdf5") as second,
        h5py.File(fixture / "lm_embeddings_2.hdf5") as third,
    ):
        states, worst, stateless = None, 0, 0
        for at in range(10):
            sentences = [text[at].split() for text in texts]
            found, states = encoder._model.encode_on(sentences, states)
            fresh = embed(encoder, sentences)
            for vectors, again, file in zip(found, fresh, (first, second, third), strict=True):
                top = file[str(at)][()].transpose(1, 0, 2).reshape(len(vectors), -1)
                worst = max(worst, np.abs(vectors[:, -top.shape[1] :] - top).max())
                stateless = max(stateless, np.abs(again[:, -top.shape[1] :] - top).max())
    assert worst <= 2e-6
    assert stateless > 1e-3  # else nothing went on


def test_layer_0_of_allennlps_fixture(fixture):
    encoder = Encoder(fixture / "options.json", fixture / "lm_weights.hdf5")
    words = (fixture / "vocab_test.txt").read_text().split()
    with h5py.File(fixture / "elmo_token_embeddings.hdf5") as file:
        expected = file["embedding"][()]
    found = np.concatenate(embed(encoder, [[word] for word in words]))[:, :16]
    assert np.abs(found - expected[-len(found) :]).max() <= 2e-6


CONFORMANCE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
import allennlp_stubs
allennlp_stubs.use(sys.argv[1])
from streamfile.elmo import Encoder
sentences = json.load(sys.stdin)
ours, other = (Encoder(*sys.argv[2:], backend=backend) for backend in ("torch", "allennlp"))
found, expected = (list(encoder.embed(sentences)) for encoder in (ours, other))
again = list(other.embed(sentences))
assert all(np.array_equal(a, b) for a, b in zip(expected, again, strict=True))
print(max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True)))
print(min(np.abs(a).mean() for a in expected))
"""


@pytest.fixture(scope="session")
def allennlp():
    needed.module("pip")
    return allennlp_stubs.install(KEPT / f"allennlp-{allennlp_stubs.VERSION}")


@pytest.mark.parametrize(
    "options",
    [
        elmo_files.options(),
        elmo_files.options(n_layers=3, n_highway=2, activation="tanh", cell_clip=None),
        elmo_files.options(cell_clip=0.1, proj_clip=0.05),
        elmo_files.published(4096, 512, 2),
    ],
    ids=["small", "deep", "clipped", "original"],
)
def test_allennlp_itself(allennlp, options):
    with tempfile.TemporaryDirectory() as folder:
        paths = elmo_files.write_model(Path(folder), options, scale=1.5)
        done = subprocess.run(
            [sys.executable, "-c", CONFORMANCE, allennlp, *paths],
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"},
            input=json.dumps(SENTENCES),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    apart, size = map(float, done.stdout.split())
    assert apart <= NEAR
    assert size > 0.01


def test_the_steps_run_without_pythons_lock():
    assert isinstance(lstm_steps.steps, torch.jit.ScriptFunction)


# Batches


def test_layers_and_dimensions(encoder, expected):
    assert (encoder.layers, encoder.dim) == (3, 16)
    assert [array.shape for array in expected] == [(len(s), 48) for s in SENTENCES]
    for array in expected:
        np.testing.assert_array_equal(array[:, :8], array[:, 8:16])


def test_vectors_do_not_depend_on_the_batch(encoder, expected):
    for at in np.random.default_rng(0).permutation(len(SENTENCES)):
        assert furthest(embed(encoder, [SENTENCES[at]]), [expected[at]]) <= NEAR
    assert furthest(embed(encoder, SENTENCES[::-1]), expected[::-1]) <= NEAR


def test_equal_calls_give_equal_bits(files):
    encoder = Encoder(*files)
    first = embed(encoder, SENTENCES)
    embed(encoder, [["other", "words"]])
    for found in (embed(encoder, SENTENCES), embed(Encoder(*files), SENTENCES)):
        for a, b in zip(first, found, strict=True):
            np.testing.assert_array_equal(a, b)


def test_empty_sentences_and_lists(encoder, expected):
    assert embed(encoder, []) == []
    assert [array.shape for array in embed(encoder, [[], []])] == [(0, 48), (0, 48)]
    found = embed(encoder, [[], SENTENCES[0], [], SENTENCES[1], []])
    assert [len(array) for array in found] == [0, 7, 0, 4, 0]
    assert furthest(found[1:4:2], expected[:2]) <= NEAR


def test_long_lists_are_cut(encoder, expected, monkeypatch):
    monkeypatch.setattr(batches, "BATCH", 20)
    monkeypatch.setattr(batches, "WINDOW", 60)
    taken, made = [], []
    encode = encoder._model.encode
    monkeypatch.setattr(encoder._model, "encode", lambda b: made.append(b) or encode(b))
    given = (taken.append(sentence) or sentence for sentence in SENTENCES * 3)
    found = encoder.embed(given)
    first = next(found)
    assert 1 < len(taken) < 20
    assert furthest([first, *found], expected * 3) <= NEAR
    sizes = [sum(len(sentence) + 2 for sentence in batch) for batch in made]
    assert max(sizes) == 32  # a sentence of 30 tokens
    assert max(size for size, batch in zip(sizes, made, strict=True) if len(batch) > 1) <= 20
    assert sum(map(len, made)) == 3 * len(SENTENCES)


def test_a_sentence_longer_than_any_block(encoder, files):
    sentence = [f"word{at % 7}" for at in range(1500)]
    expected = plain_elmo(elmo_files.SMALL, read(files[1]), sentence)
    assert furthest(embed(encoder, [sentence]), [expected]) <= NEAR


def test_results_are_the_callers_own(encoder, expected):
    found = embed(encoder, SENTENCES)
    for array in found:
        array[...] = 7
    assert furthest(embed(encoder, SENTENCES), expected) == 0


# What is known of tokens


@pytest.fixture
def computed(monkeypatch):
    """The spellings whose layer 0 is computed."""
    found = []
    vectors = character_layer.CharacterNetwork.vectors

    def watched(self, spellings):
        found.extend(spellings)
        return vectors(self, spellings)

    monkeypatch.setattr(character_layer.CharacterNetwork, "vectors", watched)
    return found


def test_layer_0_is_computed_once_a_token(files, computed):
    encoder = Encoder(*files)
    embed(encoder, [["a", "b", "a"], ["b", "x" * 60]])
    assert sorted(computed) == [b"a", b"b", b"x" * 48, b"\xff</S>", b"\xff<S>"]
    embed(encoder, [["c", "a", "x" * 70, "<S>"]])
    assert computed[5:] == [b"c"]


def test_known_tokens_are_bounded(files, expected, computed, monkeypatch):
    monkeypatch.setattr(model, "KNOWN", 5 * (4 * 8 + model.ENTRY))
    encoder = Encoder(*files)
    for sentence, vectors in zip(SENTENCES, expected, strict=True):
        assert furthest(embed(encoder, [sentence]), [vectors]) <= NEAR
    assert len(encoder._model._known._slots) == 5
    del computed[:]
    embed(encoder, [["end"]])  # the last one
    assert computed == []
    embed(encoder, [["The"]])
    assert computed == [b"The"]


# Threads and processes


def test_threads_share_an_encoder(files, expected):
    encoder = Encoder(*files)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda at: embed(encoder, SENTENCES[at:]), range(16)))
    for at, arrays in enumerate(found):
        assert furthest(arrays, expected[at:]) <= NEAR


def test_torchs_number_of_threads_stays(files):
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            encoder = Encoder(*files)
            embed(encoder, SENTENCES)
            assert torch.get_num_threads() == threads
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                assert pool.submit(torch.get_num_threads).result() == threads
            own = encoder._model._threads.run([torch.get_num_threads] * 2)
            assert own == [max(1, threads // 2)] * 2
    finally:
        torch.set_num_threads(before)


def answer(encoder, connection):
    connection.send(embed(encoder, SENTENCES))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("busy", [False, True])
def test_a_forked_process_uses_the_encoder(tmp_path, busy):
    # Large enough that torch's own threads would be used, which the child does not have.
    options = elmo_files.options(dim=2048, projection_dim=256, filters=elmo_files.FILTERS)
    encoder = Encoder(*elmo_files.write_model(tmp_path, options))
    torch.randn(2000, 2000) @ torch.randn(2000, 2000)
    expected = embed(encoder, SENTENCES)
    stop = threading.Event()

    def work():
        while not stop.is_set():
            embed(encoder, SENTENCES[:3])

    worker = threading.Thread(target=work)
    if busy:
        worker.start()
    try:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(
            target=answer, args=(encoder, theirs), daemon=True
        )
        process.start()
        assert ours.poll(PATIENCE)
        assert furthest(ours.recv(), expected) <= NEAR
        process.join(PATIENCE)
    finally:
        stop.set()
        if busy:
            worker.join()
        process.kill()


# Precision, devices, backends


def test_bfloat16_loses_little(files, expected):
    found = embed(Encoder(*files, precision="bfloat16"), SENTENCES)
    assert {array.dtype for array in found} == {np.dtype(np.float32)}
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a[:, :16], b[:, :16])  # layer 0 is in float32
        assert not np.array_equal(a, b)
        cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosines.min() > 0.9999


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int8"}, "precision must be one of float32, bfloat16, not 'int8'"),
        ({"backend": "jax"}, "backend must be one of torch, allennlp, not 'jax'"),
        ({"backend": "allennlp", "precision": "bfloat16"}, "float32 only"),
        ({"devices": [64]}, r"devices=\[64\], but torch sees \d GPUs; devices=\[\]"),
    ],
)
def test_arguments_that_cannot_be(files, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        Encoder(*files, **arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_gives_the_same(files, expected):
    assert furthest(embed(Encoder(*files, devices=[0]), SENTENCES), expected) <= NEAR


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_importing_imports_neither_torch_nor_h5py():
    done = python(
        "import sys, streamfile, streamfile.elmo; print({'torch', 'h5py'} & set(sys.modules))"
    )
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize("name", ["torch", "h5py"])
def test_a_missing_package_is_named(files, name):
    code = "import sys; sys.modules[sys.argv[1]] = None\nfrom streamfile.elmo import Encoder\n"
    done = python(code + "Encoder(*sys.argv[2:])", name, *files)
    expected = f'ELMo models need {name}, which is not installed: pip install "streamfile[elmo]"'
    assert done.stderr.splitlines()[-1] == f"ImportError: {expected}"


def test_allennlp_that_is_not_installed(files):
    code = "import sys; sys.modules['allennlp'] = None\nfrom streamfile.elmo import Encoder\n"
    done = python(code + "Encoder(*sys.argv[1:], backend='allennlp')", *files)
    assert done.stderr.splitlines()[-1].startswith("ImportError: backend='allennlp' needs AllenNLP")
    assert 'pip install "streamfile[allennlp]"' in done.stderr
    assert "Python 3.10" in done.stderr


# Files that cannot be


def without(options, part, name):
    del options[part][name]
    return options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "no JSON .* it begins with b''"),
        ("[" * 100_000, "no JSON"),
        ("[]", "lstm is missing"),
        ("x" * (1 << 21), "more than 1048576 bytes"),
        ({"lstm": 3}, "lstm must be of type dict, not 3"),
        (without(elmo_files.options(), "lstm", "dim"), "dim is missing"),
        (without(elmo_files.options(), "char_cnn", "filters"), "filters is missing"),
        (elmo_files.options(dim="64"), "dim must be of type int, not '64'"),
        (elmo_files.options(dim=True), "dim must be of type int, not True"),
        (elmo_files.options(dim=0), "dim must be from 1 to 65536, not 0"),
        (elmo_files.options(dim=10**4000), "dim must be from 1 to 65536, not 1000"),
        (elmo_files.options(n_layers=1000), "n_layers must be from 1 to 64, not 1000"),
        (elmo_files.options(cell_clip=-1), "cell_clip must be a positive number or null, not -1"),
        (elmo_files.options(proj_clip="3"), "proj_clip must be a positive number or null"),
        (elmo_files.options(proj_clip=float("nan")), "proj_clip .* not nan"),
        (elmo_files.options(use_skip_connections=1), "use_skip_connections must be of type bool"),
        (elmo_files.options(activation="gelu"), "activation must be 'relu' or 'tanh', not 'gelu'"),
        (elmo_files.options(n_characters=300), "n_characters must be 262 or 261, not 300"),
        (elmo_files.options(max_characters_per_token=3), "must be from 4 to 65536, not 3"),
        (elmo_files.options(filters=[]), "filters must be 1 to 64, not 0"),
        (elmo_files.options(filters=[[1, 2, 3]]), r"must be \[width, number\], not \[1, 2, 3\]"),
        (elmo_files.options(filters=[[51, 2]]), r"1 to 50 characters, .* not \[51, 2\]"),
        (elmo_files.options(filters=[5]), r"must be \[width, number\], not 5"),
        (elmo_files.options(embedding={"dim": -4}), "dim must be from 1 to 65536, not -4"),
        (elmo_files.options(embedding=[]), "embedding must be of type dict"),
    ],
)
def test_options_that_cannot_be(files, tmp_path, options, message):
    path = tmp_path / "options.json"
    path.write_text(options if isinstance(options, str) else json.dumps(options))
    with pytest.raises(FormatError, match=message) as caught:
        Encoder(path, files[1])
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400


def test_options_that_ask_for_too_much(files, tmp_path):
    path = tmp_path / "options.json"
    path.write_text(json.dumps(elmo_files.options(dim=65536, projection_dim=65536)))
    with pytest.raises(FormatError, match="bytes of weights; at most 4294967296 are read"):
        Encoder(path, files[1])


@pytest.fixture
def broken(tmp_path):
    """Change one dataset of a model's weights, and try to use them."""
    paths = elmo_files.write_model(tmp_path)

    def attempt(change, name=f"{LSTM}/W_0"):
        with h5py.File(paths[1], "a") as file:
            before = file[name][()]
            del file[name]
            change(file, name, before)
        return Encoder(*paths)

    return attempt


def external(file, name, before):
    (Path(file.filename).parent / "raw").write_bytes(before.tobytes())
    file.create_dataset(name, before.shape, before.dtype, external=[("raw", 0, h5py.h5f.UNLIMITED)])


def virtual(file, name, before):
    layout = h5py.VirtualLayout(before.shape, before.dtype)
    layout[...] = h5py.VirtualSource("other.hdf5", "data", before.shape)
    file.create_virtual_dataset(name, layout)


def linked(link):
    def change(file, name, before):
        file["elsewhere"] = before
        with h5py.File(Path(file.filename).parent / "other.hdf5", "w") as other:
            other["elsewhere"] = before
        file[name] = link

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda *_: None, f"dataset {LSTM}/W_0 is missing"),
        (
            lambda file, name, before: file.create_dataset(name, data=before[:, :-1]),
            rf"dataset {LSTM}/W_0 must be of shape \(16, 96\) by the options, not \(16, 95\)",
        ),
        (lambda file, name, before: file.create_group(name), "must be a dataset"),
        (lambda file, name, _: file.create_dataset(name, data=h5py.Empty("f")), "not None"),
        (
            lambda file, name, before: file.create_dataset(name, data=before.astype(int)),
            "must hold floats, not int64",
        ),
        (
            lambda file, name, before: file.create_dataset(name, data=before.astype("S8")),
            r"must hold floats, not \|S8",
        ),
        (
            lambda file, name, before: file.create_dataset(name, before.shape, "f,f"),
            "must hold floats",
        ),
        (
            lambda file, name, before: file.create_dataset(name, before.shape, "f4", chunks=(1, 1)),
            "holds 0 bytes where 6144 are expected",
        ),
        (external, "lies in other files"),
        (virtual, "lies in other files"),
        (linked(h5py.SoftLink("/elsewhere")), "link to elsewhere, which is not followed"),
        (linked(h5py.ExternalLink("other.hdf5", "elsewhere")), "link to elsewhere"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_datasets_that_cannot_be(broken, change, message):
    with pytest.raises(FormatError, match=message):
        broken(change)


def test_a_group_that_is_a_link(tmp_path):
    paths = elmo_files.write_model(tmp_path)
    with h5py.File(paths[1], "a") as file:
        file.move("RNN_0", "elsewhere")
        file["RNN_0"] = h5py.SoftLink("/elsewhere")
    with pytest.raises(FormatError, match=r"RNN_0/.*link to elsewhere"):
        Encoder(*paths)


def test_nothing_is_allocated_for_what_is_not_there(tmp_path):
    # A gigabyte in a file of some kilobytes.
    options = elmo_files.options(dim=32768, projection_dim=1024, n_layers=1)
    paths = tmp_path / "options.json", tmp_path / "weights.hdf5"
    paths[0].write_text(json.dumps(options))
    with h5py.File(paths[1], "w") as file:
        for name, shape in elmo_files.shapes(options):
            file.create_dataset(name, shape, "f4")
    assert paths[1].stat().st_size < 100_000
    code = (
        "import sys, torch\nfrom streamfile.elmo import Encoder\n"
        "def peak():\n"
        "    return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "before = peak()\n"
        "try:\n    Encoder(*sys.argv[1:])\nexcept Exception as failure:\n    print(failure)\n"
        "print(peak() - before < 100_000)"
    )
    done = python(code, *paths)
    assert "holds 0 bytes" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "True"


@pytest.mark.parametrize(
    "store",
    [{"compression": "gzip"}, {"compression": "lzf", "shuffle": True}, {"dtype": "f8"}],
    ids=str,
)
def test_weights_may_be_stored_otherwise(files, tmp_path, expected, store):
    path = tmp_path / "weights.hdf5"
    with h5py.File(path, "w") as file:
        for name, array in read(files[1]).items():
            file.create_dataset(name, data=array, **store)
    assert furthest(embed(Encoder(files[0], path), SENTENCES), expected) == 0


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def test_pickles_are_refused_and_never_opened(files, tmp_path):
    path = tmp_path / "encoder.pkl"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(FormatError, match=r"begins with b'\\x80.*never unpickled"):
        Encoder(files[0], path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(FormatError, match=r"begins with b'PK.*never unpickled"):
        Encoder(files[0], path)
    path.write_bytes(b"2 3\nthe 0.1 0.2 0.3\n")
    with pytest.raises(FormatError, match="is no HDF5 file: it begins with b'2 3"):
        Encoder(files[0], path)


def test_weights_cut_short(files, tmp_path):
    data = files[1].read_bytes()
    path = tmp_path / "weights.hdf5"
    for length in range(0, len(data), len(data) // 40):
        path.write_bytes(data[:length])
        with pytest.raises(FormatError):
            Encoder(files[0], path)


def test_files_that_are_not_there(files, tmp_path):
    with pytest.raises(PathError, match="no ELMo options file"):
        Encoder(tmp_path / "options.json", files[1])
    with pytest.raises(PathError, match="no ELMo weights file"):
        Encoder(files[0], tmp_path / "weights.hdf5")
