"""The Magnitude family: what users query, from names and paths to shaped answers.

It may import tools, lookup, search and the wings below them.
"""
