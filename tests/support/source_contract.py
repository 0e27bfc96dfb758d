"""What every source of a file's bytes must do, and a remote file over it."""

import os
import pickle
import random
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor

import pytest

from vfs.errors import BudgetError, FileChangedError, NotFoundError
from vfs.options import Options
from vfs.remote_file import RemoteFile

SIZE = 300_000
FIRST, SECOND = (random.Random(seed).randbytes(SIZE) for seed in (1, 2))
RANGES = [(0, 10), (100_000, 250_000), (SIZE - 3, SIZE), (7, 8)]


class SourceContract(ABC):
    """Tests of a source; a subclass says how one is opened."""

    @abstractmethod
    @pytest.fixture
    def open_source(self):
        """Return a function from a path and options to a source of the file there."""

    @pytest.fixture
    def path(self, tmp_path):
        (tmp_path / "file").write_bytes(FIRST)
        return tmp_path / "file"

    @pytest.fixture
    def source(self, open_source, path):
        source = open_source(path, Options())
        yield source
        source.close()

    def replace(self, path):
        (path.parent / "new").write_bytes(SECOND)
        os.utime(path.parent / "new", (10**9, 10**9))
        (path.parent / "new").replace(path)

    def test_ranges_come_in_their_order_with_the_version(self, source):
        bodies, told = source.fetch(RANGES, None)
        assert bodies == [FIRST[start:end] for start, end in RANGES]
        version = told[0]
        assert told == [version] * len(RANGES)
        assert version.size == SIZE
        assert version.durable
        assert source.fetch(RANGES[:1], version) == ([FIRST[:10]], [version])

    def test_a_range_is_cut_at_the_end_of_the_file(self, source):
        (body,), _ = source.fetch([(SIZE - 5, SIZE + 100)], None)
        assert body == FIRST[-5:]

    def test_what_is_fetched_is_counted(self, source):
        source.fetch(RANGES, None)
        stats = source.budget.stats
        length = sum(end - start for start, end in RANGES)
        assert (stats.requests, stats.bytes, stats.waves) == (len(RANGES), length, 1)

    def test_another_version_is_refused(self, source, path):
        _, (version, *_) = source.fetch(RANGES, None)
        self.replace(path)
        with pytest.raises(FileChangedError, match=source.name):
            source.fetch(RANGES, version)
        bodies, (newer, *_) = source.fetch(RANGES, None)
        assert bodies == [SECOND[start:end] for start, end in RANGES]
        assert newer.contradicts(version)

    def test_what_is_not_there_is_told(self, source, path):
        path.unlink()
        with pytest.raises(NotFoundError, match=source.name):
            source.fetch([(0, 1)], None)

    @pytest.mark.parametrize("limit", [{"max_requests": 3}, {"max_bytes": 1000}])
    def test_a_wave_above_a_budget_is_not_begun(self, open_source, path, limit):
        source = open_source(path, Options(**limit))
        with pytest.raises(BudgetError, match=next(iter(limit))):
            source.fetch(RANGES, None)
        assert source.budget.stats.requests == source.budget.stats.bytes == 0
        source.close()

    def test_threads_share_it(self, source):
        ranges = [(at, at + 1000) for at in range(0, SIZE, 10_000)]
        with ThreadPoolExecutor(8) as pool:
            bodies = pool.map(lambda one: source.fetch([one], None)[0][0], ranges)
            assert list(bodies) == [FIRST[start:end] for start, end in ranges]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_a_forked_process_uses_it(self, source):
        source.fetch(RANGES, None)
        child = os.fork()
        if not child:
            code = 1
            try:
                code = 0 if source.fetch(RANGES, None)[0][1] == FIRST[100_000:250_000] else 1
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert source.fetch(RANGES, None)[0][0] == FIRST[:10]

    def test_it_can_be_pickled(self, source):
        copy = pickle.loads(pickle.dumps(source))
        assert (copy.name, copy.cache_name) == (source.name, source.cache_name)
        assert copy.fetch(RANGES[:1], None)[0] == [FIRST[:10]]
        assert source.budget.stats.requests == 0
        copy.close()

    def test_connections_are_opened_ahead_without_waiting(self, source):
        source.open_ahead()
        source.open_ahead()
        assert source.connections >= 1
        assert source.fetch(RANGES[:1], None)[0] == [FIRST[:10]]

    def test_a_remote_file_needs_no_more(self, open_source, path, tmp_path):
        options = Options(cache_dir=tmp_path / "cache")
        with RemoteFile(open_source(path, options), options) as file:
            assert file.size == SIZE
            assert file.read_many([(at, 500) for at in (0, 150_000)]) == [
                FIRST[:500],
                FIRST[150_000:150_500],
            ]
        with RemoteFile(open_source(path, options), options) as file:  # as the cache knows it
            assert file.stats.requests == 0
            assert file.read(150_000, 500) == FIRST[150_000:150_500]
            assert file.stats.requests == 1
        self.replace(path)
        with RemoteFile(open_source(path, options), options) as file:
            assert file.read(150_000, 500) == SECOND[150_000:150_500]
            copy = pickle.loads(pickle.dumps(file))
            assert copy.read(0, 9) == SECOND[:9]
            copy.close()
