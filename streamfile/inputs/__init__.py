"""Files of vectors in other formats, read once, to convert.

It may import format.
"""
