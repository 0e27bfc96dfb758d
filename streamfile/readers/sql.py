"""SQL connection to a file, for queries that SQLite itself must answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apsw

from vfs.errors import ClosedError, DatabaseError
from vfs.forks import ForkLock, native, renew_in_children


class SqlConnection:
    """An SQL connection to one file, opened with the first statement.

    Statements on one file run one at a time; a statement never waits for a statement on another
    file. SQLite has locks of its own. A fork therefore waits for statements, but not while a
    statement waits for the network.

    Parameters
    ----------
    name
        Name of the file, for error messages.
    connect
        Function that opens the connection.
    """

    def __init__(self, name: str, connect: Callable[[], apsw.Connection]) -> None:
        self._name = name
        self._connect = connect
        self._connection: apsw.Connection | None = None
        self._closed = False
        self._lock = ForkLock()
        renew_in_children(self)

    def execute(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run a statement, and return its rows.

        Returns
        -------
        list of tuple
            All rows of the result.

        Raises
        ------
        vfs.DatabaseError
            SQLite cannot read the file.
        """
        with self.entered() as connection:
            return connection.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def entered(self) -> Iterator[apsw.Connection]:
        """Hold the connection exclusively during a ``with`` block of several statements.

        Raises
        ------
        vfs.DatabaseError
            SQLite cannot read the file.
        vfs.ClosedError
            The connection was closed.
        """
        try:
            with self._lock, native:
                if self._closed:
                    raise ClosedError.of(self._name)
                if self._connection is None:
                    self._connection = self._connect()
                yield self._connection
        except apsw.Error as failure:
            raise DatabaseError(f"{self._name}: SQLite cannot read it: {failure}") from failure

    def close(self) -> None:
        """Close the connection, once a statement of another thread has ended."""
        self._closed = True
        with self._lock, native:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def renew(self) -> None:
        """Drop the connection, which belongs to the parent process."""
        self._connection = None
