"""Tools that make and describe files: convert, repack, route, info.

This package may import write, inputs, readers, elmo, and the packages that these may import.
"""
