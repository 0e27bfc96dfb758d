"""The interior pages of b-trees, packed into some kilobytes.

It may import btree and below.
"""
