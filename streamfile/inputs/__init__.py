"""Readers of vector files in other formats, for conversion.

This package may import format.
"""
