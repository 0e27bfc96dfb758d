"""The tables of a `.magnitude` file, and its rows as numpy arrays.

It may import `vfs` alone.
"""
