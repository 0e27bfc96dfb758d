"""Walks: generators that descend b-trees and yield the page numbers that they need next.

A walk yields a set of page numbers, is sent the pages by number, and finally returns its result.
Many walks can share one wave. A walk knows neither HTTP nor caches.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from vfs.btree.pages import Layout, Pages
from vfs.btree.record import Page
from vfs.errors import DatabaseError

T = TypeVar("T")
Walk = Generator[set[int], Mapping[int, Page], T]


class Tree(Protocol):
    """A b-tree that stores its interior pages."""

    def unknown(self) -> list[int]:
        """List interior pages that are worth fetching, see `BTree.unknown`."""

    def learn(self, number: int, page: Page) -> bool:
        """Store a page if it is an interior page, and tell whether it is one."""


def run(pages: Pages, walk: Walk[T], *, trees: Sequence[Tree] = (), opening: bool = False) -> T:
    """Run a walk to its end, with one wave for each set of pages that it yields.

    Parameters
    ----------
    pages
        Pages of the file.
    walk
        The walk.
    trees
        Trees whose missing interior pages are fetched on connections that a wave does not use.
    opening
        Whether the walk only serves to open the database, see `RemotePages.read`.

    Returns
    -------
    object
        The return value of the walk.
    """
    try:
        wanted = next(walk)
        while True:
            spare = [(tree, number) for tree in trees for number in tree.unknown()]
            got = {}
            if wanted:
                numbers = [number for _, number in spare]
                got = pages.read(wanted, spare=numbers, opening=opening)
            for tree, number in spare:
                if number in got and number not in wanted:
                    tree.learn(number, got[number])
            wanted = walk.send(got)
    except StopIteration as done:
        result: T = done.value
        return result


def together(walks: Sequence[Walk[Any]]) -> Walk[list[Any]]:
    """Combine walks into one walk, whose waves fetch the next pages of all of them.

    Returns
    -------
    list
        The results of the walks, in order.
    """
    results: dict[int, Any] = {}
    wants: dict[int, set[int]] = {}

    def advance(position: int, got: Mapping[int, Page] | None) -> None:
        try:
            walk = walks[position]
            wanted = next(walk) if got is None else walk.send(got)
            while not wanted:  # a walk that needs no page does not wait for the other walks
                wanted = walk.send({})
            wants[position] = wanted
        except StopIteration as done:
            results[position] = done.value
            wants.pop(position, None)

    for position in range(len(walks)):
        advance(position, None)
    while wants:
        got = yield set().union(*wants.values())
        for position in list(wants):
            advance(position, got)
    return [results[position] for position in range(len(walks))]


def read_chains(
    name: str,
    layout: Layout,
    chains: Sequence[tuple[int, int]],
    *,
    most: int,
    visit: Callable[[Collection[int]], None],
) -> Walk[list[bytes]]:
    """Read overflow chains (file format, section 1.6).

    The pages of a chain are consecutive in a compact file. One wave therefore asks for many pages
    of a chain, and a page is used only if its predecessor points to it.

    Parameters
    ----------
    name, layout
        Name and layout of the file.
    chains
        (first page, length in bytes) of each chain.
    most
        Greatest permitted length of a chain in bytes.
    visit
        Called with the number of each used page; raises an error if the page was used before.

    Returns
    -------
    list of bytes
        The content of each chain.

    Raises
    ------
    DatabaseError
        A chain ends early, or is longer than `most` or than the file.
    """
    room = layout.usable - 4
    parts: list[list[Page]] = [[] for _ in chains]
    left = {i: length for i, (_, length) in enumerate(chains) if length > 0}
    following = [first for first, _ in chains]
    ahead = {i: -(-length // room) for i, length in left.items()}
    if any(length > min(most, layout.page_count * room) for length in left.values()):
        raise DatabaseError(
            f"{name}: malformed: a record of {max(left.values()):,} bytes in its overflow pages "
            f"(at most {most:,} are read, and the file has {layout.page_count:,} pages)"
        )
    while left:
        guesses = {
            i: _successors(following[i], min(ahead[i], -(-left[i] // room)), layout) for i in left
        }
        pages = yield {number for guess in guesses.values() for number in guess}
        for i, guess in guesses.items():
            used = 0
            for number in guess:
                if number != following[i]:
                    break
                visit((number,))
                used += 1
                page = pages[number]
                parts[i].append(page[4 : 4 + min(room, left[i])])
                left[i] -= room
                following[i] = int.from_bytes(page[:4], "big")
            if left[i] <= 0:
                del left[i]
                continue
            if not 1 <= following[i] <= layout.page_count:
                raise DatabaseError(
                    f"{name}: malformed: an overflow chain goes on at page {following[i]} "
                    f"with {left[i]:,} bytes missing"
                )
            ahead[i] = 2 * used
    return [b"".join(part) for part in parts]


def _successors(first: int, count: int, layout: Layout) -> list[int]:
    """List the pages of a consecutive chain, which leaves out the page of the lock byte."""
    numbers = range(first, min(first + count + 1, layout.page_count + 1))
    return [first, *(number for number in numbers[1:] if number != layout.lock_page)][:count]
