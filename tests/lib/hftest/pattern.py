# SPDX-License-Identifier: Apache-2.0
"""A writer that remembers, and the rule by which a volume is judged after a crash.

Every 4 KiB block written says which write it is from. The history keeps, in one order of events, when each write was sent, when
it was answered and when a flush had covered it. After a crash each block must hold its last write that counts (any acked one
after a killed process, any flushed one after a power cut) or a later one, never an older one or anything else; and over
all blocks the state must be a prefix of the write order: no write may be there that was sent after the answer to one that is missing.
"""

import errno
import os
import random
import select
import struct

import nbd

from .process import PATIENCE

BLOCK = 4096
UNANSWERED_S = PATIENCE * 30
HEADER = struct.Struct("<8sQQQ")
MAGIC = b"hfblock1"
ZEROES = bytes(BLOCK)
GONE = (errno.ENOTCONN, errno.ESHUTDOWN, errno.ECONNRESET, errno.EPIPE)  # how libnbd says that the server went away


def block_bytes(seed, op, block):
    header = HEADER.pack(MAGIC, seed, op, block)
    return header + (header[8:] * (BLOCK // 24 + 1))[: BLOCK - HEADER.size]


class Op:
    __slots__ = ("number", "zero", "sent", "acked", "durable")

    def __init__(self, number, zero, sent):
        self.number, self.zero, self.sent = number, zero, sent
        self.acked = None  # event number of the answer
        self.durable = False

    def __repr__(self):
        return f"{'zeroing' if self.zero else 'write'} {self.number} (sent at {self.sent}, answered at {self.acked})"


class History:
    def __init__(self, blocks, seed):
        self.blocks, self.seed = blocks, seed
        self.events = 0
        self.ops = 0
        base = Op(0, True, 0)
        base.acked, base.durable = 0, True
        self.of_block = [[base] for _ in range(blocks)]
        self.unsynced = []  # acked, not known flushed

    def event(self):
        self.events += 1
        return self.events

    def send(self, first, count, zero):
        self.ops += 1
        op = Op(self.ops, zero, self.event())
        for block in range(first, first + count):
            self.of_block[block].append(op)
        return op

    def ack(self, op, fua=False):
        op.acked = self.event()
        op.durable = fua
        if not fua:
            self.unsynced.append(op)

    def flushed(self, sent):
        """A flush sent at event `sent` was answered: it covers what had been answered before it was sent."""
        for op in self.unsynced:
            if op.acked < sent:
                op.durable = True
        self.unsynced = [op for op in self.unsynced if not op.durable]

    def payload(self, op, first, count):
        return b"".join(block_bytes(self.seed, op.number, block) for block in range(first, first + count))

    def verify(self, read, only_flushed=False):
        """Judges the volume, read by read(offset_bytes, len_bytes), and then takes what is there as settled.

        Returns how many acked writes are gone in some block (none, but for a power cut).
        """
        last_sent, last_op = 0, None
        gone = set()
        lost, first_lost = None, None
        step = 256
        for start in range(0, self.blocks, step):
            data = read(start * BLOCK, min(step, self.blocks - start) * BLOCK)
            for at in range(len(data) // BLOCK):
                block = start + at
                history = self.of_block[block]
                index = self._visible(block, data[at * BLOCK : (at + 1) * BLOCK])
                op = history[index]
                need = max(i for i, o in enumerate(history) if (o.durable if only_flushed else o.acked is not None))
                assert index >= need, (
                    f"block {block} holds {op}; {history[need]} was "
                    f"{'flushed' if only_flushed else 'acked'} and is gone"
                )
                if not op.zero and op.sent > last_sent:
                    last_sent, last_op = op.sent, op.number
                gone.update(missing.number for missing in history[index + 1 :] if missing.acked is not None)
                for missing in history[index + 1 :]:
                    if missing.acked is not None and (lost is None or missing.acked < lost):
                        lost, first_lost = missing.acked, (missing.number, block)
                self.of_block[block] = [op]
        assert lost is None or lost > last_sent, (
            f"not a prefix of the write order: write {first_lost[0]} is missing from block {first_lost[1]} though it "
            f"was answered before write {last_op} was sent, which is there"
        )
        # Only now, since an unanswered write of several blocks may be there in part: what was read must stay.
        for (op,) in self.of_block:
            op.acked, op.durable = op.acked or op.sent, True
        self.unsynced = []
        return len(gone)

    def _visible(self, block, data):
        """Which entry of the block's history it holds: the newest that fits."""
        history = self.of_block[block]
        if data == ZEROES:
            fits = [i for i, op in enumerate(history) if op.zero]
            assert fits, f"block {block} is zero, though nothing ever made it so"
            return fits[-1]
        magic, seed, number, in_block = HEADER.unpack_from(data)
        assert magic == MAGIC and seed == self.seed and in_block == block, (
            f"block {block} holds what was never written to it: {data[:32].hex()}"
        )
        assert data == block_bytes(seed, number, block), f"block {block} holds a torn write {number}"
        fits = [i for i, op in enumerate(history) if op.number == number]
        assert fits, f"block {block} holds write {number}, which an earlier check had found overwritten or gone"
        return fits[-1]


class Writer:
    """Keeps `depth` requests in flight over one or more connections, until stopped or until the server dies."""

    def __init__(self, uri, history, seed=0, depth=16, connections=2, flush_every=24, large_every=40):
        self.history, self.random = history, random.Random(seed)
        self.depth, self.flush_every, self.large_every = depth, flush_every, large_every
        self.handles = []
        for _ in range(connections):
            handle = nbd.NBD()
            handle.connect_uri(uri)
            self.handles.append(handle)
        self.inflight = 0
        self.busy = set()
        self.sent = 0
        self.acked = 0
        self.dead = False  # every connection is gone
        self.stopping = False  # one is: nothing more is sent, what was answered is still collected
        self.errors = []

    def run(self, ops=None, at=None):
        """Sends `ops` requests; at = {number of sent requests: action}, called with requests in flight. True while alive."""
        target = None if ops is None else self.sent + ops
        while not self.dead and (target is None or self.sent < target):
            while self.inflight < self.depth and not self.stopping:
                self._submit()
                action = (at or {}).pop(self.sent, None)
                if action:
                    action()
            self._poll()
        return not self.dead

    def drain(self):
        """Collects the answers still to come (those sent before the server's death count)."""
        while not self.dead and self.inflight:
            self._poll()

    def flush(self):
        self._send_flush(self.handles[0])
        self.drain()

    def close(self):
        self.handles = []  # libnbd's python has no close; the last reference does it

    def _submit(self):
        rng, history = self.random, self.history
        handle = self.handles[self.sent % len(self.handles)]
        self.sent += 1
        if self.flush_every and self.sent % self.flush_every == 0:
            return self._send_flush(handle)
        large = self.large_every and self.sent % self.large_every == 0
        count = min(rng.randint(65, 256) if large else rng.choice((1, 1, 1, 2, 3, 8)), history.blocks)
        for _ in range(50):
            first = rng.randrange(history.blocks - count + 1)
            touched = range(first, first + count)
            if self.busy.isdisjoint(touched):
                break
        else:
            return self._poll()
        kind = rng.random()
        zero = kind < 0.12
        fua = kind > 0.95
        self.busy.update(touched)
        op = history.send(first, count, zero)

        def done(error):
            self.inflight -= 1
            self.busy.difference_update(touched)
            if error.value == 0:
                self.acked += 1
                history.ack(op, fua)
            elif error.value not in GONE:
                # Raised by _poll: an exception inside libnbd's callback would end the process.
                self.errors.append(f"write {op.number} at block {first}: {os.strerror(error.value)}")
            return 1

        flags = nbd.CMD_FLAG_FUA if fua else 0
        self.inflight += 1
        try:
            if kind < 0.06:
                handle.aio_trim(count * BLOCK, first * BLOCK, completion=done)
            elif zero:
                handle.aio_zero(count * BLOCK, first * BLOCK, completion=done)
            else:
                data = nbd.Buffer.from_bytearray(bytearray(history.payload(op, first, count)))
                handle.aio_pwrite(data, first * BLOCK, completion=done, flags=flags)
        except nbd.Error:
            self.stopping = True

    def _send_flush(self, handle):
        sent = self.history.event()

        def done(error):
            self.inflight -= 1
            if error.value == 0:
                self.history.flushed(sent)
            elif error.value not in GONE:
                self.errors.append(f"flush: {os.strerror(error.value)}")
            return 1

        self.inflight += 1
        try:
            handle.aio_flush(completion=done)
        except nbd.Error:
            self.stopping = True

    def _poll(self):
        alive = [handle for handle in self.handles if not (handle.aio_is_dead() or handle.aio_is_closed())]
        self.dead = not alive
        if len(alive) < len(self.handles):
            self.stopping = True
        if self.dead:
            return
        wants = {handle.aio_get_fd(): (handle, handle.aio_get_direction()) for handle in alive}
        reads = [fd for fd, (_, direction) in wants.items() if direction & nbd.AIO_DIRECTION_READ]
        writes = [fd for fd, (_, direction) in wants.items() if direction & nbd.AIO_DIRECTION_WRITE]
        can_read, can_write, _ = select.select(reads, writes, [], UNANSWERED_S)
        if not can_read and not can_write:
            raise AssertionError(f"{self.inflight} requests unanswered for {UNANSWERED_S:.0f} s")
        for fd, (handle, _) in wants.items():
            try:
                if fd in can_read:
                    handle.aio_notify_read()
                elif fd in can_write:
                    handle.aio_notify_write()
            except nbd.Error:
                pass  # this connection broke; the next round sees it
        if self.errors:
            raise AssertionError("; ".join(self.errors[:3]))


def verify_volume(uri, history, only_flushed=False):
    handle = nbd.NBD()
    handle.connect_uri(uri)
    gone = history.verify(lambda offset, size: bytes(handle.pread(size, offset)), only_flushed)
    handle.shutdown()
    return gone
