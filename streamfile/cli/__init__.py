"""Command line: `streamfile convert`, `info`, `serve`, `demo` and other commands.

This package may import every other package.
"""
