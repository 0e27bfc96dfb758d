"""SQL in one file, which may wait for the network, beside lookups in other files and forks."""

import contextlib
import os
import threading

import magnitude_files as mf
import pytest
from serving import LoggingServer

from streamfile import Magnitude
from vfs.errors import ClosedError, DatabaseError
from vfs.transport.http import HttpSource

BY_SQL = 'say"helo"wrold'  # what a quotation mark means is known to SQLite's parser alone
PATIENCE = 60  # seconds until a test that would wait for ever gives up

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sql")
    keys = [*mf.random_words(300, 1), 'say"hello"world']
    mf.write_magnitude(folder / "a", keys, mf.random_vectors(len(keys), 5, 1), subwords=True)
    return folder


class Network:
    """Holds what is asked of servers until it is let go."""

    def __init__(self, monkeypatch):
        self.reached, self.open, self.gave_up = (threading.Event() for _ in range(3))
        fetch = HttpSource.fetch

        def held(source, *arguments):
            self.reached.set()
            if not self.open.wait(PATIENCE):
                self.gave_up.set()
            return fetch(source, *arguments)

        monkeypatch.setattr(HttpSource, "fetch", held)


@pytest.fixture
def network(monkeypatch):
    return Network(monkeypatch)


@contextlib.contextmanager
def sql_under_way(folder, network, *, closed=False):
    """Look a key up by SQL, in a thread, and wait until the network is waited for."""
    options = {"cache_size": 0, "memory_size": 0}
    answers = []
    with LoggingServer(folder) as server:
        network.open.set()
        with Magnitude(server.url + "a", stream=True, stream_options=options) as v:
            v.query("no such key")
            execute, by_sql = v._reader.sql.execute, threading.Event()

            def watched(*arguments):
                if not by_sql.is_set():  # the first time
                    network.open.clear()
                    network.reached.clear()
                    by_sql.set()
                return execute(*arguments)

            v._reader.sql.execute = watched

            def ask():
                try:
                    answers.append(v.query(BY_SQL))
                except ClosedError as error:
                    answers.append(error)

            thread = threading.Thread(target=ask)
            thread.start()
            assert by_sql.wait(PATIENCE)
            assert network.reached.wait(PATIENCE)
            try:
                yield v
                assert not network.gave_up.is_set()
                assert closed or not answers
            finally:
                network.open.set()
                thread.join()
    with Magnitude(folder / "a") as local:
        if closed:
            assert isinstance(answers[0], ClosedError)
        else:
            assert (answers[0] == local.query(BY_SQL)).all()


def test_a_local_lookup_does_not_wait_for_the_network_of_another_file(folder, network):
    with Magnitude(folder / "a") as local, sql_under_way(folder, network):
        keys = [key for key, _ in local[:50]]
        local.query(keys)
        local.query(BY_SQL)  # by SQL too
        assert local.most_similar(keys[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_does_not_wait_for_the_network(folder, network):
    with Magnitude(folder / "a") as local, sql_under_way(folder, network) as streamed:
        expected = local.query(BY_SQL)
        child = os.fork()
        if not child:  # where no thread holds the connections
            del streamed._reader.sql.execute  # which would hold the network again
            network.open.set()
            code = 1
            try:
                same = (streamed.query(BY_SQL) == expected).all()
                code = 0 if same and (local.query(BY_SQL) == expected).all() else 1
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_file_can_be_closed_while_its_sql_waits(folder, network):
    with sql_under_way(folder, network, closed=True) as v:
        closing = threading.Thread(target=v.close)
        closing.start()
        network.open.set()
        closing.join(PATIENCE)
        assert not closing.is_alive()


def test_what_sqlite_cannot_read_is_told(folder):
    with Magnitude(folder / "a") as local, pytest.raises(DatabaseError, match="no such table"):
        local._reader.sql.execute("SELECT * FROM absent", ())
