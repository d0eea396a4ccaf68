"""The line between the caller and a worker: two pipes, each message behind its length.

A pipe costs two thirds of a socket (benchmarks/overhead.py), and reading whatever is there saves a
system call a message.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

_PIPE_BYTES = 65_536  # what one holds by default


class Line:
    def __init__(self, source: int, sink: int):
        self._source, self._sink = source, sink
        self._buffer = self._posted = b""
        # It holds two messages, so that neither side waits for the other to read. Not where the
        # system ran out of memory for pipes.
        self.roomy = True
        with suppress(ImportError, AttributeError, OSError):  # not Linux
            import fcntl

            self.roomy = fcntl.fcntl(sink, fcntl.F_GETPIPE_SZ) >= _PIPE_BYTES

    def fileno(self) -> int:
        return self._source

    def post(self, data: bytes) -> None:
        self._posted += len(data).to_bytes(4, "big") + data

    def flush(self) -> None:
        """At one go: waking a process takes 5 to 20 us, more than all else."""
        data, self._posted = self._posted, b""
        while data:  # again, where a signal came, or the pipe was nearly full
            data = data[os.write(self._sink, data) :]

    def receive(self) -> bytes:
        """The next message; EOFError at the end."""
        while not self.holds_more():
            data = os.read(self._source, _PIPE_BYTES)
            if not data:
                raise EOFError
            self._buffer += data
        buffer = self._buffer
        end = 4 + int.from_bytes(buffer[:4], "big")
        self._buffer = buffer[end:]
        return buffer[4:end]

    def holds_more(self) -> bool:
        """Whether `receive` need not read."""
        buffer = self._buffer
        return len(buffer) >= 4 and len(buffer) - 4 >= int.from_bytes(buffer[:4], "big")

    def close(self) -> None:
        ends, self._source, self._sink = {self._source, self._sink}, -1, -1
        for end in ends - {-1}:
            os.close(end)


class WindowsLine:  # not tested: there is no Windows here
    """The same over multiprocessing's pipe, which Windows can wait for."""

    roomy = True

    def __init__(self, connection: Any):
        self.fileno = connection.fileno
        self.post = connection.send_bytes
        self.receive = connection.recv_bytes
        self.close = connection.close

    def flush(self) -> None: ...

    def holds_more(self) -> bool:
        return False
