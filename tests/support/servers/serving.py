"""A range server that keeps what it was asked, and `.magnitude` files replaced while it runs."""

from pathlib import Path

from waiting import wait_until

from streamfile.web.range_server import RangeServer, Served


class LoggingServer(RangeServer):
    """Serves a folder and notes each request when it has been answered."""

    def __init__(self, directory: Path, **options: float):
        self.log: list[Served] = []
        super().__init__(directory, **options)

    def observe(self, record: Served) -> None:
        """Note the request."""
        self.log.append(record)

    def requests(self, count: int) -> list[Served]:
        """Give the log once it has so many entries: the client may be ahead of it."""
        wait_until(lambda: len(self.log) >= count)
        assert len(self.log) == count
        return list(self.log)


def asked_range(record: Served) -> tuple[int, int]:
    """Give the first byte that a request asked for, and the one behind the last."""
    first, last = record.headers["Range"].removeprefix("bytes=").split("-")
    return int(first), int(last) + 1


def replace_file(path: Path, new: Path) -> None:
    """Put another file in the place of one, as a publisher does."""
    Path(new).replace(path)
