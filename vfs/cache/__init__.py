"""Caches of remote files: blocks in memory, blocks on disk, and whole files on disk.

This package may import options, identity, deadline, forks, errors.
"""
