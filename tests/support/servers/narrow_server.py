"""A web server of few threads, each of which serves one connection until it ends."""

import queue
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer


class _Handler(BaseHTTPRequestHandler):
    def setup(self):
        super().setup()
        self.disable_nagle_algorithm = True

    def do_GET(self):
        server = self.server
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        body = server.content[first : last + 1]
        server.requests.append((first, last))
        self.send_response(206)
        self.send_header("Content-Length", str(len(body)))
        self.send_header(
            "Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(server.content)}"
        )
        self.send_header("ETag", '"v1"')
        if server.closes:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class NarrowServer(HTTPServer):
    """Serves one content at any path as long as the ``with`` block runs.

    ``accepted`` counts connections, ``requests`` lists the ranges asked for. With ``closes``, an
    answer of HTTP/1.1 ends its connection.
    """

    request_queue_size = 128

    def __init__(self, content, *, threads=1, protocol="HTTP/1.1", closes=False):
        self.content, self.closes = content, closes
        self.requests = []
        self.accepted = 0
        handler = type("Handler", (_Handler,), {"protocol_version": protocol})
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}/file.magnitude"
        self._queue = queue.SimpleQueue()
        self._open = set()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        self._threads.append(threading.Thread(target=self.serve_forever, args=(0.01,)))

    def process_request(self, request, client_address):
        """Give the connection to the next thread that has nothing to do."""
        self.accepted += 1
        self._open.add(request)
        self._queue.put((request, client_address))

    def _work(self):
        while (item := self._queue.get()) is not None:
            with suppress(OSError):
                self.finish_request(*item)
            self.shutdown_request(item[0])
            self._open.discard(item[0])

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        for _ in self._threads:
            self._queue.put(None)
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(2)
        for thread in self._threads:
            thread.join()
        self.server_close()
