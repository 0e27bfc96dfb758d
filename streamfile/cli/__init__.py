"""The command line: `streamfile convert`, `info`, `serve`, `demo` and the rest.

It may import every wing.
"""
