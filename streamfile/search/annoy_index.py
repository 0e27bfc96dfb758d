"""Search of an index file of Annoy (https://github.com/spotify/annoy) with the metric angular.

A file is an array of nodes of equal size. A node has the number of its items (int32), two fields
of four bytes for its children's numbers (int32) or a length (float32), and a vector (float32). A
node of few items has the items' numbers in place of children and vector. The first nodes are the
items, each node comes behind its children, and the last nodes are the roots.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from streamfile._arrays import Floats, Ints
from streamfile.errors import FormatError
from vfs.cache.checksums import Checked
from vfs.cache.kept_file import KeptFile

HEAD = 3  # numbers of four bytes before the vector
BATCH = 64  # least number of nodes that are opened in one step
PART = 4096  # nodes that are copied into memory in one step
MOST_DEPTH = 10_000  # greatest depth of a tree; a tree of a million items has about 30 levels


class NeighbourIndex(Protocol):
    """Interface of an index that finds approximate nearest neighbours by angle."""

    def search(self, vector: npt.ArrayLike, n: int, search_k: int) -> tuple[Ints, Floats]:
        """Find items near a vector.

        Parameters
        ----------
        vector
            The vector, shape (dim,).
        n
            Greatest number of items, below 2**31.
        search_k
            Number of candidates to collect, below 2**31; a candidate in several trees counts
            several times.

        Returns
        -------
        items, distances
            Items, int64, the nearest first, and the Euclidean distances of the unit vectors,
            float32, both of shape (at most n,).

        Raises
        ------
        FormatError
            The file is malformed.
        """


def open_index(file: Path | KeptFile, dim: int, items: int, name: str) -> NeighbourIndex:
    """Open an index file, by Annoy itself if it is installed.

    Parameters
    ----------
    file
        The index file, which must not change, or its path. Of a kept file, what is used is checked
        before; searches raise a `DamagedFileError` too.
    dim, items
        Expected number of dimensions, and of items.
    name
        Name of the ``.magnitude`` file that has the index, for error messages.

    Raises
    ------
    FormatError
        The file is no index of such vectors.
    DamagedFileError
        The kept file has other bytes than were written.
    """
    try:
        from annoy import AnnoyIndex  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return IndexFile(file, dim, items, name)
    check, path = (file.check, file.path) if isinstance(file, KeptFile) else (_nothing, file)
    check()
    IndexFile(path, dim, items, name).check()  # Annoy itself does not check node numbers
    index = AnnoyIndex(dim, "angular")
    index.load(str(path))
    return Annoy(index, check)


def _nothing() -> None:
    """Check nothing."""


class Annoy:
    """An index that the library Annoy searches.

    Parameters
    ----------
    index
        A loaded ``annoy.AnnoyIndex``.
    check
        Function that raises an error if the file does not have its length any more.
    """

    def __init__(self, index: Any, check: Callable[[], None]) -> None:
        self._index, self._check = index, check

    def search(self, vector: npt.ArrayLike, n: int, search_k: int) -> tuple[Ints, Floats]:
        """Find items near a vector, see `NeighbourIndex`."""
        self._check()
        found = self._index.get_nns_by_vector(
            np.asarray(vector, np.float32).tolist(), n, search_k, include_distances=True
        )
        return np.array(found[0], np.int64), np.array(found[1], np.float32)


class IndexFile:
    """An index file, mapped into memory and searched with the results of Annoy.

    Annoy opens one node at a time until it has enough candidates: the node with the largest margin,
    and of equal margins the one with the highest number. No node has a larger margin or a higher
    number than its parent. Therefore the nodes that Annoy opens are the first ones in the order of
    margin and number. This class opens many nodes at once, and keeps the first ones in that order.

    Parameters
    ----------
    file, dim, items, name
        Arguments of `open_index`.
    """

    def __init__(self, file: Path | KeptFile, dim: int, items: int, name: str) -> None:
        self._name = name
        self._items = items
        size = file.size if isinstance(file, KeptFile) else file.stat().st_size
        self._nodes = size // (4 * (HEAD + dim))
        if not size or size % (4 * (HEAD + dim)):
            raise self._malformed(f"{size} bytes, no multiple of {4 * (HEAD + dim)}")
        shape = (self._nodes, HEAD + dim)
        self._checked: Checked | None = None
        if isinstance(file, KeptFile):
            view, self._checked = file.map()
            self._numbers = np.frombuffer(view, "<i4").reshape(shape)
        else:
            self._numbers = np.memmap(file, "<i4", "r", shape=shape).view(np.ndarray)
        self._vectors = self._numbers.view("<f4")[:, HEAD:]
        self._most_listed = HEAD - 1 + dim
        self._roots = self._find_roots()
        told = int(self._numbers[-1, 0])
        if told != items or items > self._nodes:
            raise self._malformed(f"{told} items for the {items} vectors of the file")

    def search(self, vector: npt.ArrayLike, n: int, search_k: int) -> tuple[Ints, Floats]:
        """Find items near a vector, see `NeighbourIndex`."""
        direction = np.asarray(vector, np.float32)
        wanted = np.zeros(self._items, np.bool_)
        leaves = self._leaves(direction, search_k)
        for begin in range(0, len(leaves), PART):
            wanted[self._listed(leaves[begin : begin + PART])] = True
        found = np.flatnonzero(wanted)
        found = found[self._numbers[self._sound(found), 0] == 1]
        squares = np.empty(len(found), np.float32)
        for begin in range(0, len(found), PART):
            part = slice(begin, begin + PART)
            squares[part] = self._squares(found[part], direction.astype(np.float64))
        nearest = np.argsort(squares, kind="stable")[:n]
        return found[nearest], np.sqrt(np.maximum(squares[nearest], 0))

    def check(self) -> None:
        """Check all nodes of the file.

        Raises
        ------
        FormatError
            A node leads out of the file, or the nodes are no trees.
        """
        # Each tree needs nodes to list all items, which limits the number of trees.
        if len(self._roots) * self._items > 2 * self._nodes * self._most_listed:
            raise self._malformed(f"{len(self._roots)} trees in {self._nodes} nodes")
        for begin in range(0, self._nodes, PART):
            nodes = np.arange(begin, min(begin + PART, self._nodes))
            counts, split, leaf = self._kinds(nodes)
            self._listed(nodes[leaf])
            parts = self._numbers[self._sound(self._children(nodes[split])), 0]
            # A node has at least as many items as its children together, which bounds a tree.
            few = (parts >= 1).all(1) & (parts.sum(1, dtype=np.int64) <= counts[split])
            if not few.all():
                raise self._malformed("a node that has fewer items than its children")

    def _find_roots(self) -> Ints:
        """List the roots: the copies of root nodes at the end of the file.

        Copies have equally many items. The root that was written last may directly precede the
        copies; it is left out.
        """
        width = PART
        while True:
            counts = self._numbers[
                self._sound(np.arange(max(0, self._nodes - width), self._nodes)), 0
            ]
            others = np.flatnonzero(counts != counts[-1])
            if len(others) or len(counts) == self._nodes:
                break
            width *= 2
        first = self._nodes - len(counts) + (int(others[-1]) + 1 if len(others) else 0)
        if self._nodes - first > 1 and self._numbers[first, 1] == self._numbers[-1, 1]:
            first += 1
        return np.arange(first, self._nodes)

    def _leaves(self, direction: Floats, search_k: int) -> Ints:
        """Find the nodes that list the candidates."""
        nodes = self._roots
        margins = np.full(len(nodes), np.inf, np.float32)
        leaves, leaf_margins, sizes = nodes[:0], margins[:0], nodes[:0]
        opened = rounds = 0
        while len(nodes) and search_k > 0:
            # A search opens each node of a tree once; a root may be listed twice.
            if opened > 2 * self._nodes or rounds > MOST_DEPTH + opened // BATCH:
                raise self._malformed("nodes that are no trees, or trees that are too deep")
            most = max(BATCH, len(nodes) // 8)
            order = np.argpartition(-margins, most) if len(nodes) > most else slice(None)
            nodes, margins = nodes[order], margins[order]
            counts, split, leaf = self._kinds(nodes[:most])
            opened += len(counts)
            rounds += 1
            leaves = np.concatenate([leaves, nodes[:most][leaf]])
            leaf_margins = np.concatenate([leaf_margins, margins[:most][leaf]])
            sizes = np.concatenate([sizes, counts[leaf]])
            parents = nodes[:most][split]
            with np.errstate(all="ignore"):
                sides = self._vectors[parents] @ direction
            least = np.fmin(margins[:most][split][:, None], np.stack([-sides, sides], 1))
            nodes = np.concatenate([nodes[most:], self._children(parents).ravel()])
            margins = np.concatenate([margins[most:], least.ravel()])
            if sizes.sum() >= search_k:
                chosen = np.lexsort((-leaves, -leaf_margins))
                before = np.cumsum(sizes[chosen]) - sizes[chosen]
                chosen = chosen[before < search_k]
                leaves, leaf_margins, sizes = leaves[chosen], leaf_margins[chosen], sizes[chosen]
                near = margins >= leaf_margins[-1]
                nodes, margins = nodes[near], margins[near]
        return leaves

    def _kinds(self, nodes: Ints) -> tuple[Ints, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return the numbers of items of nodes, which nodes have children, and which list items."""
        counts = self._numbers[self._sound(nodes), 0].astype(np.int64)
        if (counts < 0).any():
            raise self._malformed("a negative number of items")
        split = counts > self._most_listed
        return counts, split, ~split

    def _children(self, nodes: Ints) -> Ints:
        """Return the children of nodes that have children, int64, shape (n, 2)."""
        children = self._numbers[nodes, 1:3].astype(np.int64)
        if ((children < 0) | (children >= nodes[:, None])).any():
            raise self._malformed("a node before its children")
        return children

    def _listed(self, nodes: Ints) -> Ints:
        """List the items of nodes that list items."""
        counts = self._numbers[self._sound(nodes), 0]
        single = (counts == 1) & (nodes < self._items)
        lists = self._numbers[nodes[~single], 1:]
        listed = lists[np.arange(self._most_listed) < counts[~single, None]]
        if ((listed < 0) | (listed >= self._items)).any():
            raise self._malformed("an item that it does not have")
        return np.concatenate([nodes[single], listed])

    def _squares(self, items: Ints, direction: npt.NDArray[np.float64]) -> Floats:
        """Compute squared distances, 2 if a vector is zero.

        A matrix product would round equal vectors in different rows differently.
        """
        vectors = self._vectors[items].astype(np.float64)
        with np.errstate(all="ignore"):
            lengths = np.sqrt((vectors * vectors).sum(1) * (direction * direction).sum())
            cosines = (vectors * direction).sum(1) / lengths
        squares: Floats = (2 - 2 * np.nan_to_num(cosines)).astype(np.float32)
        return squares

    def _sound(self, nodes: Ints) -> Ints:
        """Return nodes of which a kept file was checked."""
        if self._checked is not None:
            size = self._numbers.shape[1] * 4
            self._checked.check_many(nodes.ravel() * size, size)
        return nodes

    def _malformed(self, what: str) -> FormatError:
        return FormatError(f"{self._name}: malformed: an approximate index with {what}")
