"""What the fork server imports before it forks workers, so that each starts with it in memory.

The server outlives a caller that was killed, by the moment it takes to notice; so it is also the
one that removes what such a caller could not.
"""

import atexit
import multiprocessing.heap
import multiprocessing.pool
import multiprocessing.popen_forkserver  # noqa: F401  (these three: 5 ms a worker, paid once here)
import os

import cloudpickle  # noqa: F401  (20 ms a worker)

import parmap._hiring  # noqa: F401
from parmap._sweep import sweep_after

_server, _caller = os.getpid(), os.getppid()


def sweep() -> None:
    """Remove the caller's files and this server's socket. Runs when nobody is left to ask for
    workers: the caller is gone, and so are the workers."""
    if os.getpid() != _server:
        return  # a worker that ends
    sweep_after(_caller)
    _remove_socket()


def _remove_socket() -> None:
    from multiprocessing import forkserver

    # Private to multiprocessing, but nothing public knows the path; without it a killed caller
    # leaves an empty socket in the temp directory, which is all that is at stake.
    address = getattr(forkserver._forkserver, "_forkserver_address", None)
    if isinstance(address, str) and os.path.exists(address):
        os.unlink(address)
        try:
            os.rmdir(os.path.dirname(address))
        except OSError:
            pass  # the caller's temp directory held more than our socket


atexit.register(sweep)
