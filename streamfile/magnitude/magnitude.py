"""Word vectors of a file: the public class."""

from __future__ import annotations

import functools
import operator
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Array
from streamfile.elmo import check_choices
from streamfile.errors import ArgumentError
from streamfile.lookup.contextual import Contextual
from streamfile.lookup.vectors import SCAN_ROWS, Vectors
from streamfile.magnitude.arguments import check_counts, checked_arguments, warn_of_ignored
from streamfile.magnitude.concatenated import ConcatenatedMagnitude
from streamfile.magnitude.keyed_vectors import KeyedVectorsNames
from streamfile.magnitude.model import Vector, VectorModel
from streamfile.magnitude.published import open_model
from streamfile.magnitude.shapes import Key, Query, as_list
from streamfile.search.approximate import Approximate
from streamfile.search.matrix import Matrix
from vfs.stats import Budget, Stats


class Magnitude(KeyedVectorsNames):
    """Word vectors of a ``.magnitude`` file, local or on a web server.

    Parameters
    ----------
    path : str or os.PathLike, or model
        A local file, a URL, or the name of a published model such as
        ``glove/light/glove.6B.50d``. What is not local is downloaded once, into
        ``~/.magnitude``, unless it is streamed. Several models instead, with no options, give a
        `ConcatenatedMagnitude` of them.
    stream : bool
        Read the file by ranges from where it is, without downloading it.
    stream_options : mapping, optional
        The options of `vfs.open`, e.g. ``{"cache_dir": "/tmp/cache", "max_bytes": 10**8}``.
    lazy_loading : int
        Vectors kept in memory: -1 all of them, loaded from the start; 0 as many of the last used
        as 64 MiB hold; n > 0 the n last used.
    blocking : bool
        With ``lazy_loading=-1``: load before returning instead of in the background.
    normalized : bool, optional
        Whether vectors are of unit length. Default: yes, but for ELMo files.
    use_numpy : bool
        Whether answers are numpy arrays instead of lists.
    case_insensitive : bool
        Whether a key of other case will do where there is none of the same.
    pad_to_length : int, optional
        Keys that each list in a query is padded or truncated to. Default: the longest list.
    truncate_left, pad_left : bool
        Truncate, pad, at the left end.
    placeholders : int
        Zeros behind each vector, to be filled with features.
    ngram_oov : bool, optional
        Whether keys outside the file get the mean vector of their n-grams. Default: yes, but for
        ELMo files.
    supress_warnings, batch_size, eager, temp_dir
        Of pymagnitude. They mean nothing here, and warn once.
    language : str, optional
        Of the affixes that are stripped from a key outside the file to find similar ones: "en".
    dtype : numpy float type
        Of all answers.
    devices : sequence of int
        The GPU that an ELMo model runs on, by its number; else the CPU.
    log : bool
        Whether a download shows a progress bar, on a terminal.
    route : str or os.PathLike or bool
        With ``stream=True``: path or URL of the file's sidecar, which saves round trips and is
        made by ``streamfile route``; True to look for it at the URL and ``.route``.
    remote_path : str, optional
        URL of the directory that short names are looked up in. Default: the environment variable
        ``STREAMFILE_REMOTE``, else http://magnitude.plasticity.ai/.
    precision : str
        Of an ELMo model's products: ``float32`` or ``bfloat16``, which is faster and less exact.
    backend : str
        What runs an ELMo model: ``torch``, or ``allennlp`` where AllenNLP is installed.

    Raises
    ------
    PathError
        There is no such file.
    FormatError
        It is no ``.magnitude`` file, or a newer one.
    ArgumentError
        An argument that cannot be.
    TypeError
        An argument of an unknown name.
    vfs.VFSError
        See `vfs.errors`: the network, the cache, or SQLite's own format.

    Notes
    -----
    The format and the numbers are those of Patel et al., "Magnitude: A Fast, Efficient Universal
    Vector Embedding Utility Package", EMNLP 2018. An object may be shared between threads, used
    after a fork, and pickled (path and options travel).
    """

    __module__ = "streamfile"

    @overload
    def __init__(self, path: VectorModel, *others: VectorModel) -> None: ...
    @overload
    def __init__(
        self,
        path: str | os.PathLike[str],
        stream: bool = False,
        stream_options: Mapping[str, Any] | None = None,
        lazy_loading: int = 0,
        blocking: bool = False,
        normalized: bool | None = None,
        use_numpy: bool = True,
        case_insensitive: bool = False,
        pad_to_length: int | None = None,
        truncate_left: bool = False,
        pad_left: bool = False,
        placeholders: int = 0,
        ngram_oov: bool | None = None,
        supress_warnings: bool | None = None,
        batch_size: int | None = None,
        eager: bool | None = None,
        language: str | None = "en",
        dtype: npt.DTypeLike = np.float32,
        devices: Sequence[int] = (),
        temp_dir: str | None = None,
        log: bool = True,
        *,
        route: str | os.PathLike[str] | bool = False,
        remote_path: str | None = None,
        precision: str = "float32",
        backend: str = "torch",
    ) -> None: ...
    @checked_arguments  # type: ignore[misc]  # `__new__` makes another object of several models
    def __init__(
        self,
        path: str | os.PathLike[str],
        stream: bool = False,
        stream_options: Mapping[str, Any] | None = None,
        lazy_loading: int = 0,
        blocking: bool = False,
        normalized: bool | None = None,
        use_numpy: bool = True,
        case_insensitive: bool = False,
        pad_to_length: int | None = None,
        truncate_left: bool = False,
        pad_left: bool = False,
        placeholders: int = 0,
        ngram_oov: bool | None = None,
        supress_warnings: bool | None = None,
        batch_size: int | None = None,
        eager: bool | None = None,
        language: str | None = "en",
        dtype: npt.DTypeLike = np.float32,
        devices: Sequence[int] = (),
        temp_dir: str | None = None,
        log: bool = True,
        *,
        route: str | os.PathLike[str] | bool = False,
        remote_path: str | None = None,
        precision: str = "float32",
        backend: str = "torch",
    ) -> None:
        if isinstance(path, VectorModel) or isinstance(stream, VectorModel):
            raise ArgumentError("only Magnitude objects can be concatenated: Magnitude(a, b)")
        super().__init__(
            use_numpy=use_numpy,
            case_insensitive=case_insensitive,
            pad_to_length=pad_to_length,
            truncate_left=truncate_left,
            pad_left=pad_left,
            placeholders=check_counts(lazy_loading, placeholders),
            dtype=dtype,
        )
        warn_of_ignored(
            supress_warnings=supress_warnings, batch_size=batch_size, eager=eager, temp_dir=temp_dir
        )
        check_choices(devices, precision, backend)
        self.path = os.fspath(path)
        self.stream = stream
        self._reader = open_model(
            self.path,
            stream=stream,
            stream_options=stream_options,
            remote_path=remote_path,
            route=route,
            log=log,
        )
        self._matrix = Matrix(self._reader)
        self._approximate = Approximate(self._matrix)
        self._vectors = Vectors(
            self._reader,
            lazy_loading=lazy_loading,
            normalized=normalized,
            ngram_oov=ngram_oov,
            case_insensitive=case_insensitive,
            language=language,
            dtype=self.dtype,
        )
        self._contextual = Contextual(
            self._reader, self._vectors, devices=devices, precision=precision, backend=backend
        )
        if lazy_loading == -1:
            if blocking:
                self._vectors.load_all()
            else:
                threading.Thread(target=self._vectors.load_in_background, daemon=True).start()

    if not TYPE_CHECKING:

        @functools.wraps(__init__)
        def __new__(cls, *arguments: Any, **options: Any) -> Any:
            """Make a `ConcatenatedMagnitude` of models."""
            if cls is Magnitude and arguments and isinstance(arguments[0], VectorModel):
                return ConcatenatedMagnitude(*arguments, **options)
            return super().__new__(cls)

    @property
    def emb_dim(self) -> int:
        """Dimensions of the vectors in the file."""
        return self._reader.current().format.dim

    @property
    def dim(self) -> int:
        """Dimensions of the answers: those of the file and the placeholders."""
        return self.emb_dim + self.placeholders

    @property
    def normalized(self) -> bool:
        """Whether vectors are of unit length unless a query says otherwise."""
        return self._vectors.normalized

    @property
    def ngram_oov(self) -> bool:
        """Whether keys outside the file get the mean vector of their n-grams."""
        return self._vectors.ngram_oov

    @property
    def stats(self) -> Stats:
        """Requests, bytes, waves, retries, cache hits; ``with v.stats.measure() as m`` for a block.

        All zero for a local file.
        """
        return self._reader.stats

    @property
    def budget(self) -> Budget:
        """The limits ``max_requests`` and ``max_bytes``, which may be set at any time."""
        return self._reader.budget

    def unroll(self, v: Any) -> Any:
        """Separate the layers of ELMo vectors; others are returned as they are.

        Parameters
        ----------
        v : ndarray or list
            What `query` returned: shape (dim,), (n, dim) or (lists, n, dim).

        Returns
        -------
        ndarray or list
            Shape (layers, d), (layers, n, d) or (lists, layers, n, d) with d the dimensions of a
            layer; without placeholders.

        Raises
        ------
        ArgumentError
            Another shape.
        """
        if not self._elmo:
            return v
        vectors = np.asarray(v)
        if vectors.ndim not in (1, 2, 3) or vectors.shape[-1] != self.dim:
            raise ArgumentError(
                f"an array of shape {vectors.shape} to unroll: expected what query gives, with "
                f"{self.dim} dimensions"
            )
        count = self._contextual.layers
        layers = vectors[..., : self.emb_dim].reshape(
            *vectors.shape[:-1], count, self.emb_dim // count
        )
        return self._given(np.moveaxis(layers, -2, max(vectors.ndim - 2, 0)))

    @overload
    def index(self, q: int, return_vector: Literal[True] = True) -> tuple[str, Vector]: ...
    @overload
    def index(self, q: int, return_vector: Literal[False]) -> str: ...
    @overload
    def index(
        self, q: Sequence[int], return_vector: Literal[True] = True
    ) -> list[tuple[str, Vector]]: ...
    @overload
    def index(self, q: Sequence[int], return_vector: Literal[False]) -> list[str]: ...
    @overload
    def index(self, q: int | Sequence[int], return_vector: bool = True) -> Any: ...
    def index(self, q: int | Sequence[int], return_vector: bool = True) -> Any:
        """Read keys by their place in the file, which is usually by falling frequency.

        Parameters
        ----------
        q : int or sequence of int
            From 0; negative ones count from the end.
        return_vector
            Whether to return the vectors too.

        Returns
        -------
        str, (str, vector), or a list of those
            One for an int, a list for a sequence.

        Raises
        ------
        IndexError
            A place that the file does not have.
        """
        indices = as_list(q)
        single = not isinstance(indices, list)
        places = [self._place(number) for number in ([indices] if single else indices)]
        answer: list[Any] = list(self._rows(places))
        if not return_vector:
            answer = [key for key, _ in answer]
        return answer[0] if single else answer

    def close(self) -> None:
        """Close the file."""
        self._contextual.close()
        self._matrix.close()
        self._approximate.close()
        self._vectors.close()

    @overload
    def __getitem__(self, q: int) -> tuple[str, Vector]: ...
    @overload
    def __getitem__(self, q: slice | Sequence[int]) -> list[tuple[str, Vector]]: ...
    def __getitem__(self, q: int | slice | Sequence[int]) -> Any:
        """Return (key, vector) of a place, or a list of them for a slice or several places."""
        if isinstance(q, slice):
            return self.index(list(range(*q.indices(len(self)))))
        return self.index(q)

    def __contains__(self, key: object) -> bool:
        """Tell whether the file has the key."""
        return isinstance(key, str) and key in self._vectors.find([key])

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Yield all (key, vector) in the order of the file."""
        size = len(self)
        for begin in range(0, size, SCAN_ROWS):
            yield from self._rows(range(begin, min(begin + SCAN_ROWS, size)))

    def __len__(self) -> int:
        """Count the vectors in the file."""
        return self._reader.current().format.size

    def __reduce__(self) -> tuple[Any, ...]:
        arguments, options = self._arguments
        return functools.partial(Magnitude, *arguments, **options), ()

    def __repr__(self) -> str:
        return f"<Magnitude {self._reader.name}>"

    @property
    def _elmo(self) -> bool:
        return self._reader.contents.format.elmo

    def _get_matrix(self) -> Matrix:
        return self._matrix

    def _get_approximate(self) -> Approximate:
        return self._approximate

    def _of_keys(self, keys: Sequence[Key], normalized: bool | None) -> Array:
        source = self._contextual if self._elmo else self._vectors
        return self._padded(source.of_keys(keys, normalized))

    def _of_query(self, query: Query, normalized: bool | None) -> Iterable[Array]:
        if not self._elmo or not query.depth:
            return super()._of_query(query, normalized)
        # Where sentences are truncated, their words keep the vectors that they have in the whole.
        sentences = self._contextual.of_sentences(query.lists, normalized)
        return (self._padded(query.cut(vectors)) for vectors in sentences)

    def _place_of(self, key: str) -> int | None:
        rowid = self._vectors.find([key]).get(key)
        return None if rowid is None else rowid - 1

    def _rows(self, places: Sequence[int]) -> Iterator[tuple[str, Any]]:
        keys, vectors = self._vectors.of_places(places)
        for key, vector in zip(keys, self._padded(vectors), strict=True):
            yield key, self._given(vector.copy())

    def _place(self, number: Any) -> int:
        """Check a place, and make a negative one positive."""
        place, size = operator.index(number), len(self)
        if not -size <= place < size:
            raise IndexError(f"index {place} is out of range: the file has {size} vectors")
        return place % size


Magnitude.register(ConcatenatedMagnitude)
