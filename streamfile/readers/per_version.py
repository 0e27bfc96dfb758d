"""What is made of one version of a file: once, and anew when the file is another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from streamfile.readers.base import Reader
from streamfile.readers.contents import Contents
from vfs.forks import ForkLock

T = TypeVar("T")


class PerVersion(Generic[T]):
    """A value of one version of a file, made by one thread while others wait for it.

    Parameters
    ----------
    reader
        Of the file.

    Attributes
    ----------
    lock
        Held while a value is made.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._made: tuple[Contents, T] | None = None
        self.lock = ForkLock()

    def get(self) -> T | None:
        """Return the value if there is one of the version that the file has now."""
        made = self._made
        return made[1] if made is not None and made[0] is self._reader.current() else None

    def set(self, contents: Contents, value: T) -> None:
        """Replace the value.

        Parameters
        ----------
        contents
            Of the version that the value was made of.
        value
            Of that version.
        """
        self._made = contents, value

    def get_or_make(self, make: Callable[[Contents], T]) -> T:
        """Return the value of the version that the file has now, made unless it is there."""
        with self.lock:
            value = self.get()
            if value is None:
                contents = self._reader.current()
                value = make(contents)
                self.set(contents, value)
            return value

    def take(self) -> T | None:
        """Forget the value, and return it, of whichever version it was."""
        made, self._made = self._made, None
        return None if made is None else made[1]
