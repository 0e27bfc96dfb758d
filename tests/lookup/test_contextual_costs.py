"""What vectors of words in their sentences cost: bytes, memory, and room in the cache."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import elmo_files as ef
import lz4.frame
import magnitude_files as mf
import needed
import numpy as np
import pytest
from sentences import BATCH, DIM, KEYS, SENTENCE, close
from serving import LoggingServer, asked_range, replace_file
from wide_sqlite import why_no_wide_sqlite, wide_sqlite

from streamfile import Magnitude
from streamfile.elmo import Encoder
from streamfile.errors import ArgumentError
from vfs.errors import CacheSpaceError

needed.module("torch")

pytestmark = pytest.mark.usefixtures("cache")
MIB = 1 << 20


# Streaming


@pytest.mark.parametrize("projection_dim", [8, 10])
@pytest.mark.parametrize("q", [SENTENCE, BATCH[:1], "zebra"], ids=["sentence", "batch", "key"])
def test_a_file_that_was_replaced_since_it_was_cached(tmp_path, folder, server, q, projection_dim):
    """The first answer is that of the new file."""
    keys = mf.random_words(4000, 1)
    for seed, size in enumerate((8, projection_dim)):
        options, weights = ef.write_model(tmp_path, ef.options(projection_dim=size), seed=seed)
        new = mf.write_magnitude(
            tmp_path / "new",
            keys[seed:],
            mf.random_vectors(4000 - seed, 6 * size, seed),
            elmo=True,
            meta=(weights.read_bytes(), options.read_bytes()),
        )
        replace_file(folder / "replaced", new)
        encoder = Encoder(options, weights)
        expected = next(iter(encoder.embed([[q] if isinstance(q, str) else SENTENCE])))
        with Magnitude(server.url + "replaced", stream=True) as v:
            got = v.query(q)
            close(np.atleast_2d(got.squeeze()), expected)
            assert v.query(keys[3000]).shape == (6 * size,)


LARGE_ROWS, LARGE_DIM = 12_000, 96
CHILD = """
import sys
import numpy as np
from streamfile import Magnitude
url, cache, size, answer = sys.argv[1:]
options = {"cache_dir": cache, "cache_size": int(size)}
with Magnitude(url, stream=True, stream_options=options) as v:
    assert "not there" not in v
    np.save(answer, v.query(["the", "quick", "cat", "sat", "down"]))
"""


def test_a_large_file_is_streamed(tmp_path):
    """Its model is fetched once a machine, and of its vocabulary what was asked for."""
    options, weights = ef.write_model(tmp_path, ef.options(dim=1024, projection_dim=16))
    model = weights.read_bytes()
    frame = lz4.frame.compress(model)
    assert len(model) > 2 * MIB
    keys = mf.random_words(LARGE_ROWS, 5)
    vectors = mf.random_vectors(LARGE_ROWS, LARGE_DIM, 5)
    served = tmp_path / "served"
    served.mkdir()
    path = mf.write_magnitude(
        served / "large", keys, vectors, elmo=True, meta=(model, options.read_bytes())
    )
    content = path.read_bytes()
    skipped = 8192  # beside the root of its table, which lies by itself
    inner = frame[skipped:]
    blob = slice(content.index(inner[:32]), content.index(inner[-32:]) + 32)
    assert 0.99 * len(inner) < blob.stop - blob.start < 1.01 * len(inner)
    assert len(content) > len(frame) + 5 * MIB
    encoder = Encoder(options, weights)
    sentence, *others = encoder.embed(BATCH)
    own = {"cache_dir": tmp_path / "own", "cache_size": len(model) + 16 * MIB}
    with LoggingServer(served) as server:
        url = server.url + path.name
        with Magnitude(url, stream=True, stream_options=own) as v:
            close(v.query(SENTENCE), sentence)
            assert v.stats.bytes <= len(frame) + 2 * MIB
            np.testing.assert_array_equal(fetched(server, content)[blob], 1)
            with v.stats.measure() as used:
                assert keys[7000] in v
                assert "not there" not in v
                close(v.query(keys[9000]), vectors[9000])
                close(v.query(SENTENCE), sentence)
                batch = v.query(BATCH)
            close(batch[0], sentence)
            close(batch[2, :3], others[1])
            assert used.bytes < MIB
            np.testing.assert_array_equal(fetched(server, content)[blob], 1)
        before, answer = len(server.log), tmp_path / "answer.npy"
        command = [sys.executable, "-c", CHILD, url, own["cache_dir"], own["cache_size"], answer]
        subprocess.run(list(map(str, command)), check=True)
        assert not fetched(server, content, before)[blob].any()
        assert sum(record.sent for record in server.log[before:]) < MIB
        close(np.load(answer), sentence)


def fetched(server, content, begin=0):
    """Count how often each byte of a file was asked for."""
    times = np.zeros(len(content), int)
    for record in server.log[begin:]:
        if "Range" in record.headers:
            times[slice(*asked_range(record))] += 1
    return times


def cost(v, task):
    """Count waves, requests and bytes."""
    with v.stats.measure() as used:
        task()
    return used.waves, used.requests, used.bytes


@pytest.fixture(scope="module")
def of_768_dimensions(folder, meta):
    """A file in which a row nearly fills a page; give its name and 50 keys with their vectors."""
    keys, vectors = mf.random_words(3000, 1), mf.random_vectors(3000, 768, 1)
    mf.write_magnitude(folder / "768", keys, vectors, elmo=True, meta=meta)
    places = random.Random(1).sample(range(3000), 50)
    units = mf.decode(mf.quantize(vectors[places], 7)[0], 1.0, 7)[0]
    return "768", [keys[place] for place in places], units


@pytest.fixture(scope="module")
def of_3072_dimensions(folder, model):
    """The same of a file that has the rest of each row in a chain of pages."""
    if why := why_no_wide_sqlite():
        pytest.skip(why)
    path = wide_sqlite().write_wide_magnitude(folder / "3072", 1500, 3072, 1, model[::-1])
    rowids = random.Random(1).sample(range(1, 1497), 50)  # behind them, keys in other cases
    rows = wide_sqlite().rows(path, rowids=rowids)
    return "3072", rows.keys, mf.decode(rows.dims, 1.0, 7)[0]


@pytest.mark.parametrize(
    ("file", "opening", "first", "second"),
    [
        ("of_768_dimensions", (2, 2, 147456), (3, 31, 172032), (2, 26, 106496)),
        ("of_3072_dimensions", (2, 2, 184320), (4, 53, 344064), (3, 51, 311296)),
    ],
)
def test_what_stored_keys_cost(request, server, tmp_path, file, opening, first, second):
    """Index, rows, the rest of long rows; for a later object the way is known, to be confirmed."""
    name, keys, vectors = request.getfixturevalue(file)
    own = {"cache_dir": tmp_path / "own", "cache_size": 64 * MIB}
    some, others = slice(25), slice(25, 50)

    def ask(v, part):
        np.testing.assert_array_equal(
            mf.by_themselves(v, keys[part], normalized=True), vectors[part]
        )

    def check(v):
        assert keys[-1] in v
        assert "not there" not in v

    with Magnitude(server.url + name, stream=True, stream_options=own) as v:
        assert (v.stats.waves, v.stats.requests, v.stats.bytes) == opening
        assert cost(v, lambda: ask(v, some)) == first
        assert opening[0] + first[0] <= 6
        assert cost(v, lambda: ask(v, some)) == (0, 0, 0)
        assert cost(v, lambda: check(v)) == (0, 0, 0)
    with Magnitude(server.url + name, stream=True, stream_options=own) as v:
        assert v.stats.requests == 0
        assert cost(v, lambda: ask(v, others)) == second
    with Magnitude(server.url + name, stream=True, stream_options=own) as v:
        assert cost(v, lambda: ask(v, others)) == (1, 1, 4096)
        assert cost(v, lambda: check(v)) == (0, 0, 0)
    with Magnitude(server.url + name, stream=True, stream_options={"cache_size": 0}) as v:
        assert cost(v, lambda: check(v)) == (2, 2, 8192)


# Memory


CONTENT = """
import re, sys
from pathlib import Path
import numpy as np
from streamfile import Magnitude

def memory(what):
    return int(re.search(what + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

texts = [line.split() for line in Path(sys.argv[2]).read_text().splitlines()]
with Magnitude(sys.argv[1]) as v:
    v.query(texts[:1200])
    before = memory("VmRSS")
    answer = v.query(texts)
    print(memory("VmHWM") - before - answer.nbytes, answer.nbytes)
    for at in range(0, len(texts), 700):
        part = v.query(texts[at : at + 700])
        np.testing.assert_allclose(answer[at : at + 700, : part.shape[1]], part, atol=1e-5, rtol=0)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_thousands_of_sentences_take_little_beside_their_answer(tmp_path):
    """Memory holds some thousand tokens more; the vectors are those that pieces of the text get."""
    dim = 1536
    options, weights = ef.write_model(tmp_path, ef.options(projection_dim=dim // 6))
    model = weights.read_bytes(), options.read_bytes()
    path = mf.write_magnitude(
        tmp_path / "none", [], np.zeros((0, dim), np.float32), elmo=True, meta=model
    )
    words, rng = mf.random_words(500, 1), random.Random(1)
    texts = tmp_path / "texts"
    texts.write_text("\n".join(" ".join(rng.choices(words, k=5)) for _ in range(3500)))
    said = subprocess.run(
        [sys.executable, "-c", CONTENT, str(path), str(texts)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    beyond, answer = map(int, said.split())
    assert answer == 3500 * 5 * dim * 4
    assert beyond < answer // 2


# Room


@pytest.fixture(scope="module")
def larger(tmp_path_factory, folder, files, elmo_vectors):
    """A file with more than a megabyte of weights; give their bytes, and the model."""
    options, weights = ef.write_model(tmp_path_factory.mktemp("larger"), ef.options(dim=1024))
    model = weights.read_bytes(), options.read_bytes()
    files["larger"] = mf.write_magnitude(
        folder / "larger", KEYS, elmo_vectors, elmo=True, meta=model
    )
    return len(model[0]), Encoder(options, weights)


def test_a_gpu_that_is_not_there_is_missed_before_anything_is_fetched(server, larger):
    with Magnitude(server.url + "larger", stream=True, devices=[99]) as v:
        with v.stats.measure() as used, pytest.raises(ArgumentError, match=r"devices=\[99\], but"):
            v.query(SENTENCE)
        assert used.requests == 0


def told_size(failure):
    """Read what an error says that the model needs."""
    asked = re.search(r"needs a cache_size of ([\d,]+) bytes in all", str(failure.value))
    return int(asked[1].replace(",", ""))


@pytest.mark.parametrize("cap", [0, 266_240, 600_000])
def test_a_cache_that_is_too_small_for_the_model(server, larger, tmp_path, cap):
    """What the error asks for is enough."""
    size, encoder = larger
    own = {"cache_dir": tmp_path / "small", "cache_size": cap}
    with Magnitude(server.url + "larger", stream=True, stream_options=own) as v:
        with v.stats.measure() as used, pytest.raises(CacheSpaceError) as failure:
            v.query(SENTENCE)
        assert used.bytes < 300_000 < size / 4
        assert not list(tmp_path.glob("small/files/*.*"))
        assert v.query("cat").shape == (DIM,)
    assert size < told_size(failure) < size + 3 * MIB
    own["cache_size"] = told_size(failure)
    with Magnitude(server.url + "larger", stream=True, stream_options=own) as v:
        close(v.query(SENTENCE), next(iter(encoder.embed([SENTENCE]))))


@pytest.fixture
def unpromised(larger, folder, files):
    """The same file with a frame that does not tell the size of its content."""
    path = folder / "unpromised"
    path.write_bytes(files["larger"].read_bytes())
    ef.changed_frame(
        path, lambda frame: lz4.frame.compress(lz4.frame.decompress(frame), store_size=False)
    )
    files["unpromised"] = path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
@pytest.mark.parametrize("name", ["larger", "unpromised"])
def test_a_full_disk(opened_file, larger, unpromised, cache, monkeypatch, name):
    """At once where the frame tells its size, in the middle where it does not."""
    size, encoder = larger
    monkeypatch.setenv("STREAMFILE_CACHE_SIZE", str(64 * MIB))
    monkeypatch.setattr("streamfile.readers.kept_blobs.GROW", 100_000)
    cache.mkdir()
    with needed.small_disk(cache, size + 100_000):
        (cache / "other").write_bytes(bytes(200_000))
        v = opened_file(name)
        for _ in range(2):
            with pytest.raises(CacheSpaceError, match=r"is full \(.*No space left") as failure:
                v.query(SENTENCE)
            # The options, which did fit.
            assert [path.stat().st_size < 1000 for path in cache.glob("files/*")] == [True]
            assert v.query("cat").shape == (DIM,)
        assert 0.99 * size < told_size(failure) < size + 3 * MIB
        grow = ["mount", "-o", f"remount,size={told_size(failure) + 300_000}", str(cache)]
        subprocess.run(grow, check=True)
        close(v.query(SENTENCE), next(iter(encoder.embed([SENTENCE]))))
        v.close()


LIMITED = """
import os, resource, sys
from streamfile import Magnitude
from vfs.errors import CacheSpaceError
with Magnitude(sys.argv[1], stream=True) as v:
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, usual[1]))
    try:
        v.query(["the"])
    except CacheSpaceError as failure:
        print("File too large" in str(failure), "needs a cache_size of" in str(failure))
    names = os.listdir(os.environ["STREAMFILE_CACHE_DIR"] + "/files")
    print([name for name in names if "." in name])  # what is unfinished
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    print(*v.query(["the"]).shape)
"""


def test_weights_larger_than_a_file_may_be(server, larger, monkeypatch):
    monkeypatch.setenv("STREAMFILE_CACHE_SIZE", str(64 * MIB))
    said = subprocess.run(
        [sys.executable, "-c", LIMITED, server.url + "larger"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert said.split("\n") == ["True True", "[]", f"1 {DIM}", ""]
