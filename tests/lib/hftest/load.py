# SPDX-License-Identifier: Apache-2.0
"""A load that goes on while the cluster breaks, and judges every answer.

Each worker has a connection and blocks of its own and does one request at a time: writes (some with FUA), reads, flushes, trims.
What a block holds is known exactly: a read must give the last answered write. No request may fail, whatever happens to nodes:
it may only take long, and the longest time from a request to its answer is the gap.
"""

import random
import threading
import time

import nbd

from .pattern import BLOCK, ZEROES, block_bytes
from .process import PATIENCE


class Worker(threading.Thread):
    def __init__(self, uri, first, blocks, seed):
        super().__init__(daemon=True)
        self.uri, self.first, self.blocks, self.seed = uri, first, blocks, seed
        self.random = random.Random(seed)
        self.value = [0] * blocks  # number of the last answered write; 0 = zeroes
        self.requests = 0
        self.gaps = []  # (end, seconds) of those over 20 ms
        self.done = []  # end of every request
        self.failure = None
        self.ending = False
        self.started_at = None

    def expect(self, index, data):
        number = self.value[index]
        want = block_bytes(self.seed, number, self.first + index) if number else ZEROES
        assert data == want, f"block {self.first + index} does not hold its last answered write {number}: {bytes(data[:40]).hex()}"

    def step(self, handle):
        index, kind = self.random.randrange(self.blocks), self.random.random()
        offset = (self.first + index) * BLOCK
        if kind < 0.5:
            number = self.requests + 1
            flags = nbd.CMD_FLAG_FUA if kind < 0.03 else 0
            handle.pwrite(block_bytes(self.seed, number, self.first + index), offset, flags=flags)
            self.value[index] = number
        elif kind < 0.95:
            self.expect(index, handle.pread(BLOCK, offset))
        elif kind < 0.98:
            handle.flush()
        else:
            handle.trim(BLOCK, offset)
            self.value[index] = 0

    def run(self):
        try:
            handle = nbd.NBD()
            handle.connect_uri(self.uri)
            while not self.ending:
                self.started_at = time.monotonic()
                self.step(handle)
                end = time.monotonic()
                self.done.append(end)
                if end - self.started_at > 0.02:
                    self.gaps.append((end, end - self.started_at))
                self.requests += 1
        except Exception as error:
            self.failure = error

    def verify(self, uri):
        handle = nbd.NBD()
        handle.connect_uri(uri)
        for index in range(self.blocks):
            self.expect(index, handle.pread(BLOCK, (self.first + index) * BLOCK))


class Load:
    """`uris`: one worker each, so several connections or nodes. Use as a context manager; check() after each disturbance."""

    def __init__(self, uris, blocks=400, seed=1):
        self.workers = [Worker(uri, number * blocks, blocks, seed * 100 + number) for number, uri in enumerate(uris)]

    def __enter__(self):
        for worker in self.workers:
            worker.start()
        self.progress()
        return self

    def __exit__(self, *_):
        for worker in self.workers:
            worker.ending = True

    def failures(self):
        return [worker.failure for worker in self.workers if worker.failure]

    def progress(self, requests=50, timeout_s=60):
        """Every worker gets that many more requests answered; returns the seconds until then."""
        begin = time.monotonic()
        wanted = [worker.requests + requests for worker in self.workers]
        while any(worker.requests < want for worker, want in zip(self.workers, wanted)):
            assert not self.failures(), self.failures()
            waited = time.monotonic() - begin
            assert waited < PATIENCE * timeout_s, f"no progress for {waited:.0f} s: {[w - v.requests for v, w in zip(self.workers, wanted)]} to go"
            time.sleep(0.005)
        return time.monotonic() - begin

    def gap_since(self, moment):
        """The longest answer since `moment` (time.monotonic), in seconds."""
        gaps = [seconds for worker in self.workers for end, seconds in worker.gaps if end >= moment]
        return max(gaps, default=0.02)

    def share_over(self, seconds, since, until):
        """Of the requests that ended within that time: the share that took longer than `seconds`."""
        ended = sum(since <= end < until for worker in self.workers for end in worker.done)
        long = sum(since <= end < until and took > seconds for worker in self.workers for end, took in worker.gaps)
        return long / max(1, ended)

    def stop(self, timeout_s=60):
        for worker in self.workers:
            worker.ending = True
        for worker in self.workers:
            worker.join(PATIENCE * timeout_s)
            assert not worker.is_alive(), "a request is not answered"
        assert not self.failures(), self.failures()
        return sum(worker.requests for worker in self.workers)

    def verify(self, uri):
        for worker in self.workers:
            worker.verify(uri)
