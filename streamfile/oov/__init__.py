"""Vectors for words outside the file (out-of-vocabulary words), from hashes and similar rows.

This package may import fts3 and format, and `vfs`.
"""
