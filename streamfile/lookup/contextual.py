"""Vectors of words in context, computed by the ELMo model of a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamfile._arrays import Array, unit
from streamfile._progress import SHOW_AFTER, Progress
from streamfile.errors import ArgumentError, FormatError
from streamfile.format.tables import ELMO_OPTIONS, ELMO_WEIGHTS
from streamfile.lookup.vectors import Vectors
from streamfile.readers.base import Reader
from streamfile.readers.contents import Contents
from streamfile.readers.kept_blobs import blob_size, keep_blob
from streamfile.readers.per_version import PerVersion
from vfs.cache.checksums import DamagedFileError
from vfs.cache.kept_file import KeptFile, again
from vfs.cache.room import cap_for
from vfs.errors import CacheSpaceError

if TYPE_CHECKING:
    from streamfile.elmo import Encoder

DIRECTIONS = 2


@dataclass(frozen=True)
class Opened:
    """The ELMo model of one version of a file.

    Attributes
    ----------
    encoder
        Encoder of the model.
    files
        Kept files of the options and the weights, not evicted while this object exists.
    """

    encoder: Encoder
    files: tuple[KeptFile, KeptFile]


class Contextual:
    """The ELMo model of a file, fetched and loaded at its first use.

    Parameters
    ----------
    reader
        Reader of the file.
    vectors
        Stored and hashed vectors of the file.
    devices, precision, backend
        See `streamfile.Magnitude`.
    """

    def __init__(
        self,
        reader: Reader,
        vectors: Vectors,
        *,
        devices: Sequence[int],
        precision: str,
        backend: str,
    ) -> None:
        self._reader = reader
        self._vectors = vectors
        self._options: dict[str, Any] = {
            "devices": tuple(devices),
            "precision": precision,
            "backend": backend,
        }
        self._opened: PerVersion[Opened] = PerVersion(reader)

    @property
    def layers(self) -> int:
        """Number of layers of a vector, from the model's options alone."""
        dim = self._reader.current().format.dim
        with keep_blob(self._reader, ELMO_OPTIONS) as file:
            return self._check(file, dim)

    def of_sentences(
        self, sentences: Sequence[Sequence[Any]], normalized: bool | None
    ) -> Iterator[Array]:
        """Yield the vectors of words in context, for each sentence in order.

        Parameters
        ----------
        sentences
            Words of each sentence.
        normalized
            Whether the vectors have unit length, None for `Vectors.normalized`.

        Yields
        ------
        ndarray
            Vectors of a sentence's words, of type `Vectors.dtype`, shape (words, dim).

        Raises
        ------
        ArgumentError
            A word is no string.
        """
        for word in itertools.chain(*sentences):
            if not isinstance(word, str):
                raise ArgumentError(f"{word!r} in a sentence: expected words, which are strings")
        hashed: set[str] = set()
        if self._vectors.ngram_oov:
            words = list(dict.fromkeys(itertools.chain(*sentences)))
            hashed = set(words) - self._vectors.find(words).keys()
        scaled = self._vectors.normalized if normalized is None else normalized
        # The model does not read a sentence whose words all have hashed vectors.
        asked = [[] if hashed.issuperset(sentence) else list(sentence) for sentence in sentences]
        for sentence, vectors in zip(sentences, self._encode(asked), strict=True):
            answer = np.empty(
                (len(sentence), self._reader.contents.format.dim), self._vectors.dtype
            )
            if len(vectors):
                answer[:] = unit(vectors) if scaled else vectors
            places = [at for at, word in enumerate(sentence) if word in hashed]
            if places:
                answer[places] = self._vectors.of_keys([sentence[at] for at in places], normalized)
            yield answer

    def of_keys(self, keys: Sequence[Any], normalized: bool | None) -> Array:
        """Return the vectors of keys without context.

        The model encodes a word that the file does not store as a sentence of one word. If
        `Vectors.ngram_oov` is set, the vector of such a word is hashed instead.

        Parameters
        ----------
        keys, normalized
            See `Vectors.of_keys`.

        Returns
        -------
        ndarray
            Vectors of type `Vectors.dtype`, shape (n, dim).
        """
        known = self._vectors.recall(keys, normalized)
        if known is not None:
            return known
        if self._vectors.ngram_oov:
            return self._vectors.of_keys(keys, normalized)
        words = list(dict.fromkeys(key for key in keys if isinstance(key, str)))
        stored = self._vectors.find(words)
        lone = [word for word in words if word not in stored]
        alone = set(lone)
        mine = [isinstance(key, str) and key in alone for key in keys]
        others = [key for key, own in zip(keys, mine, strict=True) if not own]
        found = iter(self._vectors.of_keys(others, normalized, stored))
        sentences = self.of_sentences([[word] for word in lone], normalized)
        made = dict(zip(lone, (vectors[0] for vectors in sentences), strict=True))
        answer = np.empty((len(keys), self._reader.contents.format.dim), self._vectors.dtype)
        for at, (key, own) in enumerate(zip(keys, mine, strict=True)):
            answer[at] = made[key] if own else next(found)
        return answer

    def close(self) -> None:
        """Release the model."""
        self._opened.take()

    def _encode(self, sentences: Sequence[Sequence[str]]) -> Iterable[Array]:
        if not any(sentences):
            return [np.empty((0, 0), np.float32) for _ in sentences]
        encoder = again(lambda: self._opened.get_or_make(self._open)).encoder
        bar = Progress("ELMo", len(sentences), unit=" sentences", delay=SHOW_AFTER)
        return bar.track(encoder.embed(sentences))

    def _open(self, contents: Contents) -> Opened:
        from streamfile.elmo import Encoder, require

        # This check precedes the fetch of the weights, which are large.
        require(self._options["devices"], self._options["backend"])
        options = self._file(ELMO_OPTIONS)
        self._check(options, contents.format.dim)
        weights = self._file(ELMO_WEIGHTS)
        try:
            return Opened(Encoder(options.path, weights.path, **self._options), (options, weights))
        except FormatError as failure:
            if options.discard_if_damaged() or weights.discard_if_damaged():
                raise DamagedFileError(str(failure)) from failure  # since the file was checked
            raise self._unusable(failure) from failure

    def _file(self, what: str) -> KeptFile:
        """Return a kept file of the model; a `CacheSpaceError` tells the cap that all need."""
        try:
            return keep_blob(self._reader, what)
        except CacheSpaceError as failure:
            parts = (ELMO_OPTIONS, ELMO_WEIGHTS)
            size = cap_for(sum(blob_size(self._reader, part) for part in parts))
            raise CacheSpaceError(
                f"{failure}. The ELMo model of {self._reader.name} needs a cache_size of "
                f"{size:,} bytes in all, and as much free on the disk"
            ) from failure

    def _check(self, file: KeptFile, dim: int) -> int:
        """Check that the options make vectors of `dim` dimensions; return the number of layers."""
        from streamfile.elmo import read_options

        try:
            options = read_options(file.path)
        except FormatError as failure:
            raise self._unusable(failure) from failure
        layers = 1 + options.n_layers
        width = layers * DIRECTIONS * options.projection_dim
        if width != dim:
            raise self._unusable(f"it makes vectors of {width} dimensions, the file says {dim}")
        return layers

    def _unusable(self, reason: object) -> FormatError:
        return FormatError(
            f"{self._reader.name}: its ELMo model cannot be used; get the file again, or convert "
            f"it again from the options and the weights of one model: {reason}"
        )
