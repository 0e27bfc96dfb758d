"""Searches of a file's rows: most similar keys, analogies, approximate neighbours."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np

from streamfile._arrays import Array, Doubles, unit
from streamfile.errors import ArgumentError, FormatError
from streamfile.magnitude.model import VectorModel
from streamfile.magnitude.shapes import Item, several
from streamfile.search.approximate import Approximate
from streamfile.search.matrix import Matrix
from streamfile.search.page_decoder import Block
from streamfile.search.ranking import rank
from streamfile.search.scan import scan

CLOSER = 1e-5
COSMUL_EPSILON = 1e-6


Ranking = list[tuple[str, float]]


class Search(VectorModel):
    """A model with methods that search its rows."""

    @abstractmethod
    def _get_matrix(self) -> Matrix:
        """Return the matrix of all rows; raise a FormatError if the model has no file."""

    @abstractmethod
    def _get_approximate(self) -> Approximate:
        """Return the search in the file's index; raise a NoIndexError if the model has no file."""

    @overload
    def most_similar(
        self,
        positive: Item | Sequence[Item],
        negative: Item | Sequence[Item] = (),
        topn: int | None = 10,
        min_similarity: float | None = None,
        return_similarities: Literal[True] = True,
        *,
        restrict_vocab: int | None = None,
    ) -> Ranking: ...
    @overload
    def most_similar(
        self,
        positive: Item | Sequence[Item],
        negative: Item | Sequence[Item] = (),
        topn: int | None = 10,
        min_similarity: float | None = None,
        *,
        return_similarities: Literal[False],
        restrict_vocab: int | None = None,
    ) -> list[str]: ...
    @overload
    def most_similar(
        self,
        positive: Item | Sequence[Item],
        negative: Item | Sequence[Item] = (),
        topn: int | None = 10,
        min_similarity: float | None = None,
        return_similarities: bool = True,
        *,
        restrict_vocab: int | None = None,
    ) -> Ranking | list[str]: ...
    def most_similar(
        self,
        positive: Item | Sequence[Item],
        negative: Item | Sequence[Item] = (),
        topn: int | None = 10,
        min_similarity: float | None = None,
        return_similarities: bool = True,
        *,
        restrict_vocab: int | None = None,
    ) -> Ranking | list[str]:
        """Rank the keys of the file by the cosine of their vectors with a sum of vectors.

        The first call reads the vectors of all searched rows, also from a server, and keeps them
        for later calls if they fit, see `streamfile.search.matrix.Matrix`. The given keys are no
        results, and each key is a result only once.

        Parameters
        ----------
        positive, negative : key, vector, or list of them
            The unit vectors of positive keys are added, those of negative keys subtracted; given
            vectors are not scaled.
        topn : int, optional
            Greatest number of results, None for all.
        min_similarity : float, optional
            Least similarity of a result, None for no limit.
        return_similarities
            Whether to return the similarities too.
        restrict_vocab : int, optional
            Number of rows to search, from the beginning of the file, where the most frequent keys
            usually are. Default: all rows.

        Returns
        -------
        list of (str, float), or of str
            The most similar key first; equally similar keys in the order of the file.

        Raises
        ------
        FormatError
            The file has no rows.
        ArgumentError
            A vector has another number of dimensions, or a number is negative.
        vfs.BudgetError
            Reading the rows would exceed a budget. No row was requested.
        """
        matrix, count = self._searched(topn, restrict_vocab)
        vectors, _, excluded = self._targets(positive, negative)
        if not len(vectors):
            return []
        direction = vectors[0] if len(vectors) == 1 else vectors.mean(0)
        best = rank(
            matrix,
            unit(direction)[None],
            lambda cosines, slack: cosines[0] + slack if slack else cosines[0],
            count,
            shifted=True,
            topn=topn,
            least=min_similarity,
            excluded=excluded,
            fold=self._fold,
        )
        return best if return_similarities else [key for key, _ in best]

    @overload
    def most_similar_cosmul(
        self,
        positive: Item | Sequence[Item],
        negative: Item | Sequence[Item] = (),
        topn: int | None = 10,
        min_similarity: float | None = None,
        return_similarities: Literal[True] = True,
        *,
        restrict_vocab: int | None = None,
    ) -> Ranking: ...
    @overload
    def most_similar_cosmul(
        self,
        positive: Item | Sequence[Item],
        negative: Item | Sequence[Item] = (),
        topn: int | None = 10,
        min_similarity: float | None = None,
        *,
        return_similarities: Literal[False],
        restrict_vocab: int | None = None,
    ) -> list[str]: ...
    @overload
    def most_similar_cosmul(
        self,
        positive: Item | Sequence[Item],
        negative: Item | Sequence[Item] = (),
        topn: int | None = 10,
        min_similarity: float | None = None,
        return_similarities: bool = True,
        *,
        restrict_vocab: int | None = None,
    ) -> Ranking | list[str]: ...
    def most_similar_cosmul(
        self,
        positive: Item | Sequence[Item],
        negative: Item | Sequence[Item] = (),
        topn: int | None = 10,
        min_similarity: float | None = None,
        return_similarities: bool = True,
        *,
        restrict_vocab: int | None = None,
    ) -> Ranking | list[str]:
        """Rank the keys of the file by 3CosMul (Levy and Goldberg 2014).

        Parameters, results and errors are those of `most_similar`. The similarity is the product
        of (1 + cosine) / 2 over the positive vectors, divided by the sum of 1e-6 and the same
        product over the negative vectors.
        """
        matrix, count = self._searched(topn, restrict_vocab)
        vectors, positives, excluded = self._targets(positive, negative)
        if not len(vectors):
            return []

        def score(cosines: Array, slack: float) -> Doubles:
            shares = (1 + cosines.astype(np.float64)) / 2
            above = np.clip(shares[:positives] + slack, 0, None).prod(0)
            below = np.clip(shares[positives:] - slack, 0, None).prod(0)
            answer: Doubles = above / (below + COSMUL_EPSILON)
            return answer

        units = unit(np.concatenate([vectors[:positives], -vectors[positives:]]))
        best = rank(
            matrix,
            units,
            score,
            count,
            shifted=False,
            topn=topn,
            least=min_similarity,
            excluded=excluded,
            fold=self._fold,
        )
        return best if return_similarities else [key for key, _ in best]

    @overload
    def most_similar_approx(
        self,
        positive: Item | Sequence[Item],
        negative: Item | Sequence[Item] = (),
        topn: int | None = 10,
        min_similarity: float | None = None,
        return_similarities: Literal[True] = True,
        effort: float = 1.0,
    ) -> Ranking: ...
    @overload
    def most_similar_approx(
        self,
        positive: Item | Sequence[Item],
        negative: Item | Sequence[Item] = (),
        topn: int | None = 10,
        min_similarity: float | None = None,
        *,
        return_similarities: Literal[False],
        effort: float = 1.0,
    ) -> list[str]: ...
    @overload
    def most_similar_approx(
        self,
        positive: Item | Sequence[Item],
        negative: Item | Sequence[Item] = (),
        topn: int | None = 10,
        min_similarity: float | None = None,
        return_similarities: bool = True,
        effort: float = 1.0,
    ) -> Ranking | list[str]: ...
    def most_similar_approx(
        self,
        positive: Item | Sequence[Item],
        negative: Item | Sequence[Item] = (),
        topn: int | None = 10,
        min_similarity: float | None = None,
        return_similarities: bool = True,
        effort: float = 1.0,
    ) -> Ranking | list[str]:
        """Rank the keys that an index of approximate neighbours finds, by cosine.

        The first call fetches the index, which is kept in the cache directory. Some of the most
        similar keys may be missing, and there may be fewer results than `topn`.

        Parameters
        ----------
        positive, negative, return_similarities
            As in `most_similar`.
        topn : int, optional
            Greatest number of results, None for all that the index finds.
        min_similarity
            No effect.
        effort
            Extent of the search, from 0 for no candidates to 1 for about ``topn`` candidates in
            each tree of the index. More candidates find more keys, and take longer.

        Returns
        -------
        list of (str, float), or of str
            The most similar key first.

        Raises
        ------
        NoIndexError
            The file has no index.
        FormatError
            The index is malformed.
        ArgumentError
            A vector has another number of dimensions, or a number is negative.
        vfs.BudgetError
            Reading the index would exceed a budget. None of its overflow pages was requested.
        vfs.CacheSpaceError
            The index cannot be kept on disk, see `keep_blob`.
        """
        _check_count("topn", topn)
        approximate = self._get_approximate()
        approximate.check()
        vectors, _, excluded = self._targets(positive, negative)
        if not len(vectors):
            return []
        direction = vectors[0] if len(vectors) == 1 else vectors.mean(0)
        best = approximate.rank(
            unit(direction), topn=topn, effort=effort, excluded=excluded, fold=self._fold
        )
        return best if return_similarities else [key for key, _ in best]

    def closer_than(self, key: Item, q: Item, topn: int | None = None) -> list[str]:
        """List the keys that are more similar to `key` than `q` is.

        Parameters
        ----------
        key, q : key or vector
        topn : int, optional
            Greatest number of keys, None for all.

        Returns
        -------
        list of str
            The most similar key first.
        """
        least = self.similarity(key, q) + CLOSER
        return self.most_similar([key], topn=topn, min_similarity=least, return_similarities=False)

    def get_vectors_mmap(self) -> Array:
        """Read all vectors of the file, in the order of its rows.

        Returns
        -------
        ndarray
            A new array, shape (number of vectors, dim).
        """
        reader, normalized = self._get_matrix().reader, self.normalized
        told = reader.current().format
        answer = np.zeros((told.size, told.dim + self.placeholders), self.dtype)

        def take(block: Block) -> None:
            part = slice(block.first, block.first + len(block.vectors))
            answer[part, : told.dim] = block.vectors

        for _ in scan(reader, told.size, take, normalized=normalized):
            pass
        return answer

    def _searched(self, topn: int | None, restrict_vocab: int | None) -> tuple[Matrix, int]:
        """Check arguments and cost of a search; return the matrix and the number of rows."""
        _check_count("topn", topn)
        _check_count("restrict_vocab", restrict_vocab)
        matrix = self._get_matrix()
        told = matrix.reader.current().format
        if not told.size:
            hint = (
                ". Take the flavour of the model that comes with a vocabulary "
                "('with Google News word2vec vocabulary')"
            )
            raise FormatError(
                f"{matrix.reader.name}: there are no rows to search{hint if told.elmo else ''}"
            )
        count = told.size if restrict_vocab is None else min(told.size, restrict_vocab)
        matrix.check_cost(count)
        return matrix, count

    def _targets(self, positive: Any, negative: Any) -> tuple[Doubles, int, set[str]]:
        """Return the vectors, negative ones negated, the number of positive ones, excluded keys."""
        positives, _ = several(positive)
        negatives, _ = several(negative)
        items = [*positives, *negatives]
        if not items:
            return np.empty((0, 0)), 0, set()
        vectors, is_key = self._resolve(items)
        if len(items) > 1:
            vectors[is_key] = unit(vectors[is_key])
        vectors[len(positives) :] *= -1
        keys = [item for item, key in zip(items, is_key, strict=True) if key]
        return vectors, len(positives), {self._fold(key) for key in keys if isinstance(key, str)}

    def _fold(self, key: str) -> str:
        return key.lower() if self.case_insensitive else key


def _check_count(name: str, value: int | None) -> None:
    if value is not None and value < 0:
        raise ArgumentError(f"{name}={value}: expected 0 or more")
