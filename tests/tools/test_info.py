"""What `streamfile info` tells, held against what SQLite knows of the pages."""

import dataclasses
import random
from contextlib import closing

import apsw
import magnitude_files as mf
import numpy as np
import pytest
from serving import LoggingServer

import vfs
from streamfile import FormatError
from streamfile.cli.main import main
from streamfile.errors import PathError
from streamfile.readers.remote import RemoteReader
from streamfile.tools.info import info
from streamfile.tools.repack import repack

ROWS, DIM = 3000, 6
KEYS = [*mf.random_words(ROWS - 1, 1), "x" * 3000]
VECTORS = mf.random_vectors(ROWS, DIM, 1)
KINDS = {"light": "light", "medium": "medium", "heavy": "heavy", "elmo": "light", "small": "light"}
OF = {  # what belongs to each part
    "vectors": ["magnitude"],
    "index on keys": ["magnitude_key_idx"],
    "other indexes": ["magnitude_dim_%"],
    "n-grams": ["magnitude_subword_%", "sqlite_autoindex_magnitude_subword_%"],
    "approximate index": ["magnitude_approx"],
    "ELMo weights": ["magnitude_meta_1"],
    "ELMo options": ["magnitude_meta_2"],
    "key lengths": ["magnitude_key_lengths"],
}


def write(path, kind):
    meta = (random.Random(1).randbytes(2 << 20), b"{}" * 5000)
    keys, vectors = KEYS, VECTORS
    if kind == "small":
        keys, vectors = KEYS[:30], VECTORS[:30]
    mf.write_magnitude(
        path,
        keys,
        vectors,
        precision=5 if kind == "light" else 7,
        page_size=1024 if kind == "medium" else 4096,
        elmo=kind == "elmo",
        subwords=kind in ("medium", "heavy"),
        meta=meta,
    )
    if kind == "heavy":
        with closing(apsw.Connection(str(path))) as connection:
            connection.execute("CREATE TABLE magnitude_approx (trees INTEGER, index_file BLOB)")
            for _ in range(2):
                connection.execute(
                    "INSERT INTO magnitude_approx VALUES (4, ?)", (meta[0][: 1 << 20],)
                )
            connection.execute(
                "UPDATE magnitude_format SET value = 4 WHERE key LIKE 'approx%'",
            )
            connection.execute("VACUUM")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("told")
    for kind in KINDS:
        repack(write(folder / kind, kind), folder / f"{kind}-streaming", log=False)
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with LoggingServer(folder) as running:
        yield running


@pytest.fixture(params=[f"{kind}{layout}" for kind in KINDS for layout in ("", "-streaming")])
def name(request):
    return request.param


def test_what_it_tells(folder, name):
    told = info(folder / name)
    kind, _, layout = name.partition("-")
    assert told.name == str(folder / name)
    assert told.size == (folder / name).stat().st_size
    assert told.page_size == (1024 if kind == "medium" else 4096)
    assert (told.rows, told.dim) == (30 if kind == "small" else ROWS, DIM)
    assert told.precision == (5 if kind == "light" else 7)
    assert told.flavour == KINDS[kind]
    assert told.elmo == (kind == "elmo")
    assert told.streaming == bool(layout)


def test_the_parts_add_up_and_are_about_right(folder, name):
    told = info(folder / name)
    assert sum(told.parts.values()) == told.size
    assert all(size > 0 for size in told.parts.values())
    with closing(apsw.Connection(str(folder / name), flags=apsw.SQLITE_OPEN_READONLY)) as file:
        for part, names in OF.items():
            where = " OR ".join("name LIKE ?" for _ in names)
            pages = file.execute(f"SELECT sum(pgsize) FROM dbstat WHERE {where}", names).get or 0
            if name.startswith("light") and part == "n-grams":
                assert part not in told.parts
            slack = 6 * told.page_size + pages // 20
            assert abs(told.parts.get(part, 0) - pages) <= slack, part


def test_a_url_tells_the_same_within_two_round_trips(folder, server, name, monkeypatch):
    readers = []

    def remember(*args, **options):
        readers.append(RemoteReader(*args, **options))
        return readers[-1]

    monkeypatch.setattr("streamfile.readers.open.RemoteReader", remember)
    told, local = info(server.url + name, cache_size=0), info(folder / name)
    assert told == dataclasses.replace(local, name=server.url + name)
    (reader,) = readers
    assert 1 <= reader.stats.waves <= 2
    assert reader.stats.bytes < 1 << 20


def test_the_command_line(folder, server, capsys):
    assert main(["info", str(folder / "heavy")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == info(folder / "heavy").lines()
    assert lines[0] == str(folder / "heavy")
    assert lines[1] == "  heavy: 3,000 vectors of 6 dimensions, precision 7"
    assert "laid out original" in lines[2]
    assert sum(int(line.split()[0].replace(",", "")) for line in lines[3:]) == (
        (folder / "heavy").stat().st_size
    )
    assert main(["info", server.url + "elmo-streaming"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("  ELMo, light: 3,000 vectors")
    assert lines[2].endswith("laid out for streaming")


def test_what_is_no_magnitude_file(folder, server, tmp_path, capsys):
    (tmp_path / "text").write_text("no database" * 99)
    with closing(apsw.Connection(str(tmp_path / "other"))) as connection:
        connection.execute("CREATE TABLE a (b)")
    for source, error in {
        tmp_path / "nothing": PathError,
        tmp_path: PathError,
        tmp_path / "text": vfs.DatabaseError,
        tmp_path / "other": FormatError,
        server.url + "nothing": vfs.NotFoundError,
    }.items():
        with pytest.raises(error):
            info(source)
        assert main(["info", str(source)]) == 2
        assert capsys.readouterr().err.startswith("streamfile: ")


def test_damaged_files_are_refused_or_told(folder, tmp_path):
    rng = random.Random(1)
    for kind in ("heavy", "heavy-streaming"):
        data = (folder / kind).read_bytes()
        for _ in range(150):
            broken = bytearray(data)
            for _ in range(rng.choice([1, 20])):
                broken[rng.randrange(100, 40 * 4096)] = rng.randrange(256)
            (tmp_path / "a").write_bytes(broken)
            try:
                told = info(tmp_path / "a")
            except (FormatError, vfs.DatabaseError):
                continue
            assert told.size == len(data)
            assert sum(told.parts.values()) == len(data)
            assert min(told.parts.values()) >= 0


def test_files_that_were_never_vacuumed(tmp_path):
    mf.write_magnitude(tmp_path / "a", KEYS, VECTORS, subwords=True, vacuum=False)
    told = info(tmp_path / "a")
    assert sum(told.parts.values()) == told.size
    assert np.all(np.array(list(told.parts.values())) > 0)
