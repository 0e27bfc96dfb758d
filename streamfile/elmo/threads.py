"""Two threads, a direction of the model each."""

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
    """Where everything is computed: on the CPU, threads that share torch's number of threads.

    In a child process the threads that torch had started are missing, and waiting for them would
    never end, so there torch starts none.

    Parameters
    ----------
    device
        A GPU needs no threads.
    """

    def __init__(self, device: torch.device) -> None:
        threads = torch.get_num_threads()
        self._sequential = device.type != "cpu"
        self.count = 1 if self._sequential else min(DIRECTIONS, threads)
        self._pool = self._new_pool(threads // self.count)
        renew_in_children(self)

    def renew(self) -> None:
        """Start threads anew, each of which computes alone."""
        self._pool = self._new_pool(1)

    def _new_pool(self, threads: int) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.count, "streamfile-elmo", _limit, (threads,))

    def run(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """Run tasks side by side, without gradients.

        Returns
        -------
        list
            Their results, in order.
        """
        if self._sequential:
            return [_infer(task) for task in tasks]
        futures = [self._pool.submit(_infer, task) for task in tasks]
        return [future.result() for future in futures]


def _infer(task: Callable[[], T]) -> T:
    with torch.inference_mode():
        return task()


def _limit(threads: int) -> None:
    # This sets the number of this thread and of all threads to come; the latter is put back by
    # a thread that ends with it, so that it is nobody else's number that changes.
    with _starting:
        usual = torch.get_num_threads()
        torch.set_num_threads(threads)
        other = threading.Thread(target=torch.set_num_threads, args=(usual,))
        other.start()
        other.join()
