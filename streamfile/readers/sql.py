"""SQLite's own view of a file, for what only SQL can answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apsw

from vfs.errors import DatabaseError
from vfs.forks import ForkLock, native, renew_in_children


class SqlConnection:
    """A connection to one file, opened with the first statement, which runs one at a time.

    A statement in one file never waits for a statement in another. SQLite has locks of its own,
    so a fork waits for statements, but not for the network that a statement may wait for.

    Parameters
    ----------
    name
        The file's, for messages.
    connect
        Opens the connection.
    """

    def __init__(self, name: str, connect: Callable[[], apsw.Connection]) -> None:
        self._name = name
        self._connect = connect
        self._connection: apsw.Connection | None = None
        self._lock = ForkLock()
        renew_in_children(self)

    def execute(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run a statement.

        Returns
        -------
        list of tuple
            All rows of its answer.

        Raises
        ------
        vfs.DatabaseError
            SQLite cannot read the file.
        """
        with self.entered() as connection:
            return connection.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def entered(self) -> Iterator[apsw.Connection]:
        """Hold the connection alone, for several statements.

        Raises
        ------
        vfs.DatabaseError
            SQLite cannot read the file.
        """
        try:
            with self._lock, native:
                if self._connection is None:
                    self._connection = self._connect()
                yield self._connection
        except apsw.Error as failure:
            raise DatabaseError(f"{self._name}: SQLite cannot read it: {failure}") from failure

    def close(self) -> None:
        """Close the connection."""
        with self._lock, native:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def renew(self) -> None:
        """Leave the connection to the parent process."""
        self._connection = None
