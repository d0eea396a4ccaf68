"""The chunk policy in virtual time, with up to 1,024 workers: no processes, no machine needed.

    python benchmarks/simulate.py

Uses the very functions that a call uses (`parmap._plan.chunk_size` and `depths`), a caller that
takes 25 us for each chunk, one after the other, and 100 us for a message to arrive. A figure is the
time over that of the ideal schedule (see shapes.py), for which sending costs nothing.
"""

import heapq
from collections import deque

import shapes

from parmap import _plan

SEND = 25e-6  # seconds of the caller for a chunk, there and back
LATENCY = 100e-6  # seconds until a message is read

WORKERS = (2, 8, 32, 128, 1024)
ITEMS = 20_000  # at the most; 100 for each worker if that is less
MEANS = (1e-3, 1e-2, 1e-1, 1.0)


class Simulated:
    """One caller and its workers, in virtual time."""

    def __init__(self, seconds, workers):
        self.seconds, self.workers = seconds, workers
        self.next = 0
        self.caller = 0.0  # when the caller is free again
        self.free = [0.0] * workers  # when each worker has done all it was sent
        self.queued = [deque() for _ in range(workers)]  # when each of its chunks ends
        self.each = 0.0
        self.events = []  # (time, worker, seconds per item of the chunk)

    def run(self):
        for _ in range(8):  # until all have enough
            for worker in range(self.workers):
                self.feed(worker)
        while self.events:
            at, worker, each = heapq.heappop(self.events)
            self.caller = max(self.caller, at)
            self.queued[worker].popleft()
            self.each = (self.each + each) / 2 if self.each else each
            self.feed(worker)
        return max(self.caller, *self.free)

    def feed(self, worker):
        """As `_flow.Flow._feed` does."""
        low, most = self.depths()
        if len(self.queued[worker]) < low:
            while len(self.queued[worker]) < most and self.next < len(self.seconds):
                self.send(worker, self.size())
                _, most = self.depths()

    def left(self):
        return len(self.seconds) - self.next

    def size(self):
        return _plan.chunk_size(self.each, self.left(), self.workers) if self.each else 1

    def depths(self):
        return _plan.depths(self.size(), self.each, self.left(), self.workers)

    def send(self, worker, size):
        items = self.seconds[self.next : self.next + size]
        if not items:
            return
        self.next += len(items)
        self.caller += SEND
        self.free[worker] = max(self.free[worker], self.caller + LATENCY) + sum(items)
        self.queued[worker].append(self.free[worker])
        event = (self.free[worker] + LATENCY, worker, sum(items) / len(items))
        heapq.heappush(self.events, event)


def main():
    print(f"| workers | item | {' | '.join(shape.__name__ for shape in shapes.ALL)} |")
    print("| ---: | ---: |" + " ---: |" * len(shapes.ALL))
    for workers in WORKERS:
        for mean in MEANS:
            row = []
            for shape in shapes.ALL:
                seconds = shape(min(ITEMS, 100 * workers), mean)
                taken = Simulated(seconds, workers).run()
                row.append(taken / shapes.ideal(seconds, workers))
            told = f"{mean * 1e3:g} ms"
            print(f"| {workers:,} | {told} | {' | '.join(f'{r:.3f}' for r in row)} |", flush=True)


if __name__ == "__main__":
    main()
