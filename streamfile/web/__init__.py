"""HTTP servers of our own.

It may import `vfs` and no other wing.
"""
