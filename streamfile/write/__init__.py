"""Writing `.magnitude` files, laid out for streaming.

It may import inputs, readers and the wings below them.
"""
