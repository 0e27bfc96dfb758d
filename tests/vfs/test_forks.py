"""What survives a fork."""

import os
import threading

import pytest
from waiting import PATIENCE

from vfs.forks import ForkGate, ForkLock, native, renew_in_children

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def in_child(check):
    """Run a check in a forked process, and tell whether it returned something true."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if check() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_fork_waits_for_who_is_inside():
    gate, order = ForkGate(), []

    def enter(name):
        with gate:
            order.append(f"{name} in")
            if name == "first":
                waiting.set()
                closing.wait(PATIENCE)
            order.append(f"{name} out")

    waiting, closing = threading.Event(), threading.Event()
    first = threading.Thread(target=enter, args=("first",))
    first.start()
    waiting.wait(PATIENCE)
    threading.Timer(0.05, closing.set).start()
    gate.close()
    order.append("fork")
    second = threading.Thread(target=enter, args=("second",))
    second.start()
    second.join(0.05)
    assert order == ["first in", "first out", "fork"]
    gate.open()
    second.join(PATIENCE)
    assert order[3:] == ["second in", "second out"]
    with gate:  # a signal's handler may fork
        gate.close()
        gate.open()
    first.join()


def test_a_fork_does_not_wait_for_who_steps_outside():
    gate, arrived, leave = ForkGate(), threading.Event(), threading.Event()
    back = []

    def wait_for_the_network():
        with gate, gate:
            with gate.outside():
                arrived.set()
                leave.wait(PATIENCE)
            back.append(list(gate._inside))

    thread = threading.Thread(target=wait_for_the_network)
    thread.start()
    arrived.wait(PATIENCE)
    gate.close()
    leave.set()
    thread.join(0.05)
    assert thread.is_alive()  # it does not come back while the gate is closed
    gate.open()
    thread.join(PATIENCE)
    assert back == [[thread.ident] * 2]
    assert gate._inside == []


def test_stepping_outside_means_nothing_to_who_is_not_inside():
    gate = ForkGate()
    gate.close()
    with gate.outside():
        assert gate._inside == []
    assert gate._inside == []
    gate.open()


@needs_fork
def test_a_lock_that_a_thread_holds_is_free_in_a_child():
    lock, held, leave = ForkLock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            leave.wait(PATIENCE)

    def take():
        with lock:
            return True

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(PATIENCE)
    try:
        assert in_child(take)
    finally:
        leave.set()
        thread.join()


@needs_fork
def test_the_gate_is_open_in_a_child_whoever_was_outside():
    arrived, leave = threading.Event(), threading.Event()

    def wait():
        with native, native.outside():
            arrived.set()
            leave.wait(PATIENCE)

    def enter():
        with native:
            return len(native._inside) == 1

    thread = threading.Thread(target=wait)
    thread.start()
    arrived.wait(PATIENCE)
    try:
        assert in_child(enter)
    finally:
        leave.set()
        thread.join()


@needs_fork
def test_objects_are_renewed_in_a_child_alone_and_not_kept_alive():
    class Owner:
        process = os.getpid()

        def renew(self):
            self.process = os.getpid()

    owner, forgotten = Owner(), Owner()
    renew_in_children(owner)
    renew_in_children(forgotten)
    del forgotten
    before = owner.process
    assert in_child(lambda: owner.process == os.getpid() != before)
    assert owner.process == before
