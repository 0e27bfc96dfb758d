"""Two threads, one for each direction of the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from vfs.forks import renew_in_children

DIRECTIONS = 2
T = TypeVar("T")

_starting = threading.Lock()


class Threads:
    """Threads that compute on the CPU, and divide torch's number of threads among them.

    A forked child process does not have the threads that torch started, and torch would wait for
    them without end. In a child torch therefore uses one thread in each of these threads.

    Parameters
    ----------
    device
        Device that computes; for a GPU, tasks run in the calling thread.
    """

    def __init__(self, device: torch.device) -> None:
        threads = torch.get_num_threads()
        self._sequential = device.type != "cpu"
        self.count = 1 if self._sequential else min(DIRECTIONS, threads)
        self._pool = self._new_pool(threads // self.count)
        renew_in_children(self)

    def renew(self) -> None:
        """Replace the threads in a forked child; in each of them torch uses one thread."""
        self._pool = self._new_pool(1)

    def _new_pool(self, threads: int) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.count, "streamfile-elmo", _limit, (threads,))

    def run(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """Run tasks in parallel, without gradients.

        Returns
        -------
        list
            Results of the tasks, in order.
        """
        if self._sequential:
            return [_infer(task) for task in tasks]
        futures = [self._pool.submit(_infer, task) for task in tasks]
        return [future.result() for future in futures]


def _infer(task: Callable[[], T]) -> T:
    with torch.inference_mode():
        return task()


def _limit(threads: int) -> None:
    # `set_num_threads` sets the number of this thread and of all threads started later. Another
    # thread resets the number for later threads, and ends, so that only this thread is changed.
    with _starting:
        usual = torch.get_num_threads()
        torch.set_num_threads(threads)
        other = threading.Thread(target=torch.set_num_threads, args=(usual,))
        other.start()
        other.join()
