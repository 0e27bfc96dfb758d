"""From keys to vectors: those that a file stores, and those that its ELMo model makes.

It may import oov, readers, elmo and the wings below them.
"""
