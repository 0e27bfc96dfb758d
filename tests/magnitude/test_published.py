"""The list of published ELMo files."""

import re

import streamfile
from streamfile.magnitude.published import PUBLISHED, SHORT_NAME, model_url
from streamfile.models import MODELS

DIRECTIONS = 2
FLAVOURS = ("light", "medium", "heavy")
# As published, but for the flavour: what no rule tells is here a second time.
NAMES = {
    "elmo_2x1024_128_2048cnn_1xhighway_weights",
    "elmo_2x1024_128_2048cnn_1xhighway_weights_GoogleNews_vocab",
    "elmo_2x2048_256_2048cnn_1xhighway_weights",
    "elmo_2x2048_256_2048cnn_1xhighway_weights_GoogleNews_vocab",
    "elmo_2x4096_512_2048cnn_2xhighway_weights",
    "elmo_2x4096_512_2048cnn_2xhighway_weights_GoogleNews_vocab",
    "elmo_2x4096_512_2048cnn_2xhighway_5.5B_weights",
    "elmo_2x4096_512_2048cnn_2xhighway_5.5B_weights_GoogleNews_vocab",
}


def test_each_published_file_is_listed_once():
    assert streamfile.models.MODELS is MODELS
    expected = {f"elmo/{flavour}/{name}" for name in NAMES for flavour in FLAVOURS}
    assert len(MODELS) == 24
    assert {model.name for model in MODELS} == expected


def test_half_of_them_are_too_wide_for_sqlite():
    assert sum(model.dim == 3072 for model in MODELS) == 12


def test_a_name_is_a_short_name_with_a_url(monkeypatch):
    monkeypatch.delenv("STREAMFILE_REMOTE", raising=False)
    for model in MODELS:
        assert SHORT_NAME.fullmatch(model.name)
        assert model_url(model.name) == f"{PUBLISHED}{model.name}.magnitude"


def test_what_is_said_of_a_file_is_what_its_name_says():
    for model in MODELS:
        flavour, cells, projection, rest = re.fullmatch(
            r"elmo/(\w+)/elmo_2x(\d+)_(\d+)_2048cnn_[12]xhighway(.*)", model.name
        ).groups()
        assert model.flavour == flavour
        assert model.size == {"1024": "small", "2048": "medium", "4096": "original"}[cells]
        assert model.dim == model.layers * DIRECTIONS * int(projection)
        assert (model.vocabulary == "Google News") == rest.endswith("_GoogleNews_vocab")
        assert model.corpus.startswith("Wikipedia") == rest.startswith("_5.5B")
