"""Sources of bytes: ranges of one version of a file, over HTTP.

This package may import stats, options, identity, workers, forks, errors.
"""
