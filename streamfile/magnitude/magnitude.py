"""The public class: arguments, shapes, padding, and the cache of vectors."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Array
from streamfile.elmo import check_choices
from streamfile.errors import ArgumentError
from streamfile.lookup.contextual import Contextual
from streamfile.lookup.vectors import SCAN_ROWS, Vectors
from streamfile.magnitude.keyed_vectors import KeyedVectorsNames
from streamfile.magnitude.published import open_reader
from streamfile.magnitude.shapes import Key, as_list, padded_length, shaped, shaped_in_context
from streamfile.readers.base import Reader
from streamfile.search.approximate import Approximate
from streamfile.search.matrix import Matrix
from vfs.stats import Budget, Stats

LEGACY = {"supress_warnings", "batch_size", "eager", "temp_dir"}


class Magnitude(KeyedVectorsNames):
    """Word vectors of a ``.magnitude`` file, local or on a web server.

    Parameters
    ----------
    path : str or os.PathLike, or Magnitude
        A local file, a URL, or the name of a published model such as
        ``glove/light/glove.6B.50d``. What is not local is downloaded once, into
        ``~/.magnitude``, unless it is streamed. Several Magnitude objects instead, with no
        options, give their concatenation.
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
    pad_left, truncate_left : bool
        Pad, truncate, at the left end.
    placeholders : int
        Zeros behind each vector, to be filled with features.
    ngram_oov : bool, optional
        Whether keys outside the file get the mean vector of their n-grams. Default: yes, but for
        ELMo files.
    language : str, optional
        Of the affixes that are stripped from a key outside the file to find similar ones: "en".
    dtype : numpy float type
        Of all answers.
    route : str or os.PathLike or bool
        With ``stream=True``: path or URL of the file's sidecar, which saves round trips and is
        made by ``streamfile route``; True to look for it at the URL and ``.route``.
    remote_path : str, optional
        URL of the directory that short names are looked up in. Default: the environment variable
        ``STREAMFILE_REMOTE``, else http://magnitude.plasticity.ai/.
    devices : sequence of int
        The GPU that an ELMo model runs on, by its number; else the CPU.
    precision : str
        Of an ELMo model's products: ``float32`` or ``bfloat16``, which is faster and less exact.
    backend : str
        What runs an ELMo model: ``torch``, or ``allennlp`` where AllenNLP is installed.
    log : bool
        Whether a download shows a progress bar, on a terminal.
    **legacy
        ``supress_warnings``, ``batch_size``, ``eager`` and ``temp_dir`` of pymagnitude, which
        mean nothing here.

    Raises
    ------
    PathError
        There is no such file.
    FormatError
        It is no ``.magnitude`` file, or a newer one.
    ArgumentError
        An argument that cannot be.
    vfs.VFSError
        See `vfs.errors`: the network, the cache, or SQLite's own format.

    Notes
    -----
    The format and the numbers are those of Patel et al., "Magnitude: A Fast, Efficient Universal
    Vector Embedding Utility Package", EMNLP 2018. An object may be shared between threads, used
    after a fork, and pickled (path and options travel).
    """

    def __new__(cls, *arguments: Any, **options: Any) -> Magnitude:
        """Make a `ConcatenatedMagnitude` of Magnitude objects."""
        if cls is Magnitude and arguments and isinstance(arguments[0], Magnitude):
            from streamfile.magnitude.concatenated import ConcatenatedMagnitude

            return object.__new__(ConcatenatedMagnitude)
        return object.__new__(cls)

    def __init__(
        self,
        path: str | os.PathLike[str] | Magnitude,
        *others: Magnitude,
        stream: bool = False,
        stream_options: Mapping[str, Any] | None = None,
        lazy_loading: int = 0,
        blocking: bool = False,
        normalized: bool | None = None,
        use_numpy: bool = True,
        case_insensitive: bool = False,
        pad_to_length: int | None = None,
        pad_left: bool = False,
        truncate_left: bool = False,
        placeholders: int = 0,
        ngram_oov: bool | None = None,
        language: str | None = "en",
        dtype: npt.DTypeLike = np.float32,
        route: str | os.PathLike[str] | bool = False,
        remote_path: str | None = None,
        devices: Sequence[int] = (),
        precision: str = "float32",
        backend: str = "torch",
        log: bool = True,
        **legacy: Any,
    ) -> None:
        unnamed = ("self", "path", "others", "legacy")
        self._arguments = {k: v for k, v in locals().items() if k not in (*unnamed, "unnamed")}
        if unknown := legacy.keys() - LEGACY:
            raise TypeError(f"Magnitude has no argument {', '.join(map(repr, sorted(unknown)))}")
        if others or isinstance(path, Magnitude):
            raise ArgumentError("only Magnitude objects can be concatenated: Magnitude(a, b)")
        self.path = os.fspath(path)
        self.stream = stream
        self.use_numpy = use_numpy
        self.case_insensitive = case_insensitive
        self.pad_to_length = padded_length(pad_to_length)
        self.pad_left = pad_left
        self.truncate_left = truncate_left
        self.placeholders = placeholders
        self.dtype = _float_type(dtype)
        if lazy_loading < -1 or placeholders < 0:
            raise ArgumentError(
                f"lazy_loading={lazy_loading}, placeholders={placeholders}: expected -1 or more, "
                "and 0 or more"
            )
        check_choices(devices, precision, backend)
        self._reader = self._open(
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

    @property
    def emb_dim(self) -> int:
        """Dimensions of the vectors in the file."""
        return self._reader.format.dim

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

    def query(
        self,
        q: Key | Sequence[Key] | Sequence[Sequence[Key]],
        *,
        pad_to_length: int | None = None,
        pad_left: bool | None = None,
        truncate_left: bool | None = None,
        normalized: bool | None = None,
    ) -> Any:
        """Give the vectors of a key, of a list of keys, or of a list of lists.

        All keys of a query share their round trips. A key outside the file gets a vector made
        from its spelling.

        Parameters
        ----------
        q : key, sequence of keys, or sequence of sequences of keys
            Strings; a number has a vector too.
        pad_to_length, pad_left, truncate_left, normalized
            As in the constructor, for this query alone.

        Returns
        -------
        ndarray or list
            Shape (dim,), (n, dim) or (lists, n, dim) with n the padded length, zeros where there
            is no key.

        Raises
        ------
        ArgumentError
            Something that is no key.
        vfs.VFSError
            See `vfs.errors`.
        """
        layout: dict[str, Any] = {
            "pad_to_length": padded_length(
                self.pad_to_length if pad_to_length is None else pad_to_length
            ),
            "pad_left": self.pad_left if pad_left is None else pad_left,
            "truncate_left": self.truncate_left if truncate_left is None else truncate_left,
        }
        if self._reader.assumed.elmo and isinstance(as_list(q), list):
            answer = shaped_in_context(
                q,
                lambda sentences: self._contextual.of_sentences(sentences, normalized),
                dim=self.dim,
                dtype=self.dtype,
                **layout,
            )
        else:
            answer = shaped(q, lambda keys: self._each(keys, normalized), **layout)
        return self._given(answer)

    def unroll(self, v: Any) -> Any:
        """Separate the layers of ELMo vectors; others are returned as they are.

        Parameters
        ----------
        v : ndarray or list
            What `query` gave: shape (dim,), (n, dim) or (lists, n, dim).

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
        if not self._reader.assumed.elmo:
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

    def index(self, q: int | Sequence[int], return_vector: bool = True) -> Any:
        """Give keys by their place in the file, which is usually by falling frequency.

        Parameters
        ----------
        q : int or sequence of int
            From 0; negative ones count from the end.
        return_vector
            Whether to give the vectors too.

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

    def __getitem__(self, q: int | slice | Sequence[int]) -> Any:
        """Give (key, vector) of a place, or a list of them for a slice or several places."""
        if isinstance(q, slice):
            return self.index(list(range(*q.indices(len(self)))))
        return self.index(q)

    def __contains__(self, key: object) -> bool:
        """Tell whether the file has the key."""
        return isinstance(key, str) and key in self._vectors.find([key])

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Go through all (key, vector) in the order of the file."""
        size = len(self)
        for begin in range(0, size, SCAN_ROWS):
            yield from self._rows(range(begin, min(begin + SCAN_ROWS, size)))

    def __len__(self) -> int:
        """Give the number of vectors in the file."""
        return self._reader.format.size

    def __enter__(self) -> Magnitude:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Magnitude, self.path, **self._arguments), ()

    def __repr__(self) -> str:
        return f"<Magnitude {self._reader.name}>"

    def _open(self, **options: Any) -> Reader:
        return open_reader(self.path, **options)

    def _rows(self, places: Sequence[int]) -> Iterator[tuple[str, Any]]:
        keys, vectors = self._vectors.of_places(places)
        for key, vector in zip(keys, self._padded(vectors), strict=True):
            yield key, self._given(vector.copy())

    def _each(self, keys: Sequence[Key], normalized: bool | None = None) -> Array:
        """Give the vectors of keys, none of which is the context of another."""
        source = self._contextual if self._reader.assumed.elmo else self._vectors
        return self._padded(source.of_keys(keys, normalized))

    def _padded(self, vectors: Array) -> Array:
        """Put the placeholders behind the vectors."""
        if not self.placeholders:
            return vectors
        return np.pad(vectors, ((0, 0), (0, self.placeholders)))

    def _place(self, number: Any) -> int:
        """Check a row number, and make a negative one positive."""
        place, size = operator.index(number), len(self)
        if not -size <= place < size:
            raise IndexError(f"index {place} is out of range: the file has {size} vectors")
        return place % size

    def _given(self, answer: Array) -> Any:
        return answer if self.use_numpy else answer.tolist()


def _float_type(dtype: npt.DTypeLike) -> np.dtype[Any]:
    kind = np.dtype(dtype)
    if kind.kind != "f":
        raise ArgumentError(f"dtype={dtype!r}: expected a float type such as numpy.float32")
    return kind
