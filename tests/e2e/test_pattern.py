# SPDX-License-Identifier: Apache-2.0
"""The judge of the crash tests finds what is planted for it."""

import pytest
from hftest.pattern import BLOCK, History


class Memory:
    """A volume in memory that can forget."""

    def __init__(self, blocks):
        self.history = History(blocks, seed=7)
        self.data = bytearray(blocks * BLOCK)

    def write(self, block, count=1, ack=True, store=True, zero=False):
        op = self.history.send(block, count, zero)
        if store:
            payload = bytes(count * BLOCK) if zero else self.history.payload(op, block, count)
            self.data[block * BLOCK : (block + count) * BLOCK] = payload
        if ack:
            self.history.ack(op)

    def flush(self):
        self.history.flushed(self.history.event())

    def verify(self, only_flushed=False):
        self.history.verify(lambda offset, size: bytes(self.data[offset : offset + size]), only_flushed)


@pytest.fixture
def volume():
    memory = Memory(16)
    memory.write(0)
    memory.write(1, 4)
    memory.flush()
    return memory


def test_an_intact_volume_passes_twice(volume):
    volume.write(2, ack=False)  # an unanswered write may be there
    volume.write(3, ack=False, store=False)  # or not
    volume.write(4, zero=True)
    volume.verify()
    volume.verify(only_flushed=True)


def test_a_lost_acked_write_is_found(volume):
    volume.write(2, store=False)
    with pytest.raises(AssertionError, match="acked and is gone"):
        volume.verify()


def test_a_lost_zeroing_is_found(volume):
    volume.write(2, store=False, zero=True)
    with pytest.raises(AssertionError, match="acked and is gone"):
        volume.verify()


def test_a_power_cut_may_lose_acked_but_not_flushed_writes(volume):
    volume.write(2, store=False)
    volume.verify(only_flushed=True)
    volume.write(5, store=False)
    volume.flush()
    with pytest.raises(AssertionError, match="flushed and is gone"):
        volume.verify(only_flushed=True)


def test_a_gap_in_the_write_order_is_found(volume):
    volume.write(2, store=False)
    volume.write(6)
    with pytest.raises(AssertionError, match="not a prefix"):
        volume.verify(only_flushed=True)


def test_what_was_read_once_may_not_vanish(volume):
    old = bytes(volume.data)
    volume.write(2, ack=False)
    volume.verify()
    volume.data[:] = old
    with pytest.raises(AssertionError, match="found overwritten or gone"):
        volume.verify()


def test_foreign_torn_and_misplaced_blocks_are_found(volume):
    good = bytes(volume.data)
    volume.data[BLOCK + 3000] ^= 1
    with pytest.raises(AssertionError, match="torn"):
        volume.verify()
    volume.data[:] = good
    volume.data[8 * BLOCK : 9 * BLOCK] = good[:BLOCK]
    with pytest.raises(AssertionError, match="never written to it"):
        volume.verify()
