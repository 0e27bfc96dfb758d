"""What is shipped, and what the documents say of it: links, paths, wings, docstrings."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("streamfile", "vfs")
SHIPPED = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "MANIFEST.in",
    ".ci",
    ".gitignore",
    ".pre-commit-config.yaml",
    "pyproject.toml",
    "setup.py",
    *("benchmarks", "docs", "streamfile", "tests", "vfs"),
]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
LEAST_SETUPTOOLS = 77  # the first that knows SPDX expressions

LINK = re.compile(
    r"\[[^\]]*\]\(\s*<?([^)\s>]+)"  # [text](target)
    r"|^\[[^\]]+\]:\s*(\S+)"  # [name]: target
    r"|(?:href|src)=\"([^\"]+)\"",
    re.MULTILINE,
)
PATH = re.compile(r"(?<![\w./-])(?:(?:streamfile|vfs|tests|benchmarks|docs)/[\w./-]*\w|\.ci/\w+)")

MODULES = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
WINGS = sorted({path.parent for path in MODULES} - {ROOT / name for name in PACKAGES})


def prose(document):
    """Read a document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S)


def anchors(document):
    """List the anchors that the headings of a document get."""
    headings = re.findall(r"^#+ (.*)$", prose(document), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_links_of_the_readme_work_on_any_page_that_shows_it():
    found = [next(filter(None, groups)) for groups in LINK.findall(prose(ROOT / "README.md"))]
    assert found
    for target in found:
        inside = target.startswith("#") and target[1:] in anchors(ROOT / "README.md")
        assert inside or target.startswith("https://"), target


@pytest.mark.parametrize("text", ["[a](docs/b)", "[a](<b>)", '<a href="b">', "[a]: b\n", "[a](/b)"])
def test_the_check_sees_relative_links(text):
    ((target,),) = ([group for group in groups if group] for groups in LINK.findall(text))
    assert not target.startswith(("https://", "#"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_in_documents_exist(document):
    absent = [name for name in PATH.findall(document.read_text()) if not (ROOT / name).exists()]
    assert not absent


def test_the_check_sees_paths():
    text = "`vfs/btree/walk.py`, and `tests/whole/` (docs/a-b.md); https://vfs/docs/c; `.ci/run`."
    assert PATH.findall(text) == ["vfs/btree/walk.py", "tests/whole", "docs/a-b.md", ".ci/run"]


def test_the_architecture_lists_every_wing_and_root_module_in_the_order_of_the_arrows():
    listed = re.findall(
        r"^\| `((?:streamfile|vfs)/\S+)` \|", (ROOT / "docs" / "architecture.md").read_text(), re.M
    )
    roots = [path for path in MODULES if path.parent.name in PACKAGES]
    there = {f"{path.relative_to(ROOT)}/" for path in WINGS}
    there |= {str(path.relative_to(ROOT)) for path in roots if path.parent.parent == ROOT}
    assert sorted(listed) == sorted(there)
    names = [re.sub(r"(/__init__)?(\.py|/)$", "", name).replace("/", ".") for name in listed]
    assert names == wings_in_order()


def wings_in_order():
    """Read the order that the test of the layout holds."""
    tree = ast.parse((Path(__file__).parent / "test_wings.py").read_text())
    (order,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "WINGS"
    )
    return list(order)


def docstrings():
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                yield f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'module')}", text


def test_no_docstring_begins_with_give():
    assert not [place for place, text in docstrings() if re.match(r"Gives?\b", text)]


def test_docstrings_begin_with_a_capital_and_not_with_a_pronoun():
    bad = re.compile(r"[a-z]|(It|This|That|These|Those|What|Which|Who|They)\b")
    assert not [place for place, text in docstrings() if bad.match(text)]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Build a source distribution of a copy, offline; give its files by name."""
    try:  # imported, it would refuse a process that has the standard library's distutils already
        version = metadata.version("setuptools")
    except metadata.PackageNotFoundError:
        pytest.skip("setuptools is not installed: pip install 'setuptools>=77'")
    if int(version.partition(".")[0]) < LEAST_SETUPTOOLS:
        pytest.skip(f"setuptools {version} does not know SPDX expressions")
    folder = tmp_path_factory.mktemp("sdist")
    copy = folder / "copy"
    copy.mkdir()
    rubbish = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=rubbish)
        else:
            shutil.copy(ROOT / name, copy)
    for left in ("tests/__pycache__/a.pyc", "tests/.pytest_cache/b", "benchmarks/.ruff_cache/c/d"):
        (copy / left).parent.mkdir(parents=True, exist_ok=True)
        (copy / left).write_bytes(b"")
    for other in ("elsewhere/e", ".venv/f.py", "notes.txt"):
        (copy / other).parent.mkdir(exist_ok=True)
        (copy / other).write_bytes(b"")
    build = [sys.executable, "setup.py", "-q", "sdist", "--formats=gztar", "--dist-dir", folder]
    done = subprocess.run(build, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        return {
            each.name.partition("/")[2]: archive.extractfile(each).read()
            for each in archive.getmembers()
            if each.isfile()
        }


def files_of(name):
    found = [ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*")
    for path in found:
        rest = path.relative_to(ROOT)
        if path.is_file() and not re.search(r"\.pyc$|\.\w+_cache/|\.egg-info/", str(rest)):
            yield str(rest)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_source_distribution_holds(name, sdist):
    assert not {*files_of(name)} - sdist.keys()


def test_the_source_distribution_holds_nothing_else(sdist):
    expected = {path for name in SHIPPED for path in files_of(name)}
    others = {name for name in sdist.keys() - expected if "egg-info/" not in name}
    assert others == {"PKG-INFO", "setup.cfg"}


def test_the_license_is_told_as_an_expression(sdist):
    told = sdist["PKG-INFO"].decode().partition("\n\n")[0]
    assert "License-Expression: MIT\n" in told
    assert "License-File: LICENSE\n" in told
    assert "Classifier: License" not in told


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_benchmarks_import_what_is_there(path):
    imports = [
        (node.module, name.name)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
        for name in node.names
    ]
    for module, name in imports:
        if module.partition(".")[0] in PACKAGES:
            found = importlib.import_module(module)
            assert hasattr(found, name) or importlib.import_module(f"{module}.{name}")
