"""Vectors of keys: stored vectors, hashed vectors, and vectors from an ELMo model.

This package may import oov, readers, elmo, and the packages that these may import.
"""
