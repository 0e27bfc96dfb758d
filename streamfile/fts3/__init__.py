"""Full-text index of n-grams, in the tables of SQLite's FTS3.

This package may import format and `vfs`.
"""
