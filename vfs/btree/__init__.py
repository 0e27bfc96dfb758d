"""SQLite's pages, records and b-trees, walked level by level.

It may import remote_file and below.
"""
