"""Public class for the word vectors of a ``.magnitude`` file."""

from __future__ import annotations

import functools
import operator
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
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
from vfs.deadline import within
from vfs.options import Options
from vfs.stats import Budget, Stats


class Magnitude(KeyedVectorsNames):
    """Word vectors of a ``.magnitude`` file, local or on a web server.

    Parameters
    ----------
    path : str or os.PathLike, or model
        Path of a local file, a URL, or the name of a published model such as
        ``glove/light/glove.6B.50d``. Without ``stream``, a remote file is downloaded once, to
        ``~/.magnitude``. Several models, without other arguments, make a `ConcatenatedMagnitude`.
    stream : bool
        Whether to read a remote file by ranges, without downloading it.
    stream_options : mapping, optional
        Options of `vfs.open`, e.g. ``{"cache_dir": "/tmp/cache", "max_bytes": 10**8}``.
    lazy_loading : int
        Number of vectors in memory: -1 for all vectors, loaded at once; 0 for the most recently
        used ones up to 64 MiB; n > 0 for the n most recently used ones.
    blocking : bool
        With ``lazy_loading=-1``: whether the constructor loads the vectors, not a background
        thread.
    normalized : bool, optional
        Whether vectors have unit length, or their original length. Default: True, except for ELMo
        files.
    use_numpy : bool
        Whether results are numpy arrays, or lists.
    case_insensitive : bool
        Whether to ignore the case of ASCII letters if no row has exactly the key.
    pad_to_length : int, optional
        Number of keys to which each list in a query is padded or truncated. Default: the length of
        the longest list.
    truncate_left, pad_left : bool
        Whether to truncate, and to pad, at the left end.
    placeholders : int
        Number of zeros behind each vector, for the caller's own features.
    ngram_oov : bool, optional
        Whether a key outside the file gets the mean vector of its n-grams. Default: True, except
        for ELMo files.
    supress_warnings, batch_size, eager, temp_dir
        Arguments of pymagnitude without effect, each of which causes one warning.
    language : str, optional
        Language of the affixes that are stripped from a key outside the file, to find similar keys:
        "en".
    dtype : numpy float type
        Type of all results.
    devices : sequence of int
        Numbers of GPUs, of which the first one runs an ELMo model; an empty sequence for the CPU.
    log : bool
        Whether downloads and conversions show a progress bar if standard error is a terminal.
    route : str or os.PathLike or bool
        With ``stream=True``: path or URL of the file's sidecar, which saves round trips; True to
        look for it at the URL and ``.route``. ``streamfile route`` makes sidecars.
    remote_path : str, optional
        URL of the directory of published models. Default: the environment variable
        ``STREAMFILE_REMOTE``, else http://magnitude.plasticity.ai/.
    precision : str
        ``float32``, or ``bfloat16`` for the matrix products of an ELMo model's LSTMs, which is
        faster and less precise.
    backend : str
        Library that runs an ELMo model: ``torch``, or ``allennlp`` if AllenNLP is installed.

    Raises
    ------
    PathError
        The file does not exist.
    FormatError
        The file is no ``.magnitude`` file, or has a newer format version.
    ArgumentError
        An argument has an impossible value.
    TypeError
        An argument has an unknown name.
    vfs.VFSError
        See `vfs.errors`: errors of the network, of the cache, and of SQLite's file format.

    Notes
    -----
    The file format and the computed vectors are those of Patel et al., "Magnitude: A Fast,
    Efficient Universal Vector Embedding Utility Package", EMNLP 2018. Threads may share an object,
    and forked processes may use it. A pickled object contains the constructor's arguments; the copy
    of a closed object is open.
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
    @checked_arguments  # type: ignore[misc]  # `__new__` can return a `ConcatenatedMagnitude`
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
        opening = within(Options.parse(stream_options or {}).deadline) if stream else nullcontext()
        with opening:
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
                    try:
                        self._vectors.load_all()
                    except BaseException:
                        self.close()
                        raise
                else:
                    threading.Thread(target=self._vectors.load_in_background, daemon=True).start()

    if not TYPE_CHECKING:

        @functools.wraps(__init__)
        def __new__(cls, *arguments: Any, **options: Any) -> Any:
            """Make a `ConcatenatedMagnitude` if the first argument is a model."""
            if cls is Magnitude and arguments and isinstance(arguments[0], VectorModel):
                return ConcatenatedMagnitude(*arguments, **options)
            return super().__new__(cls)

    @property
    def deadline(self) -> float | None:
        """The option ``deadline`` of a streamed file: seconds that a call may take."""
        return self._reader.deadline

    @property
    def emb_dim(self) -> int:
        """Number of dimensions of the vectors in the file."""
        return self._reader.current().format.dim

    @property
    def dim(self) -> int:
        """Number of dimensions of a result: those of the file plus the placeholders."""
        return self.emb_dim + self.placeholders

    @property
    def normalized(self) -> bool:
        """Whether vectors have unit length unless a query says otherwise."""
        return self._vectors.normalized

    @property
    def ngram_oov(self) -> bool:
        """Whether a key outside the file gets the mean vector of its n-grams."""
        return self._vectors.ngram_oov

    @property
    def stats(self) -> Stats:
        """Counters of requests, bytes, waves, retries and cache hits, all 0 for a local file.

        ``with v.stats.measure() as m`` counts during a block.
        """
        return self._reader.stats

    @property
    def budget(self) -> Budget:
        """Limits ``max_requests`` and ``max_bytes``, which the caller may set at any time."""
        return self._reader.budget

    def unroll(self, v: Any) -> Any:
        """Separate the layers of ELMo vectors; other vectors are returned unchanged.

        Parameters
        ----------
        v : ndarray or list
            Result of `query`, shape (dim,), (n, dim) or (lists, n, dim).

        Returns
        -------
        ndarray or list
            Layers without placeholders, shape (layers, d), (layers, n, d) or
            (lists, layers, n, d), where d is the number of dimensions of a layer.

        Raises
        ------
        ArgumentError
            The array has another shape.
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
        """Read keys by position in the file, where keys are usually in the order of frequency.

        Parameters
        ----------
        q : int or sequence of int
            Positions from 0; negative positions count from the end.
        return_vector
            Whether to return the vectors too.

        Returns
        -------
        str, (str, vector), or a list of those
            One item for an int, a list of items for a sequence.

        Raises
        ------
        IndexError
            The file does not have the position.
        """
        indices = as_list(q)
        single = not isinstance(indices, list)
        places = [self._place(number) for number in ([indices] if single else indices)]
        answer: list[Any] = list(self._rows(places))
        if not return_vector:
            answer = [key for key, _ in answer]
        return answer[0] if single else answer

    def close(self) -> None:
        """Close the file; all other methods raise a `vfs.ClosedError` from here on.

        A call in another thread completes, or raises this error.
        """
        self._vectors.close()
        self._contextual.close()
        self._matrix.close()
        self._approximate.close()

    @overload
    def __getitem__(self, q: int) -> tuple[str, Vector]: ...
    @overload
    def __getitem__(self, q: slice | Sequence[int]) -> list[tuple[str, Vector]]: ...
    def __getitem__(self, q: int | slice | Sequence[int]) -> Any:
        """Return (key, vector) at a position, or a list of such pairs for several positions."""
        if isinstance(q, slice):
            return self.index(list(range(*q.indices(len(self)))))
        return self.index(q)

    def __contains__(self, key: object) -> bool:
        """Tell whether the file has the key."""
        found = self._vectors.find([key] if isinstance(key, str) else [])
        return isinstance(key, str) and key in found

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Yield (key, vector) of all rows, in the order of the file."""
        size = len(self)
        for begin in range(0, size, SCAN_ROWS):
            for row in self._rows(range(begin, min(begin + SCAN_ROWS, size))):
                self._check_open()
                yield row

    def __len__(self) -> int:
        """Return the number of vectors in the file."""
        return self._reader.current().format.size

    def __reduce__(self) -> tuple[Any, ...]:
        arguments, options = self._arguments
        return functools.partial(Magnitude, *arguments, **options), ()

    def __repr__(self) -> str:
        return f"<Magnitude {self._reader.name}>"

    def _check_open(self) -> None:
        self._reader.check_open()

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
        self._reader.current()  # sentences without words ask for nothing
        # The model encodes whole sentences; truncation changes no vector of the words that remain.
        sentences = self._contextual.of_sentences(query.lists, normalized)
        return (self._padded(query.cut(vectors)) for vectors in sentences)

    def _place_of(self, key: object) -> int | None:
        found = self._vectors.find([key] if isinstance(key, str) else [])
        return found[key] - 1 if isinstance(key, str) and key in found else None

    def _rows(self, places: Sequence[int]) -> Iterator[tuple[str, Any]]:
        keys, vectors = self._vectors.of_places(places)
        for key, vector in zip(keys, self._padded(vectors), strict=True):
            yield key, self._given(vector.copy())

    def _place(self, number: Any) -> int:
        """Check a position; convert a negative one to a position from the beginning."""
        place, size = operator.index(number), len(self)
        if not -size <= place < size:
            raise IndexError(f"index {place} is out of range: the file has {size} vectors")
        return place % size


Magnitude.register(ConcatenatedMagnitude)
