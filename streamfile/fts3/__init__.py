"""The full-text index of n-grams, in the tables of SQLite's FTS3.

It may import format.
"""
