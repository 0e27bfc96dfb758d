"""Rows that are kept: which file is made, who uses it, and when it is made again."""

import os
import signal
import subprocess
import sys
import threading

import magnitude_files as mf
import numpy as np
import pytest
from serving import LoggingServer
from waiting import wait_until

from streamfile import Magnitude
from streamfile.search import matrix, scan

COUNT, DIM = 3000, 24
KEYS = [f"kéy{i}" * (i % 3) for i in range(COUNT)]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("matrix") / "file.magnitude"
    return mf.write_magnitude(path, KEYS, mf.random_vectors(COUNT, DIM, 1))


@pytest.fixture(scope="module")
def server(path):
    with LoggingServer(path.parent) as running:
        yield running


@pytest.fixture(params=["local", "streamed"])
def opened(request, path, server, tmp_path, monkeypatch):
    """Open the file, with a cache directory of the test's own; even small results are kept."""
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(matrix, "LEAST_FILE", 0)
    monkeypatch.setattr(scan, "BATCH", 32 << 10)
    objects = []

    def open_():
        url = server.url + path.name
        v = Magnitude(path) if request.param == "local" else Magnitude(url, stream=True)
        objects.append(v)
        return v

    yield open_
    for v in objects:
        v.close()


@pytest.fixture
def kept(tmp_path):
    """Lists the files of the cache directory that hold vectors."""

    def files():
        found = (tmp_path / "cache" / "files").glob("*")
        return [one for one in found if one.suffix or one.read_bytes().startswith(b"streamfile m")]

    return files


@pytest.fixture
def scans(monkeypatch):
    """Counts the scans."""
    counts = []

    def counted(reader, count, *rest, **options):
        counts.append(count)
        return scan.scan(reader, count, *rest, **options)

    monkeypatch.setattr(matrix, "scan", counted)
    return counts


def test_another_object_finds_the_rows(opened, kept, scans):
    first = opened()
    answer, other = first.most_similar(KEYS[5], topn=40), first.most_similar(KEYS[7])
    first.close()
    assert len(kept()) == 1
    second = opened()
    key = second[5][0]
    with second.stats.measure() as counted:
        assert second.most_similar(key, topn=40) == answer
    assert scans == [COUNT]
    assert counted.bytes < 20_000  # of the key itself, not of the table
    assert second.most_similar(KEYS[7]) == other


def test_answers_are_those_of_memory_and_of_no_backing(opened, kept, monkeypatch):
    calls = [
        lambda v: v.most_similar(KEYS[5], topn=40),
        lambda v: v.most_similar(KEYS[8], topn=None),
        lambda v: v.most_similar_cosmul([KEYS[1], KEYS[4]], KEYS[2], restrict_vocab=900),
    ]
    expected = [call(opened()) for call in calls]
    assert kept()
    monkeypatch.setattr(matrix, "LEAST_FILE", 1 << 60)
    assert [call(opened()) for call in calls] == expected
    monkeypatch.setattr(matrix, "MOST_IN_MEMORY", 0)
    assert [call(opened()) for call in calls] == expected


def test_a_file_of_all_rows_serves_the_first_ones(opened, kept, scans):
    first = opened()
    first.most_similar(KEYS[5])
    first.close()  # then the file has its name
    opened().most_similar(KEYS[5], restrict_vocab=100)
    assert scans == [COUNT]
    assert len(kept()) == 1


def test_a_file_of_the_first_rows_does_not_serve_all(opened, kept, scans):
    v = opened()
    few = v.most_similar(KEYS[5], restrict_vocab=100)
    assert opened().most_similar(KEYS[5], restrict_vocab=100) == few
    everything = v.most_similar(KEYS[5], topn=None)
    assert {KEYS.index(key) for key, _ in few} <= set(range(100))
    assert len(everything) == len(set(KEYS)) - 1
    assert scans == [100, COUNT]
    v.close()
    assert len(kept()) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:100],
        lambda content: b"",
        lambda content: content[:25] + b"\1" + content[26:],
        lambda content: b"X" + content[1:],
        lambda content: bytes(len(content)),
    ],
)
def test_a_damaged_file_is_made_again(opened, kept, scans, damage):
    v = opened()
    answer = v.most_similar(KEYS[5])
    v.close()
    (file,) = kept()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    again = opened()
    assert again.most_similar(KEYS[5]) == answer
    again.close()
    assert scans == [COUNT, COUNT]
    assert file.read_bytes() == whole


def test_without_room_the_rows_stay_in_memory(opened, kept, scans, monkeypatch):
    monkeypatch.setenv("STREAMFILE_CACHE_SIZE", "400000")
    v = opened()
    answer = v.most_similar(KEYS[5])
    assert v.most_similar(KEYS[5]) == answer
    assert scans == [COUNT]
    assert kept() == []


def test_a_scan_that_fails_leaves_no_file_and_no_thread(opened, kept, monkeypatch):
    v = opened()
    before = threading.active_count()
    expected = v.most_similar(KEYS[5], restrict_vocab=10)

    def fail(vectors):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(matrix, "_lengths", fail)
        with pytest.raises(KeyboardInterrupt):
            v.most_similar(KEYS[5])
    wait_until(lambda: not [file for file in kept() if file.suffix])
    assert v.most_similar(KEYS[5], restrict_vocab=10) == expected
    assert len(v.most_similar(KEYS[5])) == 10
    v.close()
    wait_until(lambda: threading.active_count() <= before + 1)


def test_objects_that_need_it_at_once_make_one_file(opened, kept):
    objects = [opened() for _ in range(4)]
    answers = []
    threads = [
        threading.Thread(target=lambda v=v: answers.append(v.most_similar(KEYS[5])))
        for v in objects
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for v in objects:
        v.close()
    assert len(answers) == 4
    assert all(answer == answers[0] for answer in answers)
    assert len(kept()) == 1


def test_a_local_file_that_changed_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(matrix, "LEAST_FILE", 0)
    path = tmp_path / "file"
    for seed in (1, 2):
        vectors = mf.random_vectors(50, 5, seed)
        mf.write_magnitude(path, KEYS[1:51], vectors)
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        with Magnitude(path) as v:
            found = v.most_similar(vectors[0], topn=1)
        assert found[0][0] == KEYS[1]
        assert found[0][1] == pytest.approx(units[0] @ units[0], abs=1e-5)


SHORT = """
import sys
from streamfile import Magnitude
from streamfile.search import matrix
matrix.LEAST_FILE = 0
Magnitude(sys.argv[1]).most_similar("k\\u00e9y1")
"""


def test_a_process_that_ends_at_once_leaves_a_finished_file(path, tmp_path, kept):
    environment = os.environ | {"STREAMFILE_CACHE_DIR": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", SHORT, str(path)], env=environment, check=True)
    assert [file.suffix for file in kept()] == [""]


HELD = """
import sys
from streamfile import Magnitude
from streamfile.search import matrix
matrix.LEAST_FILE = 0
def wait(vectors):
    print("scanning", flush=True)
    sys.stdin.read()  # until it is killed
matrix._lengths = wait
Magnitude(sys.argv[1]).most_similar("k\\u00e9y1")
"""


def test_a_killed_process_leaves_nothing_that_hinders(opened, path, kept, tmp_path, scans):
    environment = os.environ | {"STREAMFILE_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", HELD, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        assert process.stdout.readline() == "scanning\n"
        process.send_signal(signal.SIGKILL)
    v = opened()
    assert len(v.most_similar(KEYS[5])) == 10
    v.close()
    assert scans == [COUNT]
    assert any(not file.suffix for file in kept())
