"""Search for the rows that are most similar to a key outside the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamfile._arrays import Ints
from streamfile.format.rows import no_text
from streamfile.fts3.reader import count, phrase
from streamfile.oov.hashing import BOW, EOW, ngrams
from streamfile.oov.stem import shrink_to_one, shrink_to_two, stem
from streamfile.oov.ties import Found, Matches, Order, Source, Ties
from vfs.btree.walk import Walk, together

TOPN = 3
MOST_SEARCHED = 1000  # characters
MOST_NGRAMS = {6: 4, 5: 8, 4: 12}
COMMON = 3  # n-grams of at most so many characters have long doclists
SHORT_KEY = 6
SMALL_TYPO = 4

SEARCH = (
    "SELECT magnitude.rowid, CAST(magnitude.key AS BLOB) FROM magnitude_subword, magnitude"
    " WHERE char_ngrams MATCH ? AND magnitude.rowid = magnitude_subword.docid ORDER BY"
    " (length(offsets(magnitude_subword))"
    " - length(replace(offsets(magnitude_subword), ' ', '')) + 1) / 4 DESC,{}"
    " length(magnitude.key), magnitude.rowid LIMIT 3"
)
BEGINNING_AND_END = (
    " (magnitude.key LIKE ? AND length(magnitude.key) <= ?) DESC,"
    " (magnitude.key LIKE ? AND length(magnitude.key) <= ?) DESC,"
)

Match = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Spelling:
    """Spellings that are searched for in place of a key.

    Attributes
    ----------
    original
        The key.
    wrapped
        The key with a mark at both ends, and with runs of a character shortened to two.
    stemmed
        The stem of the key, with the same changes; None if the stem is not searched for.
    candidates
        Groups of similar keys that the file may have, in the order in which they are tried.
    """

    original: str
    wrapped: str
    stemmed: str | None
    candidates: list[list[str]]

    @classmethod
    def of(cls, key: str, language: str | None, *, case_insensitive: bool) -> Spelling:
        """Make the spellings of a key."""

        def wrap(text: str) -> str:
            return shrink_to_two(BOW + (text.lower() if case_insensitive else text) + EOW)

        single = shrink_to_one(key)
        root, single_root = stem(key, language), stem(single, language)
        candidates = [[single, shrink_to_two(key)]]
        candidates += [[text] for text in (root, single_root) if text != key]
        stemmed = wrap(single_root) if single_root not in (key, single) else None
        return cls(key, wrap(key), stemmed, candidates)


def similar_rows(
    source: Source,
    keys: Sequence[str],
    *,
    language: str | None,
    case_insensitive: bool,
    encode: Callable[[Sequence[str]], list[bytes]],
    match: Match,
    prefer_sql: bool,
) -> Walk[list[list[int]]]:
    """Search for the rows that are most similar to keys; the searches share their waves.

    Parameters
    ----------
    source
        The file.
    keys
        Keys that the file does not have.
    language
        Language of the affixes, see `stem`.
    case_insensitive
        Whether to lower-case keys before the search for n-grams.
    encode
        Function that encodes keys as in the file.
    match
        Function that runs an SQL query, for keys that SQLite's query parser must interpret.
    prefer_sql
        Whether to search by SQL where possible, which is faster in a local file.

    Returns
    -------
    list of list of int
        For each key at most three row ids, the most similar row first. There can be six if two
        shortened forms of the key have several rows each.
    """
    fulltext = source.fulltext
    spellings = [Spelling.of(key, language, case_insensitive=case_insensitive) for key in keys]
    searched = [fulltext is not None and len(it.wrapped) < MOST_SEARCHED for it in spellings]
    groups = [
        spelling.candidates if search else [[spelling.original]]
        for spelling, search in zip(spellings, searched, strict=True)
    ]
    texts = list(dict.fromkeys(text for tried in groups for group in tried for text in group))
    ahead = [fulltext.load()] if fulltext is not None and not prefer_sql else []
    entries, *_ = yield from together([source.index.find(encode(texts)), *ahead])
    known = {
        text: [rowid for _, rowid in found] for text, found in zip(texts, entries, strict=True)
    }
    results = [_first_known(known, tried) for tried in groups]
    left = [at for at, search in enumerate(searched) if search and not results[at]]
    searches = [_Search(source, spellings[at], match, prefer_sql=prefer_sql).run() for at in left]
    for at, result in zip(left, (yield from together(searches)), strict=True):
        results[at] = result
    return results


def _first_known(known: Mapping[str, list[int]], groups: Sequence[Sequence[str]]) -> list[int]:
    """Return rows of the first group of keys that has any, an equal share of each key."""
    for group in groups:
        shares = [TOPN // len(group) + (at < TOPN % len(group)) for at in range(len(group))]
        split = [
            rowid
            for text, share in zip(group, shares, strict=True)
            for rowid in known[text][:share]
        ]
        if len(split) >= TOPN:
            return split
        if whole := [rowid for text in group for rowid in known[text][:TOPN]]:
            return whole
    return []


class _Search:
    """The search for rows with the n-grams of one key."""

    def __init__(
        self, source: Source, spelling: Spelling, match: Match, *, prefer_sql: bool
    ) -> None:
        assert source.fulltext is not None
        self._fulltext = source.fulltext
        self._source, self._spelling, self._match = source, spelling, match
        self._places: dict[bytes, Ints] = {}
        # SQLite may refuse characters that are not printable, such as a surrogate or a NUL.
        printable = prefer_sql and spelling.original.isprintable()
        self._by_sql = printable or '"' in spelling.original
        key = spelling.wrapped[len(BOW) : -len(EOW)]
        self._order = Order(key[:1], key[-1:], len(key) if len(key) <= SHORT_KEY else -1)

    def run(self) -> Walk[list[int]]:
        """Search for shorter and shorter n-grams until three rows are found."""
        spelling, told = self._spelling, self._source.format
        found: Found = []
        known_from = told.subword_end + 1
        for size in range(told.subword_end, told.subword_start - 1, -1):
            grams = _thinned(ngrams(spelling.wrapped, size, size), size)
            stems = [] if spelling.stemmed is None else self._stems(size)
            if self._by_sql:
                found = self._match_sql(grams)
                if spelling.stemmed is not None and not self._is_small_typo(found):
                    found = self._match_sql(stems)
            else:
                if size < known_from:
                    known_from = max(told.subword_start, min(size, COMMON + 1))
                    yield from self._fetch(range(known_from, size + 1))
                matches, others = self._count(grams), self._count(stems)
                last = size == told.subword_start
                if len(matches[0]) < TOPN and len(others[0]) < TOPN and not last:
                    continue
                found = yield from self._rank(grams, *matches)
                if spelling.stemmed is not None and not self._is_small_typo(found):
                    found = yield from self._rank(stems, *others)
            if len(found) >= TOPN:
                break
        return [rowid for rowid, _ in found]

    def _stems(self, size: int) -> list[str]:
        return ngrams(self._spelling.stemmed or "", size, self._source.format.subword_end)

    def _fetch(self, sizes: range) -> Walk[None]:
        """Read the places of all terms of n-grams of `sizes` characters."""
        grams = [
            gram
            for size in sizes
            for gram in _thinned(ngrams(self._spelling.wrapped, size, size), size)
        ]
        if self._spelling.stemmed is not None:
            grams += self._stems(sizes.start)
        terms = {term for gram in grams for term, _ in phrase(gram)}
        self._places |= yield from self._fulltext.find(terms - self._places.keys())

    def _count(self, grams: Sequence[str]) -> tuple[Ints, Ints]:
        return count(self._places, [phrase(gram) for gram in grams])

    def _rank(self, grams: Sequence[str], documents: Ints, counts: Ints) -> Walk[Found]:
        """Find the three most similar rows among those that have some of the n-grams.

        Parameters
        ----------
        grams
            The n-grams.
        documents, counts
            Rows that have some of them, and the number of matched terms of each row.
        """
        if len(counts) > TOPN:
            able = counts >= np.partition(counts, -TOPN)[-TOPN]
            documents, counts = documents[able], counts[able]
        first, last = BOW + self._order.first, self._order.last + EOW
        begin, _ = self._count([gram for gram in grams if gram.startswith(first)])
        end, _ = self._count([gram for gram in grams if gram.endswith(last)])
        ends = np.isin(documents, begin), np.isin(documents, end)
        matches = Matches(documents, counts, *ends)
        return (yield from Ties(self._source, self._order, matches).best(TOPN))

    def _is_small_typo(self, found: Found) -> bool:
        """Tell whether the best key differs from the original in at most four characters."""
        if not found:
            return False
        from difflib import SequenceMatcher  # few need it, and importing is to be cheap

        best, original = found[0][1].lower(), self._spelling.original.lower()
        longer = max(len(best), len(original))
        return longer - SequenceMatcher(None, best, original).ratio() * longer <= SMALL_TYPO

    def _match_sql(self, grams: Sequence[str]) -> Found:
        """Search for n-grams by SQL.

        In an FTS3 query a quotation mark ends a phrase, even if another one or a backslash
        precedes it.
        """
        query = " OR ".join(f'"{_escaped(gram)}"' for gram in grams)
        values: list[Any] = [query]
        first, last, longest = self._order
        if longest >= 0:
            values += [f"{first}%", longest, f"%{last}", longest]
        sql = SEARCH.format(BEGINNING_AND_END if longest >= 0 else "")
        rows = self._match(sql, [_text(value) for value in values])
        for rowid, key in rows:
            if key is None:
                raise no_text(self._source.table.name, rowid)
        return [(rowid, key.decode("utf-8", "surrogateescape")) for rowid, key in rows]


def _thinned(grams: list[str], size: int) -> list[str]:
    """Drop every other n-gram, but not the last, until at most `MOST_NGRAMS` are left."""
    while len(grams) > MOST_NGRAMS.get(size, len(grams)):
        grams = grams[:-1:2] + grams[-1:]
    return grams


def _escaped(gram: str) -> str:
    return gram.replace("*", "\\*").replace("^", "\\^").replace('"', '""')


def _text(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
