"""One open file: find keys, read rows, run walks over its pages; local or on the web.

It may import fts3 and format.
"""
