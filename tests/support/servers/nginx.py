"""Runs a real nginx on this machine, serving a folder."""

import http.client
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from processes import server_process
from waiting import PATIENCE

SYNC_PATH = "/.nginx-log-is-written"

CONFIG = """
{user}
daemon off;
worker_processes 1;
pid "{work}/nginx.pid";
lock_file "{work}/nginx.lock";
error_log "{work}/error.log" info;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path "{work}/body";
    proxy_temp_path "{work}/proxy";
    fastcgi_temp_path "{work}/fastcgi";
    uwsgi_temp_path "{work}/uwsgi";
    scgi_temp_path "{work}/scgi";
    default_type application/octet-stream;
    sendfile on;
    keepalive_timeout 60;
    limit_conn_zone $binary_remote_addr zone=clients:1m;
    limit_req_zone $binary_remote_addr zone=rate:1m rate=20r/s;
    log_format fields escape=json '{{"method": "$request_method", "path": "$request_uri", '
        '"status": "$status", "range": "$http_range", "if_match": "$http_if_match", '
        '"body_bytes_sent": "$body_bytes_sent", "connection": "$connection", '
        '"connection_requests": "$connection_requests"}}';
    access_log "{work}/access.log" fields;
    server {{
        listen 127.0.0.1:{port};
        root "{directory}";
        location = {sync} {{ access_log off; return 204; }}
        {extra}
    }}
}}
"""

NUMBERS = ("status", "body_bytes_sent", "connection", "connection_requests")


class Nginx(str):
    """The base URL of a running nginx, without a slash at its end; knows where the logs are."""

    access_log: Path
    error_log: Path

    def requests(self) -> list[dict[str, Any]]:
        """Read the log of the requests that have been answered so far.

        Each has method, path, status, range, if_match ("" where not sent), body_bytes_sent,
        connection (a number for each) and connection_requests (1 for the first on its connection).
        """
        # The one worker logs an answer before it takes the next request, so this waits for the log.
        connection = http.client.HTTPConnection(urlsplit(self).netloc, timeout=PATIENCE)
        connection.request("GET", SYNC_PATH)
        connection.getresponse().read()
        connection.close()
        entries = [json.loads(line) for line in self.access_log.read_text().splitlines()]
        return [
            entry | {name: int(entry[name]) for name in NUMBERS}
            for entry in entries
            if entry["path"]
            != SYNC_PATH  # logged where the configuration answers everything itself
        ]


def find_nginx() -> str | None:
    """Find the program, also where it is installed but not on a user's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def nginx_server(directory: Path, *, extra: str = "") -> Iterator[Nginx]:
    """Serve a folder until the end of the block.

    ``extra`` is configuration for the server block, and may hold locations. The zone ``clients``
    is there for ``limit_conn``, the zone ``rate`` of 20 requests a second for ``limit_req``.
    """
    program = find_nginx()
    if program is None:
        raise RuntimeError("nginx is not installed")
    with tempfile.TemporaryDirectory(prefix="nginx-") as work:
        access_log, error_log = Path(work, "access.log"), Path(work, "error.log")

        def command(port: int) -> list[str]:
            config = Path(work, "nginx.conf")
            config.write_text(
                CONFIG.format(
                    user="user root;" if os.getuid() == 0 else "",  # nobody could not read here
                    work=work,
                    port=port,
                    directory=directory.resolve(),
                    sync=SYNC_PATH,
                    extra=extra,
                )
            )
            error_log.unlink(missing_ok=True)
            return [program, "-p", work, "-c", str(config), "-e", str(error_log)]

        def ready(port: int) -> bool:
            # Workers are started once the port is bound.
            return error_log.exists() and "start worker process" in error_log.read_text()

        with server_process(command, ready, Path(work, "output")) as port:
            server = Nginx(f"http://127.0.0.1:{port}")
            server.access_log, server.error_log = access_log, error_log
            yield server
