"""Values that are derived from one version of a file, and made again for another version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from streamfile.readers.base import Reader
from streamfile.readers.contents import Contents
from vfs.forks import ForkLock

T = TypeVar("T")


class PerVersion(Generic[T]):
    """A value derived from one version of a file; one thread makes it while others wait.

    Parameters
    ----------
    reader
        Reader of the file.

    Attributes
    ----------
    lock
        Lock that `get_or_make` holds while it makes a value.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._made: tuple[Contents, T] | None = None
        self.lock = ForkLock()

    def get(self) -> T | None:
        """Return the value if it is of the present version of the file, else None."""
        made = self._made
        return made[1] if made is not None and made[0] is self._reader.current() else None

    def set(self, contents: Contents, value: T) -> None:
        """Replace the value.

        Parameters
        ----------
        contents
            Contents of the version that the value is derived from.
        value
            The new value.
        """
        self._made = contents, value

    def get_or_make(self, make: Callable[[Contents], T]) -> T:
        """Return the value of the present version of the file; make it if it does not exist."""
        with self.lock:
            value = self.get()
            if value is None:
                contents = self._reader.current()
                value = make(contents)
                self.set(contents, value)
            return value

    def take(self) -> T | None:
        """Remove and return the value, whichever version it is of."""
        made, self._made = self._made, None
        return None if made is None else made[1]

    def remove(self, value: T) -> bool:
        """Remove a value, and tell whether this call did that: it may have been replaced."""
        with self.lock:
            made = self._made
            if made is None or made[1] is not value:
                return False
            self._made = None
            return True
