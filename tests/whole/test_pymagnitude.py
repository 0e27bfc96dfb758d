"""Files written here, read by the original library's light edition."""

import random

import magnitude_files as mf
import needed
import numpy as np
import pytest
from sql_similar import misspelt
from vector_files import text_file

from streamfile import Magnitude
from streamfile.tools.convert import convert
from streamfile.tools.repack import repack

pymagnitude = needed.module("pymagnitudelight", "-e '.[test]'")

DIM = 12
ODD = ["new york", "É", "é", "naïve", "it's", "<html>", "K" * 300, "1234.5", "日本語", "cooool"]
KEYS = [*mf.random_words(900, 1), *ODD, ""]
KEYS += [KEYS[0].upper(), KEYS[1].swapcase(), KEYS[2]]
VECTORS = mf.random_vectors(len(KEYS), DIM, 1)
RNG = random.Random(3)
UNKNOWN = [
    *(misspelt(word, RNG) + "q" for word in KEYS[:60]),
    *("un" + word + "ness" for word in KEYS[60:70]),
    "x", "ab", "xyzzyx", "Kkkkkk", "york new", "naive", "nothing like it", "日本", "%", "_q",
]  # fmt: skip


@pytest.fixture(scope="module", params=["light", "medium"])
def files(request, tmp_path_factory):
    """Give the same rows as written by SQL, converted from text, and laid out anew."""
    folder = tmp_path_factory.mktemp(request.param)
    subword = request.param == "medium"
    plain = mf.write_magnitude(folder / "plain.magnitude", KEYS, VECTORS, subwords=subword)
    (folder / "words.txt").write_bytes(text_file(KEYS, VECTORS))
    convert(folder / "words.txt", folder / "converted.magnitude", subword=subword)
    repack(plain, folder / "repacked.magnitude")
    return {name: folder / f"{name}.magnitude" for name in ("plain", "converted", "repacked")}


@pytest.fixture
def opened(tmp_path):
    """Open a file with the other library."""
    made = []

    def open_(path, **options):
        own = {"eager": False, "log": False, "temp_dir": str(tmp_path)}
        made.append(pymagnitude.Magnitude(str(path), **own, **options))
        return made[-1]

    yield open_
    for v in made:
        v.close()


def test_the_unknown_words_are_none_of_the_keys():
    assert not set(UNKNOWN) & set(KEYS)
    assert len(set(UNKNOWN)) > 75


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("name", ["converted", "repacked"])
def test_keys_and_vectors(files, opened, name, normalized):
    v = opened(files[name], normalized=normalized)
    assert (len(v), v.dim) == (len(KEYS), DIM)
    plain = opened(files["plain"], normalized=normalized)
    # One by one and before it went through the file: else the last of equal keys counts there.
    found, theirs = (np.array([one.query(key) for key in KEYS]) for one in (v, plain))
    tolerance = 0 if name == "repacked" else 3e-7
    np.testing.assert_allclose(found, theirs, rtol=tolerance, atol=tolerance)
    with Magnitude(files[name], normalized=normalized) as ours:
        np.testing.assert_allclose(ours.query(KEYS), found, rtol=1e-6, atol=1e-7)
        assert all((key in v) == (key in ours) for key in [*KEYS[:50], *ODD, *UNKNOWN])
    assert [key for key, _ in v] == KEYS


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("name", ["converted", "repacked"])
def test_words_outside_the_file(files, opened, name, normalized):
    v, plain = (opened(files[n], normalized=normalized) for n in (name, "plain"))
    with Magnitude(files[name], normalized=normalized) as ours:
        for word in UNKNOWN:
            found = v.query(word)
            np.testing.assert_allclose(found, plain.query(word), rtol=0, atol=1e-6)
            np.testing.assert_allclose(ours.query(word), found, rtol=0, atol=1e-6)
