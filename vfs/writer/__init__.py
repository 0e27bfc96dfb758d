"""SQLite databases, written page by page.

It may import btree and below.
"""
