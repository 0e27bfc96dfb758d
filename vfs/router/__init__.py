"""Routers: the interior pages of b-trees, packed into some kilobytes.

This package may import btree and the modules that btree may import.
"""
