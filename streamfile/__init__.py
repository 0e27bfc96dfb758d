"""Read word vectors from .magnitude files, local or over HTTP."""
