"""What people and type checkers see of the constructors, and what these refuse."""

import inspect
import json
import pydoc
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import magnitude_files as mf
import pytest

import streamfile
from streamfile import ArgumentError, FeaturizerMagnitude, Magnitude
from streamfile.magnitude import arguments

ROOT = Path(__file__).parents[2]

RIGHT = """
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

from streamfile import ConcatenatedMagnitude, FeaturizerMagnitude, Magnitude, VectorModel

Floats = npt.NDArray[np.floating[Any]]

v = Magnitude("a.magnitude", True, {"max_bytes": 10**8}, normalized=False)
assert_type(v.query("cat"), Floats)
assert_type(v.query(7), Floats)
assert_type(v.query(["cat", "dog"], pad_to_length=3), Floats)
assert_type(v.query([["cat"], ["the", "dog"]]), Floats)
assert_type(v.query(np.array(["cat", "dog"])), Floats)
assert_type(v.index(7), tuple[str, Floats])
assert_type(v.index(7, return_vector=False), str)
assert_type(v.index([7, 8]), list[tuple[str, Floats]])
assert_type(v[2:5], list[tuple[str, Floats]])
assert_type(v.most_similar("cat"), list[tuple[str, float]])
assert_type(v.most_similar(["king", "woman"], "man", return_similarities=False), list[str])
assert_type(v.similarity("cat", "dog"), float)
assert_type(len(v), int)
v.most_similar(v.query("cat"), topn=3)
v.get_vector("cat", norm=True).mean()
with Magnitude("b.magnitude") as other:
    models: list[VectorModel] = [v, other, FeaturizerMagnitude(100, "tags"), Magnitude(v, other)]
    ConcatenatedMagnitude(v, other).parts[0].query("cat")
    Magnitude(v, other, v).query(("cat", "dog", 3))
"""

WRONG = """
from streamfile import FeaturizerMagnitude, Magnitude

v = Magnitude("a.magnitude")
Magnitude("a.magnitude", steam=True)  # wrong
Magnitude("a.magnitude", normalised=True)  # wrong
Magnitude("a.magnitude", "stream")  # wrong
Magnitude(v, "b.magnitude")  # wrong
Magnitude()  # wrong
FeaturizerMagnitude(100, colour="red")  # wrong
v.query(None)  # wrong
v.query("cat").upper()  # wrong
v.query("cat", pad=3)  # wrong
v.index("seven")  # wrong
v.index(7)[0].sum()  # wrong
v.most_similar("cat")[0].upper()  # wrong
v.most_similar("cat", return_similarities=False)[0].sum()  # wrong
v.no_such_name  # wrong
"""


@pytest.fixture(scope="module", params=["mypy", "pyright"])
def errors(request, tmp_path_factory):
    """Check both scripts as strictly as can be, and map each to the lines that are wrong."""
    folder = tmp_path_factory.mktemp("scripts")
    scripts = {"right": RIGHT, "wrong": WRONG}
    for name, text in scripts.items():
        (folder / f"{name}.py").write_text(text)
    paths = [str(folder / f"{name}.py") for name in scripts]
    if request.param == "mypy":
        command = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={folder}", *paths]
    elif shutil.which("pyright") is None:
        pytest.skip("pyright is not installed: npm install pyright")
    else:
        config = {"include": ["."], "extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}
        (folder / "pyrightconfig.json").write_text(json.dumps(config))
        command = ["pyright", "-p", str(folder), "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(r"(\w+)\.py:(\d+).*? error", done.stdout)
    return {name: {int(n) for script, n in found if script == name} for name in scripts}


def test_a_typed_script_is_right(errors):
    assert not errors["right"]


def test_every_mistake_is_found(errors):
    wrong = {n for n, line in enumerate(WRONG.splitlines(), 1) if "# wrong" in line}
    assert errors["wrong"] == wrong


ORIGINAL = """
path stream stream_options lazy_loading blocking normalized use_numpy case_insensitive
pad_to_length truncate_left pad_left placeholders ngram_oov supress_warnings batch_size
eager language dtype devices temp_dir log
"""


def test_the_signature_shows_every_parameter_in_the_original_order():
    parameters = inspect.signature(Magnitude).parameters
    positional = [name for name, it in parameters.items() if it.kind is it.POSITIONAL_OR_KEYWORD]
    assert positional == ORIGINAL.split()
    assert [*parameters][len(positional) :] == ["route", "remote_path", "precision", "backend"]
    assert parameters["stream"].default is False
    assert {it.kind for it in parameters.values()} <= {
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    }


def test_help_shows_it_too():
    text = pydoc.plain(pydoc.render_doc(Magnitude))
    words = " ".join(re.findall(r"[^\s|]+", text))  # newer versions break the signature into lines
    assert re.search(r"Magnitude\( ?path: .{,60}, stream: .{,20} = False, stream_options: ", words)
    assert "lazy_loading : int" in text


def test_every_option_of_a_featurizer_is_visible():
    parameters = inspect.signature(FeaturizerMagnitude).parameters
    assert list(parameters)[:2] == ["number_of_values", "namespace"]
    assert "normalized" in parameters
    assert not [it for it in parameters.values() if it.kind is it.VAR_KEYWORD]


@pytest.fixture
def path(tmp_path):
    mf.write_magnitude(tmp_path / "a", ["cat", "dog"], mf.random_vectors(2, 4, 1))
    return tmp_path / "a"


def test_options_by_place(path):
    with Magnitude(path, False, None, 5, False, False) as v:
        assert v.stream is False
        assert v.normalized is False


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("steam", "stream"), ("normalised", "normalized"), ("lazy_load", "lazy_loading")],
)
def test_a_misspelt_name_is_refused_with_the_nearest(path, wrong, right):
    with pytest.raises(TypeError, match=f"Magnitude has no argument '{wrong}'.*'{right}'"):
        Magnitude(path, **{wrong: True})


def test_a_name_like_no_other_is_refused_with_all(path):
    with pytest.raises(TypeError, match=r"no argument 'zzzz': it has path, stream"):
        Magnitude(path, zzzz=1)
    with pytest.raises(TypeError, match=r"FeaturizerMagnitude has no argument 'namspace'"):
        FeaturizerMagnitude(100, namspace="x")


def test_dead_options_warn_once_where_they_are_given(path, monkeypatch):
    monkeypatch.setattr(arguments, "_warned", set())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            Magnitude(path, eager=False, batch_size=10).close()
        Magnitude(path).close()
    assert [str(each.message).partition("=")[0] for each in caught] == ["batch_size", "eager"]
    assert {each.filename for each in caught} == {__file__}


def test_models_among_options_are_told_how_to_concatenate(path):
    with Magnitude(path) as v:
        with pytest.raises(ArgumentError, match=r"Magnitude\(a, b\)"):
            Magnitude(path, v)
        with pytest.raises(ArgumentError, match="two or more"):
            Magnitude(v)


def test_tracebacks_and_pickles_name_the_public_path():
    assert Magnitude.__module__ == "streamfile"
    assert repr(Magnitude) == "<class 'streamfile.Magnitude'>"
    assert streamfile.Magnitude is Magnitude
