"""Writer of SQLite databases, page by page.

This package may import btree and the modules that btree may import.
"""
