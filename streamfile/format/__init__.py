"""Tables of a `.magnitude` file, and decoding of their rows into numpy arrays.

This package may import `vfs`.
"""
