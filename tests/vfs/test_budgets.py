"""Budgets refuse a wave before any of it is sent."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from remote_content import AT, BLOCK, CONTENT, opened, wave
from scripted_server import Disconnect, Ok, ScriptedServer

import vfs


def test_a_budget_of_requests_refuses_a_wave_before_it_is_sent():
    with ScriptedServer(CONTENT) as server, opened(server, max_requests=3) as file:
        wave(file, 2)
        with pytest.raises(vfs.BudgetError, match=r"max_requests=3.*3 requests used.*1 more"):
            file.read(AT, 4096)
        assert len(server.requests) == file.stats.requests == 3
        file.budget.max_requests = None
        assert file.read(AT, 4096) == BLOCK


def test_a_budget_of_bytes_refuses_a_wave_before_it_is_sent():
    with ScriptedServer(CONTENT) as server, opened(server, max_bytes=(128 << 10) + 4096) as file:
        with pytest.raises(vfs.BudgetError, match=r"max_bytes=135,168.*8,192 more"):
            file.read(AT, 4097)
        assert len(server.requests) == 1
        assert file.read(AT, 4096) == BLOCK
        assert file.stats.bytes == (128 << 10) + 4096
        file.budget.max_bytes += 4096
        assert file.read(AT, 8192) == CONTENT[AT : AT + 8192]


def test_opening_may_pass_a_budget_too():
    with ScriptedServer(CONTENT) as server, pytest.raises(vfs.BudgetError):
        opened(server, max_requests=0)
    assert not server.requests


def test_another_attempt_counts_against_the_budget():
    with ScriptedServer(CONTENT, [Ok(), Disconnect()]) as server:
        with opened(server, max_requests=2) as file, pytest.raises(vfs.BudgetError):
            file.read(AT, 4096)
        assert len(server.requests) == 2


def test_threads_cannot_pass_a_budget_together():
    with ScriptedServer(CONTENT) as server, opened(server, max_requests=4) as file:

        def read(number):
            try:
                file.read(140_000 + 50_000 * number, 1)
            except vfs.BudgetError:
                return 1
            return 0

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(read, range(8))) == 5
        assert len(server.requests) == 4
