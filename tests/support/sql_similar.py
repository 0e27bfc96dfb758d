"""The vectors of unknown keys once more, as the format describes them, on top of plain SQL.

Nothing here uses the library under test but its lists of affixes.
"""

import itertools
import re
from difflib import SequenceMatcher

import magnitude_files as mf
import numpy as np
import xxhash

from streamfile.oov.stem import ENGLISH_PREFIXES, ENGLISH_SUFFIXES

EDGE = "\uf000"
SUBWORD = "magnitude_subword"


def misspelt(word, rng):
    """Insert, drop, replace, double or swap letters, once or twice."""
    letters = list(word)
    for _ in range(rng.choice([1, 1, 1, 2])):
        at = rng.randrange(len(letters) + 1)
        letter = rng.choice("etaoinshrdlu")
        kind = rng.randrange(5)
        if kind == 0 or len(letters) < 2:
            letters.insert(at, letter)
        elif kind == 1:
            del letters[at - 1]
        elif kind == 2:
            letters[at - 1] = letter
        elif kind == 3:
            letters.insert(at, letters[at - 1])
        else:
            at = min(at, len(letters) - 2)
            letters[at : at + 2] = reversed(letters[at : at + 2])
    return "".join(letters)


def shrunk(text, least, most):
    """Make runs of at least so many characters as short as that."""
    runs = [(char, len(list(run))) for char, run in itertools.groupby(text)]
    return "".join(char * (n if char == "<" or n < least else most) for char, n in runs)


def stemmed(key):
    """Strip the longest affixes until nothing changes."""
    if len(key) > 150:
        return key
    while True:
        lower = key.lower()
        prefixes = [f for p in ENGLISH_PREFIXES.split(",") for f in (p, p + "-")]
        suffixes = [f for s in ENGLISH_SUFFIXES.split(",") for f in (s, "-" + s)]
        before = max((len(f) for f in prefixes if lower.startswith(f)), default=0)
        behind = max((len(f) for f in suffixes if lower.endswith(f)), default=0)
        begin = 0 if behind > before else before
        end = len(key) - (0 if before > behind else behind)
        rest = key[begin:end]
        if len(rest) < 4 or rest == key:
            return key
        key = rest


def windows(text, shortest, longest):
    """List n-grams."""
    return [text[i : i + n] for n in range(shortest, longest + 1) for i in range(len(text) - n + 1)]


def equal(connection, key, limit):
    """Get the rows whose keys are equal but for their case."""
    found = connection.execute("SELECT rowid FROM magnitude WHERE key = ? LIMIT ?", (key, limit))
    return [rowid for (rowid,) in found]


def sql_search(connection, grams, key):
    """Run the search on its own, in the order of the specification."""
    quoted = ['"' + re.sub(r"([*^])", r"\\\1", g).replace('"', '""') + '"' for g in grams]
    inside = key[1:-1]
    short = ""
    if len(inside) <= 6:
        first, last = (char.replace("'", "''") for char in (inside[:1], inside[-1:]))
        short = (
            f"magnitude.key LIKE '{first}%' AND length(magnitude.key) <= {len(inside)} DESC,"
            f"magnitude.key LIKE '%{last}' AND length(magnitude.key) <= {len(inside)} DESC,"
        )
    offsets = f"offsets({SUBWORD})"
    return connection.execute(
        f"SELECT magnitude.rowid, magnitude.key FROM {SUBWORD}, magnitude "
        f"WHERE char_ngrams MATCH ? AND magnitude.rowid = {SUBWORD}.docid "
        f"ORDER BY (length({offsets}) - length(replace({offsets}, ' ', '')) + 1) / 4 DESC, {short}"
        "length(magnitude.key), magnitude.rowid LIMIT 3",
        (" OR ".join(quoted),),
    ).fetchall()


def sql_similar(
    connection, orig, *, shortest=3, longest=6, stemmed=stemmed, case_insensitive=False
):
    """Get the row ids similar to a key."""

    def wrapped(text):
        text = EDGE + (text.lower() if case_insensitive else text) + EDGE
        return shrunk(text, 3, 2)

    key = wrapped(orig)
    if len(key) >= 1000:
        return equal(connection, orig, 3)
    single = shrunk(orig, 2, 1)
    tried = [(single, shrunk(orig, 3, 2))]
    tried += [(text,) for text in (stemmed(orig), stemmed(single)) if text != orig]
    for group in tried:
        shares = [len(part) for part in np.array_split(range(3), len(group))]
        found = [
            r for text, n in zip(group, shares, strict=True) for r in equal(connection, text, n)
        ]
        if len(found) < 3:
            found = [r for text in group for r in equal(connection, text, 3)]
        if found:
            return found
    other = stemmed(single)
    found, size = [], longest
    while len(found) < 3 and size >= shortest:
        grams = windows(key, size, size)
        while len(grams) > {6: 4, 5: 8, 4: 12}.get(size, 10**9):
            grams = grams[:-1][::2] + grams[-1:]
        found = sql_search(connection, grams, key)
        typo = False
        if found:
            a, b = found[0][1].lower(), orig.lower()
            longer = max(len(a), len(b))
            typo = longer - SequenceMatcher(None, a, b).ratio() * longer <= 4
        if other not in (orig, single) and not typo:
            found = sql_search(connection, windows(wrapped(other), size, longest), key)
        size -= 1
    return [rowid for rowid, _ in found]


def random_vector(text, dim):
    """Give what numpy draws when seeded with a text's xxHash32."""
    return np.random.RandomState(xxhash.xxh32(text.encode()).intdigest()).uniform(-1, 1, dim)


def spelling_vector(key, dim):
    """Give the unit mean vector of a key's n-grams."""
    text = shrunk(EDGE + key + EDGE, 3, 2)
    mean = np.mean([random_vector(gram, dim) for gram in windows(text, 1, 6)], axis=0)
    return mean / np.linalg.norm(mean)


def sql_vector(connection, key, dim, *, normalized=True, **options):
    """Give the vector of a key that is not in the file, in float64."""
    answer = 0.3 * spelling_vector(key, dim)
    rows = [mf.sql_row_at(connection, rowid) for rowid in sql_similar(connection, key, **options)]
    vectors = [row.normalized if normalized else row.unnormalized for row in rows]
    if rows:
        mean = np.mean(vectors, axis=0, dtype=np.float64)
        answer += 0.7 * mean / np.linalg.norm(mean)
    return answer / np.linalg.norm(answer) if normalized else answer
