"""Commands that write files: convert, repack, route; and the command info."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from streamfile.errors import ArgumentError, StreamfileError
from vfs.errors import VFSError

FLAVOURS = {"light": (False, False), "medium": (True, False), "heavy": (True, True)}
FAILED, INTERRUPTED = 2, 130


def add_commands(commands: Any) -> None:
    """Add the parsers of these commands.

    Parameters
    ----------
    commands
        Return value of `argparse.ArgumentParser.add_subparsers`.
    """
    convert = commands.add_parser(
        "convert", help="make .magnitude files of vector files and ELMo models"
    )
    convert.add_argument("-i", "--input", required=True, metavar="PATH", help="a file or directory")
    convert.add_argument("-o", "--output", required=True, metavar="PATH", help="the same")
    convert.add_argument(
        "-p", "--precision", type=int, default=7, metavar="N", help="decimal places; default: 7"
    )
    convert.add_argument("-s", action="store_true", help="no n-grams of the keys (light)")
    convert.add_argument(
        "-w",
        "--window",
        type=_window,
        default=(3, 6),
        metavar="A,B",
        help="characters in the shortest and the longest n-grams; default: 3,6",
    )
    convert.add_argument("-a", action="store_true", help="an index for approximate search (heavy)")
    convert.add_argument(
        "-t", "--trees", type=int, metavar="N", help="of that index; default: 50 or more"
    )
    convert.add_argument(
        "-v", "--vocab", metavar="FILE", help="keys that an ELMo file has vectors of"
    )
    convert.add_argument("--flavour", choices=FLAVOURS, help="light: -s, heavy: -a")
    convert.set_defaults(run=_convert)

    repack = commands.add_parser("repack", help="lay a .magnitude file out for streaming")
    repack.add_argument("input", metavar="FILE")
    repack.add_argument("-o", "--output", required=True, metavar="FILE")
    repack.add_argument("--verify", action="store_true", help="compare every row afterwards")
    repack.set_defaults(run=_repack)

    route = commands.add_parser(
        "route", help="make a sidecar for a file on the web that cannot be replaced"
    )
    route.add_argument("input", metavar="URL_OR_FILE")
    route.add_argument("-o", "--output", required=True, metavar="FILE.route")
    route.set_defaults(run=_route)

    for command in (convert, repack, route):
        command.add_argument("--force", action="store_true", help="replace the output if it exists")
        command.add_argument("--quiet", action="store_true", help="no progress bars")

    info = commands.add_parser("info", help="tell about a .magnitude file")
    info.add_argument("input", metavar="FILE_OR_URL")
    info.set_defaults(run=_info)


def run(options: argparse.Namespace) -> int:
    """Run one of these commands.

    Returns
    -------
    int
        The exit code: 0, 2 after an error, or 130 after an interrupt.
    """
    command: Callable[[argparse.Namespace], None] = options.run
    try:
        command(options)
    except (StreamfileError, VFSError, OSError, ImportError) as failure:
        print(f"streamfile: {failure}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("streamfile: interrupted; nothing was left behind", file=sys.stderr)
        return INTERRUPTED
    return 0


def _convert(options: argparse.Namespace) -> None:
    from streamfile.tools.convert import convert

    if options.flavour and (options.s or options.a):
        raise ArgumentError("--flavour says what -s and -a say; expected either it or them")
    flavour = FLAVOURS[options.flavour] if options.flavour else (not options.s, options.a)
    for done in convert(
        options.input,
        options.output,
        precision=options.precision,
        subword=flavour[0],
        ngrams=options.window,
        approx=flavour[1],
        trees=options.trees,
        vocab=options.vocab,
        force=options.force,
        log=not options.quiet,
    ):
        print(f"{done.path}: {done.rows:,} vectors of {done.dim:,} dimensions")
        if done.encoding_errors:
            print(f"  {done.encoding_errors:,} keys were no UTF-8; U+FFFD replaces what is wrong")


def _repack(options: argparse.Namespace) -> None:
    from streamfile.tools.repack import repack

    repack(
        options.input,
        options.output,
        verify=options.verify,
        force=options.force,
        log=not options.quiet,
    )
    print(f"{options.output}: laid out for streaming{', compared' if options.verify else ''}")


def _route(options: argparse.Namespace) -> None:
    from streamfile.tools.route import route

    size = route(options.input, options.output, force=options.force)
    print(f"{options.output}: {size:,} bytes")


def _info(options: argparse.Namespace) -> None:
    from streamfile.tools.info import info

    for line in info(options.input).lines():
        print(line)


def _window(text: str) -> tuple[int, int]:
    try:
        shortest, longest = (int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected two numbers such as 3,6") from None
    return shortest, longest
