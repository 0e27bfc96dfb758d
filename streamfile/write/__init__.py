"""Writer of `.magnitude` files that are laid out for streaming.

This package may import inputs, readers, and the packages that these may import.
"""
