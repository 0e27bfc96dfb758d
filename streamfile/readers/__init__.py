"""Readers of a ``.magnitude`` file, local or remote: lookup of keys, rows, walks over pages.

This package may import fts3, format, and `vfs`.
"""
