"""SQLite's pages, records and b-trees, read level by level.

This package may import remote_file and the modules that remote_file may import.
"""
