"""Words outside the file: their hashes, and the rows that are similar to them.

It may import fts3 and format.
"""
