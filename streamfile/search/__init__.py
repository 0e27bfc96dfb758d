"""Searches of a whole file, by the matrix of its vectors or by its index of neighbours.

This package may import readers and the packages that readers may import.
"""
