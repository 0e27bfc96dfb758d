"""The layout: imports point one way, folders are small, and importing is cheap."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("streamfile", "vfs")
MOST_MODULES = 18

# Each may import what is behind it, and nothing before it.
WINGS = (
    "streamfile.__main__",
    "streamfile.cli",
    "streamfile.web",
    "streamfile",  # the face: `__init__` alone
    "streamfile.magnitude",
    "streamfile.tools",
    "streamfile.lookup",
    "streamfile.search",
    "streamfile.write",
    "streamfile.oov",
    "streamfile.readers",
    "streamfile.inputs",
    "streamfile.elmo",
    "streamfile.fts3",
    "streamfile.format",
    "streamfile.models",
    "streamfile._jit",
    "streamfile._lru",
    "streamfile._arrays",
    "streamfile._progress",
    "streamfile.errors",
    "vfs",  # the face
    "vfs.sqlite_vfs",
    "vfs.router",
    "vfs.writer",
    "vfs.btree",
    "vfs.remote_file",
    "vfs.transport",
    "vfs.cache",
    "vfs.stats",
    "vfs.options",
    "vfs.identity",
    "vfs.workers",
    "vfs.deadline",
    "vfs.forks",
    "vfs.errors",
)


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for name in PACKAGES for path in (ROOT / name).rglob("*.py")}


def imported(path):
    """List the modules of ours that a module imports, in functions and for types alone too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                if inner in MODULES:
                    yield inner
                elif node.module in MODULES:
                    yield node.module


GRAPH = {name: sorted({*imported(path)} - {name}) for name, path in MODULES.items()}


def wing_of(module):
    if module in PACKAGES:
        return WINGS.index(module)
    inside = [
        wing for wing in WINGS if wing not in PACKAGES and f"{module}.".startswith(f"{wing}.")
    ]
    assert inside, f"{module} belongs to no wing"
    return WINGS.index(inside[0])


def test_the_check_sees_the_imports():
    assert "vfs.remote_file" in GRAPH["streamfile.readers.remote"]
    assert (
        "streamfile.elmo.allennlp" in GRAPH["streamfile.elmo.encoder"]
    )  # for types, in a function
    assert sum(map(len, GRAPH.values())) > 500


def test_no_module_imports_itself_by_way_of_others():
    TopologicalSorter(GRAPH).prepare()  # CycleError names the circle


def test_no_arrow_points_back():
    back = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if wing_of(other) < wing_of(module)
    ]
    assert not back


def test_no_relative_imports():
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), name


def test_assertions_do_nothing_else():
    """What `python -O` leaves out must not be missed."""
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assert):
                calls = [each for each in ast.walk(node.test) if isinstance(each, ast.Call)]
                assert isinstance(node.test, ast.Compare), (name, node.lineno)
                assert not calls, (name, node.lineno)


def test_every_wing_says_what_it_holds():
    for name, path in MODULES.items():
        assert ast.get_docstring(ast.parse(path.read_text())), name


def test_folders_are_small_and_only_the_package_itself_has_underscored_modules():
    for folder in {path.parent for path in MODULES.values()}:
        modules = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
        assert len(modules) <= MOST_MODULES, folder
        if folder != ROOT / "streamfile":
            assert not [stem for stem in modules if stem.startswith("_")], folder
    for folder in {path.parent for path in (ROOT / "tests").rglob("*.py")}:
        assert len([*folder.glob("*.py")]) <= MOST_MODULES, folder


def loaded_by(statement):
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize("statement", ["import streamfile", "from streamfile import Magnitude"])
def test_importing_brings_no_writer_converter_server_or_command_line(statement):
    loaded = loaded_by(statement)
    assert "streamfile.errors" in loaded
    far = ("streamfile.cli", "streamfile.web", "streamfile.tools", "streamfile.write", "vfs.writer")
    far += ("streamfile.inputs", "argparse", "http.server", "torch", "h5py", "numba", "tqdm")
    assert not [name for name in loaded if name.startswith(far)]


def test_every_public_name_is_there():
    code = """
import streamfile, vfs
for package in (streamfile, vfs):
    for name in package.__all__:
        found = getattr(package, name)
        assert name in dir(package)
        if isinstance(found, type) and not issubclass(found, Exception):
            assert found.__module__ == package.__name__, found
    try:
        package.no_such_name
    except AttributeError as failure:
        assert "no_such_name" in str(failure)
    else:
        raise SystemExit("there is such a name")
"""
    loaded_by(code)
