"""What makes, describes and lays out files: convert, repack, route, info.

It may import write, inputs, readers, elmo and the wings below them.
"""
