"""Making sidecars, of files and of URLs."""

import pytest
from routed_files import NAMES, make, server_etag
from serving import LoggingServer

import vfs
from streamfile.cli.main import main
from streamfile.errors import ExistsError, PathError
from streamfile.readers.sidecar import Route
from streamfile.tools.route import route


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def server(folder):
    with LoggingServer(folder) as running:
        yield running


def test_it_is_the_same_from_the_url_and_from_the_file(folder, server, tmp_path):
    for name in NAMES:
        route(server.url + name, tmp_path / "a", force=True)
        one, other = (
            Route.parse("x", path.read_bytes())
            for path in (tmp_path / "a", folder / f"{name}.route")
        )
        assert one.etag == server_etag(server, name)
        assert other.etag is None
        for part in ("size", "digest", "router", "nodes"):
            assert getattr(one, part) == getattr(other, part), part
        assert one.pages == other.pages


def test_making_one_reads_no_rows(folder, server, tmp_path):
    route(server.url + "medium", tmp_path / "a")
    sent = sum(record.sent for record in server.log)
    assert sent < (folder / "medium").stat().st_size / 2


def test_the_command_line(folder, server, tmp_path, capsys):
    output = tmp_path / "a.route"
    assert main(["route", str(folder / "medium"), "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}: {output.stat().st_size:,} bytes\n"
    assert output.read_bytes() == (folder / "medium.route").read_bytes()
    assert main(["route", server.url + "medium", "-o", str(output)]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["route", server.url + "medium", "-o", str(output), "--force"]) == 0
    for source in (server.url + "nothing", str(folder / "nothing"), str(folder / "medium.route")):
        assert main(["route", source, "-o", str(tmp_path / "b")]) == 2
        assert "streamfile: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.route"]


def test_outputs_in_the_way(folder, tmp_path):
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(ExistsError):
        route(folder / "light", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"mine"
    with pytest.raises(PathError):
        route(folder / "light", tmp_path / "no" / "a")
    with pytest.raises(PathError):
        route(folder / "nothing", tmp_path / "b")
    with pytest.raises(vfs.DatabaseError):
        route(folder / "light.route", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
