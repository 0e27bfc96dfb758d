"""The public model classes: opening of files, queries, comparisons and searches.

This package may import tools, lookup, search, and the packages that these may import.
"""
