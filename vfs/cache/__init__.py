"""Where bytes rest: memory, a block store on disk, whole files on disk.

It may import options, identity, forks, errors.
"""
