"""Entry point of the command line."""

from __future__ import annotations

import argparse
import sys
from urllib.parse import quote

from streamfile.cli import files
from streamfile.web.range_server import RangeServer


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : list of str, optional
        The arguments, without the program's name. Default: the arguments of the process.

    Returns
    -------
    int
        The exit code: 0, 2 if the command failed, or 130 if it was interrupted.

    Raises
    ------
    SystemExit
        After `--help` and `--version`, and with code 2 if the arguments are no command.
    """
    from streamfile import __version__

    parser = argparse.ArgumentParser(
        prog="streamfile",
        description="Read big word-vector files over plain HTTP without downloading them.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve the files of a directory on this machine")
    serve.add_argument("directory", metavar="DIR")
    serve.add_argument("--port", type=_port, default=8000, metavar="N", help="default: 8000")
    serve.add_argument(
        "--latency", type=_milliseconds, default=0.0, metavar="MS", help="wait before each answer"
    )
    commands.add_parser("demo", help="stream a small bundled file from this machine")
    files.add_commands(commands)
    options = parser.parse_args(argv)

    if options.command == "serve":
        return _serve(options.directory, options.port, options.latency)
    if options.command != "demo":
        return files.run(options)
    from streamfile.cli import demo

    demo.run()
    return 0


def _serve(directory: str, port: int, latency: float) -> int:
    try:
        server = RangeServer(directory, port=port, latency=latency)
    except NotADirectoryError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"cannot listen on port {port}: {error.strerror}")
    try:
        print(f"Serving {directory} at {server.url} (Ctrl-C ends it)", flush=True)
        for path in sorted(server.directory.glob("*.magnitude")):
            print(f'  Magnitude("{server.url}{quote(path.name)}", stream=True)', flush=True)
        server.serve_forever()
    except KeyboardInterrupt:
        return 0
    finally:
        server.server_close()
    return 0


def _fail(message: str) -> int:
    print(f"streamfile: {message}", file=sys.stderr)
    return 2


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return port


def _milliseconds(text: str) -> float:
    seconds = float(text) / 1000
    if not 0 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("a latency is a number of milliseconds, not negative")
    return seconds
