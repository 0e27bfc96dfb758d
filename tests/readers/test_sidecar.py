"""Sidecars: files in the original layout whose readers know the way from elsewhere."""

import gzip
import itertools
import json
import logging
import os
import pickle
import random
import shutil
import warnings
import zlib
from contextlib import closing, nullcontext, suppress
from dataclasses import replace

import apsw
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nginx import find_nginx, nginx_server
from routed_files import EXPECTED, KEYS, NAMES, ROWS, make, server_etag, write
from serving import LoggingServer, replace_file

import vfs
from streamfile import FormatError, Magnitude
from streamfile.errors import ArgumentError, PathError
from streamfile.format.packed_blocks import pack_blocks, unpack_blocks
from streamfile.readers.sidecar import FACTS, HEAD, MAGIC, NODES, PAGES, ROUTER, Route
from streamfile.tools.route import route

WARNING = "its sidecar is of another file or version"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def folder(made, tmp_path):
    """Files with sidecars, to be changed."""
    folder = tmp_path / "served"
    shutil.copytree(made, folder)
    return folder


@pytest.fixture
def server(folder):
    with LoggingServer(folder) as running:
        yield running


@pytest.fixture
def cold(server):
    """Open a file with an empty cache."""
    objects = []

    def open_(name="medium", **options):
        own = {"cache_size": 0} | options.pop("stream_options", {})
        objects.append(Magnitude(server.url + name, stream=True, stream_options=own, **options))
        return objects[-1]

    yield open_
    for v in objects:
        v.close()


def places(count, seed):
    return random.Random(seed).sample(range(ROWS), count)


def ask(v, numbers, expected=EXPECTED):
    np.testing.assert_array_equal(v.query([KEYS[n] for n in numbers]), expected[numbers])


def waves_without(cold, name="medium"):
    v = cold(name)
    ask(v, places(25, 1))
    return v.stats.waves


def asked(server, path):
    return [record for record in server.log if record.path.endswith(path)]


# Where it comes from


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("given_as", ["path", "str", "URL", "beside", "from the URL"])
def test_a_sidecar_saves_waves(folder, server, cold, tmp_path, name, given_as):
    sidecar = folder / f"{name}.route"
    if given_as == "from the URL":
        assert route(server.url + name, tmp_path / "made") == (tmp_path / "made").stat().st_size
        sidecar = tmp_path / "made"
    given_ = {"URL": f"{server.url}{name}.route", "beside": True, "str": str(sidecar)}
    v = cold(name, route=given_.get(given_as, sidecar))
    by_network = given_as in ("URL", "beside")
    assert len(v) == ROWS
    assert v.stats.waves == 1 + by_network
    ask(v, places(25, 1))
    assert v.stats.waves == 3 + by_network
    ask(v, places(25, 2))
    assert v.stats.waves <= 5 + by_network
    assert len(asked(server, ".route")) == by_network
    ask(v, range(ROWS))
    if given_as != "from the URL":
        assert v.stats.requests == len(server.requests(v.stats.requests))


def test_what_is_given_beside_a_query_string(server, cold, tmp_path):
    v = cold("medium?version=3", route=True)
    ask(v, places(25, 1))
    assert v.stats.waves == 4
    assert [record.path for record in asked(server, "version=3") if "route" in record.path] == [
        "/medium.route?version=3"
    ]


def test_a_missing_sidecar(folder, server, cold, caplog):
    plain = waves_without(cold)
    (folder / "medium.route").unlink()
    v = cold(route=True)
    ask(v, places(25, 1))
    assert v.stats.waves == plain + 1  # it was asked for
    assert not caplog.records
    with pytest.raises(vfs.NotFoundError, match=r"medium\.route"):
        cold(route=f"{server.url}medium.route")
    with pytest.raises(PathError, match="no such file"):
        cold(route=folder / "medium.route")


def test_no_sidecar_is_looked_for_unless_asked(server, cold):
    for options in ({}, {"route": False}):
        ask(cold(**options), places(25, 1))
    assert not asked(server, ".route")


def test_local_files_need_none(folder):
    with pytest.raises(ArgumentError, match="route is given without stream=True"):
        Magnitude(folder / "medium", route=folder / "medium.route")


def test_a_pickled_object_keeps_its_sidecar(folder, cold):
    for given_ in (folder / "medium.route", True):
        v = cold(route=given_)
        with pickle.loads(pickle.dumps(v)) as copy:
            ask(copy, places(25, 1))
            assert copy.stats.waves == 3 + (given_ is True)


def test_a_second_process_needs_little(server, folder, tmp_path):
    def run(seed):
        options = {"cache_dir": tmp_path / "cache", "cache_size": 1 << 26}
        with Magnitude(server.url + "medium", stream=True, stream_options=options, route=True) as v:
            ask(v, places(25, seed))
            return v.stats.waves

    assert run(1) == 4
    assert run(2) <= 3


def test_unknown_words_are_the_same_with_and_without(folder, cold):
    words = ["terlingness", "kidibu", "thinkable", KEYS[3] + "x"]
    v, w = cold(), cold(route=folder / "medium.route")
    np.testing.assert_array_equal(w.query(words), v.query(words))
    assert w.stats.waves < v.stats.waves


@pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed")
def test_nginx_serves_both(folder):
    with nginx_server(folder) as url:
        options = {"stream": True, "stream_options": {"cache_size": 0}}
        with Magnitude(f"{url}/medium", route=True, **options) as v:
            ask(v, places(25, 1))
            assert v.stats.waves == 4
            assert v.stats.requests == len(url.requests())


def test_nothing_is_logged_when_all_is_well(folder, cold, caplog):
    caplog.set_level(logging.INFO)
    ask(cold(route=True), places(25, 1))
    assert not caplog.records


# Whether it belongs to the file


def refused_quietly(v, caplog, expected=EXPECTED):
    ask(v, places(25, 1), expected)
    assert WARNING in caplog.text
    return v.stats.waves


def test_a_sidecar_of_another_file_is_not_used(folder, cold, caplog):
    plain = waves_without(cold)
    assert refused_quietly(cold(route=folder / "light.route"), caplog) == plain


def test_a_file_that_was_edited_in_place(folder, server, cold, caplog):
    sidecars = [folder / "medium.route", folder / "by URL"]
    route(server.url + "medium", sidecars[1])
    size = (folder / "medium").stat().st_size
    changed = KEYS[5][:-1] + "~"  # in the same leaf of the index
    with closing(apsw.Connection(str(folder / "medium"))) as connection:
        connection.execute("UPDATE magnitude SET key = ? WHERE rowid = 6", (changed,))
    assert (folder / "medium").stat().st_size == size
    os.utime(folder / "medium", (1, 1))
    for sidecar in sidecars:
        caplog.clear()
        v = cold(route=sidecar)
        assert changed in v
        assert KEYS[5] not in v
        assert WARNING in caplog.text


def test_the_same_file_with_another_etag(folder, server, cold, caplog):
    route(server.url + "medium", folder / "by URL")
    before = server_etag(server, "medium")
    os.utime(folder / "medium", (1, 1))
    assert server_etag(server, "medium") != before
    v = cold(route=folder / "medium.route")  # which knows of no ETag
    ask(v, places(25, 1))
    assert v.stats.waves == 3
    assert not caplog.records
    refused_quietly(cold(route=folder / "by URL"), caplog)


def test_a_file_that_begins_the_same(folder, server, cold, caplog, tmp_path):
    """Made anew, of the same size, with keys in other places that no digest covers."""
    route(server.url + "light", folder / "by URL")
    before = (folder / "light").read_bytes()
    free = [key for key in KEYS[-2000:] if key.encode() not in before[:HEAD]]
    keys, moved = list(KEYS), sorted(free, key=len)
    for one, other in zip(moved[::2], moved[1::2], strict=False):
        if len(one) == len(other):
            first, second = KEYS.index(one), KEYS.index(other)
            keys[first], keys[second] = other, one
    replace_file(folder / "light", write(tmp_path / "new", "light", keys=keys))
    after = (folder / "light").read_bytes()
    assert len(before) == len(after)
    assert before[:HEAD] == after[:HEAD]
    v = cold("light", route=folder / "by URL")
    np.testing.assert_array_equal(v.query(keys), EXPECTED)
    assert WARNING in caplog.text


def test_a_router_of_another_file_gives_no_wrong_answers(folder, cold, tmp_path):
    """As if the digests were equal: the keys of leaves do not fit what leads to them."""
    keys = sorted(KEYS, key=lambda key: key[::-1])
    write(tmp_path / "other", "light", keys=keys)
    route(tmp_path / "other", tmp_path / "sidecar")
    made, right = (
        Route.parse("x", path.read_bytes())
        for path in (tmp_path / "sidecar", folder / "light.route")
    )
    forged = replace(made, size=right.size, digest=right.digest)
    (tmp_path / "forged").write_bytes(forged.pack())
    answered = 0
    for begin in range(0, ROWS, 50):
        v = cold("light", route=tmp_path / "forged")
        with suppress(vfs.DatabaseError):
            ask(v, range(begin, begin + 50))
            answered += 1
    assert answered < ROWS // 50


def test_a_file_that_grew(folder, cold, caplog):
    plain = waves_without(cold)
    with (folder / "medium").open("ab") as file:
        file.write(bytes(1024))
    assert refused_quietly(cold(route=folder / "medium.route"), caplog) == plain


def test_a_file_that_is_replaced_between_two_objects(folder, server, tmp_path, caplog):
    keys = KEYS[::-1]
    options = {"cache_dir": tmp_path / "cache", "cache_size": 1 << 26}

    def open_():
        return Magnitude(server.url + "medium", stream=True, stream_options=options, route=True)

    def ask_all(v):
        np.testing.assert_array_equal(v.query(keys), EXPECTED)

    with open_() as v:
        ask(v, places(25, 1))
    replace_file(folder / "medium", write(tmp_path / "new", "medium", keys=keys))
    for _ in range(2):  # the old sidecar is still there
        with open_() as v:
            ask_all(v)
    assert WARNING in caplog.text
    (folder / "medium.route").unlink()
    with open_() as v:
        ask_all(v)
    caplog.clear()
    route(folder / "medium", folder / "medium.route", force=True)
    with open_() as v:
        ask_all(v)
    assert not caplog.records


def test_a_file_that_is_replaced_under_an_open_object(folder, server, cold, tmp_path):
    v = cold(route=True)
    ask(v, places(25, 1))
    replace_file(folder / "medium", write(tmp_path / "new", "medium", keys=KEYS[::-1]))
    with pytest.raises(vfs.FileChangedError):
        ask(v, places(25, 2))


# Files that are none


def test_damaged_sidecars_are_refused(folder, cold):
    data = (folder / "medium.route").read_bytes()
    rng = random.Random(1)
    bad = [b"", MAGIC, b"<html>not found</html>", data[:-1], data[: len(data) // 2], data + b"x"]
    bad += [data[1:], MAGIC + gzip.compress(b"a" * 1000), MAGIC + zlib.compress(bytes(100 << 20))]
    for _ in range(20):
        at = rng.randrange(len(data))
        bad.append(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
    for content in bad:
        (folder / "medium.route").write_bytes(content)
        for given_ in (folder / "medium.route", True):
            with pytest.raises(FormatError, match=r"medium\.route.*streamfile route makes it anew"):
                cold(route=given_)


def parts_of(path):
    return unpack_blocks(path.read_bytes()[len(MAGIC) :])


FACT = [
    b"[]", b"5", b"null", b'"x"', b"{}", b"[" * 100_000, b'{"size": Infinity}', b"\xff",
    b'{"size": NaN, "etag": null, "digest": ""}', b'{"size": Infinity, "etag": 1, "digest": ""}',
    b'{"size": "' + b"9" * 5000 + b'", "etag": 1, "digest": ""}',
    b'{"size": [], "etag": {}, "digest": []}',
]  # fmt: skip


@pytest.mark.parametrize("facts", FACT, ids=range(len(FACT)))
def test_facts_that_are_none(folder, facts):
    parts = parts_of(folder / "medium.route") | {FACTS: facts}
    with pytest.raises(FormatError, match="no sidecar"):
        Route.parse("x", MAGIC + pack_blocks(parts))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=99), st.dictionaries(st.integers(0, 6), st.binary(max_size=50)))
def test_any_bytes(data, parts):
    good = json.dumps({"size": 5, "etag": None, "digest": "0"}).encode()
    for content in (
        data,
        MAGIC + data,
        MAGIC + pack_blocks(parts),
        MAGIC + pack_blocks(parts | {FACTS: good}),
        MAGIC + pack_blocks({FACTS: good, PAGES: data, NODES: data} | parts),
    ):
        with suppress(FormatError):
            Route.parse("x", content)


REFUSED = [(PAGES, "of other pages"), (PAGES, "of another file")]


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        *itertools.product([PAGES, ROUTER, NODES], ["garbage", "nothing", "of another file"]),
        (PAGES, "of other pages"),
    ],
)
def test_sidecars_that_lie(folder, cold, part, kind):
    """They say that they belong to the file; answers are right, or an error of ours."""
    parts = parts_of(folder / "medium.route")
    blocks = unpack_blocks(parts[part]) if part != ROUTER else {}
    turned = dict(zip(blocks, list(blocks.values())[1:] + list(blocks.values())[:1], strict=True))
    parts[part] = {
        "garbage": random.Random(1).randbytes(500),
        "nothing": b"",
        "of another file": parts_of(folder / "loose.route")[part],
        "of other pages": pack_blocks(turned),
    }[kind]
    (folder / "lies").write_bytes(MAGIC + pack_blocks(parts))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refusal = pytest.raises((vfs.DatabaseError, FormatError), match=r"medium|lies")
        with refusal if (part, kind) in REFUSED else nullcontext():
            v = cold(route=folder / "lies")
            ask(v, places(25, 1))
            expected = cold().query(["terlingness", "kidibu"])
            np.testing.assert_array_equal(v.query(["terlingness", "kidibu"]), expected)


def test_a_sidecar_that_is_too_large(folder, server, cold):
    with (folder / "medium.route").open("ab") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(FormatError, match="a sidecar of 67,108,865 bytes"):
        cold(route=True)
    assert sum(record.sent for record in server.log) < 1 << 20
    with pytest.raises(FormatError, match="a sidecar of 67,108,865 bytes"):
        cold(route=folder / "medium.route")


def test_a_broken_sidecar_in_the_cache_is_asked_for_again(folder, server, tmp_path):
    def open_():
        options = {"cache_dir": tmp_path / "cache", "cache_size": 1 << 26}
        return Magnitude(server.url + "medium", stream=True, stream_options=options, route=True)

    good = (folder / "medium.route").read_bytes()
    (folder / "medium.route").write_bytes(b"broken")
    for _ in range(2):
        with pytest.raises(FormatError, match="no sidecar"):
            open_()
    (folder / "medium.route").write_bytes(good)
    with open_() as v:
        ask(v, places(25, 1))
