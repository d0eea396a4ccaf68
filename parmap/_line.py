"""One end of the line between the caller and a worker: whole messages in, whole messages out.

Two one-way pipes, each message behind its length. A pipe costs two thirds of what a socket costs
(benchmarks/overhead.py), and reading whatever is there at once saves a system call a message.
Messages are small (see `_transport.INLINE_BYTES`), so that each is written at one go.
"""

from __future__ import annotations

import os
import struct
from typing import Any

# Bytes asked of a pipe at once: what it holds by default.
_PIPE_BYTES = 65_536

_LENGTH = struct.Struct("!I")


class Line:
    """One end: a descriptor to read from, and one to write to. Closed by `close`, or by the end of
    the process that holds it.

    Attributes:
        roomy: the pipe holds what two messages need, so that neither side waits for the other to
            read. False where the system ran out of memory for pipes.
    """

    def __init__(self, source: int, sink: int):
        self._source, self._sink = source, sink
        self._buffer = b""
        self._posted: list[bytes] = []
        self.roomy: bool = _capacity(self._sink) >= _PIPE_BYTES

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is a message, or the end."""
        return self._source

    def post(self, data: bytes) -> None:
        """Add one message to what the next `flush` sends."""
        self._posted.append(_LENGTH.pack(len(data)))
        self._posted.append(data)

    def flush(self) -> None:
        """Send what was posted, at one go: waking a process costs more than all else, 5 to 20 us.

        Raises BrokenPipeError when nobody holds the other end.
        """
        if not self._posted:
            return
        view: Any = b"".join(self._posted)
        self._posted.clear()
        written = os.write(self._sink, view)
        while written < len(view):  # a signal came, or the pipe was nearly full
            view = view[written:]
            written = os.write(self._sink, view)

    def receive(self) -> bytes:
        """The next message; waits for it. Raises EOFError at the end."""
        while (message := self._whole()) is None:
            data = os.read(self._source, _PIPE_BYTES)
            if not data:
                raise EOFError
            self._buffer += data
        return message

    def holds_more(self) -> bool:
        """Whether `receive` has another message without reading."""
        buffer = self._buffer
        return len(buffer) >= 4 and len(buffer) - 4 >= _LENGTH.unpack_from(buffer)[0]

    def _whole(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < 4:
            return None
        end = 4 + int(_LENGTH.unpack_from(buffer)[0])
        if len(buffer) < end:
            return None
        self._buffer = buffer[end:]
        return buffer[4:end]

    def close(self) -> None:
        ends, self._source, self._sink = (self._source, self._sink), -1, -1
        for end in ends:
            if end >= 0:  # else closed before: the number may be another file's by now
                os.close(end)


class WindowsLine:  # not tested: there is no Windows here
    """The same over a duplex pipe of multiprocessing's, which Windows can wait for."""

    roomy = True

    def __init__(self, connection: Any):
        self._connection = connection
        self.fileno = connection.fileno
        self.post = connection.send_bytes
        self.receive = connection.recv_bytes
        self.close = connection.close

    def flush(self) -> None: ...

    def holds_more(self) -> bool:
        return False


def _capacity(descriptor: int) -> int:
    try:
        import fcntl

        size: int = fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
        return size
    except (ImportError, AttributeError, OSError):
        return _PIPE_BYTES  # not Linux: the usual size
