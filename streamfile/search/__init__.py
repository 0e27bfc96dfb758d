"""Rankings of a whole file: the matrix of its vectors, and its index of neighbours.

It may import readers and the wings below them.
"""
