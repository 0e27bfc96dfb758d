"""Random bytes, read from servers that answer as a script says."""

import contextlib
import random

from scripted_server import Headers, ScriptedServer

import vfs

CONTENT = random.Random(1).randbytes(600_000)
AT = 74 * 4096  # beyond what opening reads
BLOCK = CONTENT[AT : AT + 4096]


def opened(server, **options):
    url = server if isinstance(server, str) else server.url
    return vfs.open(url, **({"cache_size": 0} | options))


@contextlib.contextmanager
def reading(*script, content=CONTENT, etag='"v1"', then=None, **options):
    """Give a server and a file opened at it."""
    scripted = ScriptedServer(content, script, etag=etag, then=then)
    with scripted as server, opened(server, **options) as file:
        yield server, file


def wave(file, count=8):
    """Read blocks too far apart to be joined."""
    offsets = [140_000 + 50_000 * n for n in range(count)]
    assert file.read_many([(at, 100) for at in offsets]) == [
        CONTENT[at : at + 100] for at in offsets
    ]


def without_length(extra, cut=None):
    """Give a body that ends with the connection, longer by some bytes or cut."""

    def answer(server, request):
        reply = Headers()(server, request)
        reply.body = (reply.body + bytes(extra))[:cut]
        del reply.headers["content-length"]
        return reply

    return answer
