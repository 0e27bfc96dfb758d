"""Base class of all models: queries for the vectors of keys, and comparisons."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar, overload

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Array
from streamfile.errors import ArgumentError
from streamfile.magnitude.shapes import Key, Keys, Query, check_length
from streamfile.magnitude.similarity import Similarity
from vfs.stats import Stats

Vector = npt.NDArray[np.floating[Any]]  # of shape (dim,)
Vectors = npt.NDArray[np.floating[Any]]  # of shape (n, dim) or (lists, n, dim)
Self = TypeVar("Self", bound="VectorModel")


class VectorModel(Similarity):
    """Base class of models, which return the vectors of keys in the shapes of queries.

    Queries and comparisons need a number of dimensions (`dim`), a type of the results (``dtype``),
    and vectors of keys (``_of_keys``). The subclasses are `streamfile.Magnitude`,
    `streamfile.FeaturizerMagnitude` and `streamfile.ConcatenatedMagnitude`.

    Parameters
    ----------
    use_numpy, case_insensitive, pad_to_length, truncate_left, pad_left, placeholders, dtype
        See `streamfile.Magnitude`.

    Attributes
    ----------
    path : str
        Path, URL or name of the model.
    stream : bool
        Whether the file is read by ranges, without downloading it.
    """

    __module__ = "streamfile"

    path = ""
    _has_keys: ClassVar[bool] = True  # False: any key has a vector, none is contained
    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __init__(
        self,
        *,
        use_numpy: bool = True,
        case_insensitive: bool = False,
        pad_to_length: int | None = None,
        truncate_left: bool = False,
        pad_left: bool = False,
        placeholders: int = 0,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        self.use_numpy = use_numpy
        self.case_insensitive = case_insensitive
        self.pad_to_length = check_length(pad_to_length)
        self.truncate_left = truncate_left
        self.pad_left = pad_left
        self.placeholders = placeholders
        self.dtype = _float_type(dtype)

    @property
    def emb_dim(self) -> int:
        """Number of dimensions of a vector, without placeholders."""
        return self.dim - self.placeholders

    @property
    def vector_size(self) -> int:
        """Number of dimensions of a result, the same as `dim`."""
        return self.dim

    @property
    def normalized(self) -> bool:
        """Whether vectors have unit length unless a query says otherwise."""
        return True

    @property
    def ngram_oov(self) -> bool:
        """Whether an unknown key gets the mean vector of its n-grams."""
        return True

    @property
    def stats(self) -> Stats:
        """Counters of requests, bytes, waves, retries and cache hits, all 0 without streaming.

        ``with v.stats.measure() as m`` counts during a block.
        """
        return Stats()

    @overload
    def query(
        self,
        q: str | float,
        *,
        pad_to_length: int | None = None,
        pad_left: bool | None = None,
        truncate_left: bool | None = None,
        normalized: bool | None = None,
    ) -> Vector: ...
    @overload
    def query(
        self,
        q: Key | Keys,
        *,
        pad_to_length: int | None = None,
        pad_left: bool | None = None,
        truncate_left: bool | None = None,
        normalized: bool | None = None,
    ) -> Vectors: ...
    def query(
        self,
        q: Key | Keys,
        *,
        pad_to_length: int | None = None,
        pad_left: bool | None = None,
        truncate_left: bool | None = None,
        normalized: bool | None = None,
    ) -> Any:
        """Return the vectors of a key, of a list of keys, or of a list of lists.

        All keys of a query share their round trips. The vector of a key outside the file is
        computed from its spelling. A tuple is a list of keys, except for a concatenation, where a
        tuple is one key with a form for each part.

        Parameters
        ----------
        q : key, sequence of keys, or sequence of sequences of keys
            Strings or numbers.
        pad_to_length, pad_left, truncate_left, normalized
            See the constructor; these values are for this query alone.

        Returns
        -------
        ndarray or list
            Shape (dim,), (n, dim) or (lists, n, dim), where n is the padded length; the padding
            is zeros.

        Raises
        ------
        ArgumentError
            A key is neither a string nor a number.
        vfs.VFSError
            See `vfs.errors`.
        """
        if type(q) is str:
            return self._given(self._of_keys([q], normalized)[0])
        query = Query.parse(
            q,
            pad_to_length=self.pad_to_length
            if pad_to_length is None
            else check_length(pad_to_length),
            pad_left=self.pad_left if pad_left is None else pad_left,
            truncate_left=self.truncate_left if truncate_left is None else truncate_left,
            tuple_is_key=self._tuple_is_key,
        )
        return self._given(query.shape(self._of_query(query, normalized)))

    def get_vector(self, key: Key, norm: bool | None = None) -> Vector:
        """Return the vector of a key, see `query`.

        Parameters
        ----------
        key
            A string or a number.
        norm
            Whether the vector has unit length. Default: the attribute ``normalized``.
        """
        found: Vector = self.query(key, normalized=norm)
        return found

    def close(self) -> None:
        """Close the model; all other methods raise a `vfs.ClosedError` from here on."""

    def _check_open(self) -> None:
        """Raise a `vfs.ClosedError` if the model was closed."""

    def __contains__(self, key: object) -> bool:
        """Tell whether the model contains the key; other keys have vectors too."""
        self._check_open()
        return False

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _of_query(self, query: Query, normalized: bool | None) -> Iterable[Array]:
        """Return the vectors of each truncated list of a query, shape (keys, dim) each."""
        vectors = self._of_keys(query.keys(), normalized)
        return [vectors] if query.depth < 2 else query.split(vectors)

    def _padded(self, vectors: Array) -> Array:
        """Add the placeholders behind the vectors."""
        if not self.placeholders:
            return vectors
        return np.pad(vectors, ((0, 0), (0, self.placeholders)))


def _float_type(dtype: npt.DTypeLike) -> np.dtype[Any]:
    kind = np.dtype(dtype)
    if kind.kind != "f":
        raise ArgumentError(f"dtype={dtype!r}: expected a float type such as numpy.float32")
    return kind
