"""AllenNLP's ELMo beside a torch that AllenNLP does not install with.

Its wheel alone is enough for ELMo once the modules that it imports for other models can be
imported. Only for processes of their own: this changes `sys.modules`.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from pathlib import Path

from building import once, run

VERSION = "2.10.1"
UNUSED = {
    "_jsonnet",
    "base58",
    "cached_path",
    "dill",
    "fairscale",
    "huggingface_hub",
    "lmdb",
    "more_itertools",
    "spacy",
    "torchvision",
    "transformers",
}


class Empty(types.ModuleType):
    """A module that has any name: a class without anything."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in UNUSED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return Empty(spec.name)

    def exec_module(self, module):
        pass


def install(folder):
    """Put AllenNLP's wheel, without what it depends on, into a folder, unless it is there."""

    def make(fresh):
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
        run([*command, fresh / "it", f"allennlp=={VERSION}"])
        return fresh / "it"

    return once(Path(folder), make)


def use(folder):
    """Make `import allennlp` work in this process."""
    import torch.utils.data  # noqa: F401 - it looks for dill, and uses what it finds

    sys.path.insert(0, str(folder))
    sys.meta_path.insert(0, Finder())
    import allennlp.modules.elmo
    import allennlp.modules.elmo_lstm

    allennlp.modules.elmo.cached_path = str
    allennlp.modules.elmo_lstm.cached_path = str
