"""What every reader of a file of vectors must do, held against plain SQL."""

import os
import pickle
import threading
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import apsw
import magnitude_files as mf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfile.errors import FormatError
from vfs.errors import DatabaseError

DIM = 7
DOUBLED = ["twice", "TWICE", "twice", "Twice"]
ODD = ["", " ", "a b", "é", "É", "with\ttab", "日本", 'quo"te', "a%", "x" * 3000]
KEYS = [*mf.random_words(2500, 3), *ODD, *DOUBLED]
ASKED = st.one_of(
    st.sampled_from(KEYS),
    st.sampled_from(KEYS).map(str.swapcase),
    st.text(max_size=5),
)


class ReaderContract(ABC):
    """Tests of a reader; a subclass says how one is opened."""

    @abstractmethod
    @pytest.fixture
    def open_reader(self):
        """Return a function from a path to a reader of the file there."""

    @pytest.fixture
    def path(self, tmp_path):
        return mf.write_magnitude(tmp_path / "file", KEYS, mf.random_vectors(len(KEYS), DIM, 4))

    @pytest.fixture
    def sql(self, path):
        with closing(apsw.Connection(str(path))) as connection:
            yield connection

    @pytest.fixture
    def reader(self, open_reader, path):
        with closing(open_reader(path)) as reader:
            yield reader

    def test_what_the_file_says_of_itself(self, reader):
        told = reader.contents.format
        assert (told.size, told.dim, told.precision, told.elmo) == (len(KEYS), DIM, 7, False)
        assert reader.current().format == told
        assert reader.current() is reader.contents

    @pytest.mark.parametrize("case_insensitive", [False, True])
    def test_keys_lead_to_the_rows_that_sql_finds(self, reader, sql, case_insensitive):
        asked = list(dict.fromkeys([*KEYS, *map(str.swapcase, KEYS), "absent", "Tw\0ice"]))
        self.hold(reader, sql, asked, case_insensitive)

    def test_any_keys(self, reader, sql):
        @given(asked=st.lists(ASKED, unique=True, max_size=8), case_insensitive=st.booleans())
        def check(asked, case_insensitive):
            self.hold(reader, sql, asked, case_insensitive)

        check()

    def hold(self, reader, sql, asked, case_insensitive):
        expected = {
            key: row.rowid
            for key in asked
            if (row := mf.sql_row(sql, key, case_insensitive=case_insensitive)) is not None
        }
        assert reader.find(asked, case_insensitive=case_insensitive) == expected

    def test_of_equal_keys_the_lowest_row_counts(self, reader):
        rowids = [KEYS.index("twice") + 1, KEYS.index("TWICE") + 1]
        assert reader.find(["twice", "TWICE"], case_insensitive=False) == dict(
            zip(["twice", "TWICE"], rowids, strict=True)
        )

    def test_keys_that_are_no_text_are_not_there(self, reader):
        for key in ("\ud800", "\udcff", "a\udcffb"):
            assert reader.find([key], case_insensitive=True) == {}

    def test_no_keys_and_no_rows(self, reader):
        assert reader.find([], case_insensitive=False) == {}
        rows = reader.rows([])
        assert rows.rowids.tolist() == rows.keys() == []
        assert rows.vectors(7, normalized=True).shape == (0, DIM)

    @pytest.mark.parametrize("normalized", [False, True])
    def test_rows_are_those_that_sql_gives(self, reader, sql, normalized):
        wanted = [1, 2, 17, 1200, len(KEYS)]
        rows = reader.rows(wanted)
        expected = [mf.sql_row_at(sql, rowid) for rowid in wanted]
        assert rows.rowids.tolist() == wanted
        assert rows.keys() == [row.key for row in expected]
        vectors = [row.normalized if normalized else row.unnormalized for row in expected]
        np.testing.assert_array_equal(rows.vectors(7, normalized=normalized), vectors)

    def test_rows_in_any_order_once_and_only_those_there(self, reader):
        rows = reader.rows(np.array([9, 3, 9, 0, -4, 3, len(KEYS) + 1, 10**12]))
        assert rows.rowids.tolist() == [3, 9]

    def test_a_walk_is_run_to_its_end(self, reader):
        found = reader.run(lambda contents: contents.table.find([5]))
        assert found.rowids.tolist() == [5]

    def test_an_error_of_a_walk_is_raised(self, reader):
        def broken(contents):
            yield from contents.table.find([1])
            raise FormatError("broken")

        with pytest.raises(FormatError, match="broken"):
            reader.run(broken)
        assert reader.rows([1]).rowids.tolist() == [1]

    def test_sql_sees_the_same_file(self, reader):
        assert reader.sql.execute("SELECT count(*) FROM magnitude", ()) == [(len(KEYS),)]
        with pytest.raises(DatabaseError, match="no such table"):
            reader.sql.execute("SELECT * FROM absent", ())

    def test_what_is_made_of_the_file_has_a_name_of_its_own(self, reader):
        _, first = reader.kept("one")
        _, again = reader.kept("one")
        _, other = reader.kept("other")
        assert first == again != other

    def test_threads_share_it(self, reader):
        keys = KEYS[:400]
        with ThreadPoolExecutor(8) as pool:
            parts = [keys[at : at + 50] for at in range(0, 400, 50)]
            found = pool.map(lambda part: reader.find(part, case_insensitive=False), parts)
            rowids = {key: rowid for some in found for key, rowid in some.items()}
        assert rowids == reader.find(keys, case_insensitive=False)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_a_forked_process_uses_it_while_a_thread_does(self, reader):
        expected = reader.find(KEYS[:9], case_insensitive=False)
        stop = threading.Event()

        def work():
            while not stop.is_set():
                reader.find(KEYS[:9], case_insensitive=False)
                reader.sql.execute("SELECT count(*) FROM magnitude", ())

        thread = threading.Thread(target=work)
        thread.start()
        receiver, sender = os.pipe()
        try:
            child = os.fork()
            if not child:
                try:
                    found = reader.find(KEYS[:9], case_insensitive=False)
                    count = reader.sql.execute("SELECT count(*) FROM magnitude", ())
                    os.write(sender, pickle.dumps((found, count)))
                finally:
                    os._exit(0)
            os.close(sender)
            with os.fdopen(receiver, "rb") as pipe:
                assert pickle.loads(pipe.read()) == (expected, [(len(KEYS),)])
            os.waitpid(child, 0)
        finally:
            stop.set()
            thread.join()
        assert reader.find(KEYS[:9], case_insensitive=False) == expected
