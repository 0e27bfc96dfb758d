"""HTTP server for demonstrations and tests.

This package may import `vfs`.
"""
