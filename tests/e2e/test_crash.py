# SPDX-License-Identifier: Apache-2.0
"""kill -9 of blockd loses no acked write; a power cut (a test-only env that holds unsynced writes in memory) no flushed one."""

import random

from conftest import LONG
from hftest.pattern import BLOCK, History, Writer, verify_volume

POWER_CUT = {"HOLDFAST_TEST_POWER_CUT": "1"}
VOLUME_MIB = 64
ROUNDS = 400 if LONG else 5


def crash_rounds(node, rounds, only_flushed, seed, env=None, **writer_options):
    """Writes, kills with requests in flight, restarts, judges; the volume and its history go on over the rounds."""
    uri = node.volume("v", VOLUME_MIB)
    if env:
        node.restart(env)
    history = History(VOLUME_MIB * 1024 * 1024 // BLOCK, seed)
    rng = random.Random(seed)
    acked = gone = 0
    for round_number in range(rounds):
        writer = Writer(uri, history, seed=seed * 1000 + round_number, **writer_options)
        writer.run(at={rng.randint(20, 3000): node.kill9})
        writer.close()
        acked += writer.acked
        assert not node.alive()
        node.start(env)
        try:
            gone += verify_volume(uri, history, only_flushed)
        except AssertionError as error:
            raise AssertionError(f"round {round_number} of seed {seed}: {error}") from None
    assert acked > 100 * rounds // 5, "the rounds did too little to mean anything"
    return gone


def test_kill_keeps_every_acked_write(node):
    crash_rounds(node, ROUNDS, only_flushed=False, seed=1)


def test_kill_without_any_flush_keeps_every_acked_write(node):
    crash_rounds(node, ROUNDS, only_flushed=False, seed=2, flush_every=0)


def test_power_cut_keeps_every_flushed_write_and_a_prefix(node):
    crash_rounds(node, ROUNDS, only_flushed=True, seed=3, env=POWER_CUT)


def test_power_cut_without_flush_loses_only_the_end(node):
    """And does lose something: otherwise these tests would be about nothing."""
    assert crash_rounds(node, ROUNDS, only_flushed=True, seed=7, env=POWER_CUT, flush_every=0) > 0


def test_power_cut_of_a_mirror_keeps_every_flushed_write(make_node):
    crash_rounds(make_node(disks=3, code="1+1"), ROUNDS, only_flushed=True, seed=4, env=POWER_CUT)


def test_kills_while_recovering_lose_nothing(node):
    """Killed again and again shortly after its start, so that recovery itself is cut, the volume still has everything."""
    uri = node.volume("v", VOLUME_MIB)
    history = History(VOLUME_MIB * 1024 * 1024 // BLOCK, 5)
    writer = Writer(uri, history, seed=5)
    writer.run(at={2500: node.kill9})
    writer.close()
    for delay_ms in (0, 5, 10, 20, 40, 80):
        try:
            node.start()
            Writer(uri, history, seed=delay_ms, connections=1).run(at={1 + delay_ms: node.kill9})
        except Exception as error:  # the connect may be what meets the kill
            assert not node.alive(), error
    node.start()
    verify_volume(uri, history)


def test_flush_on_one_connection_covers_the_others(node):
    """CAN_MULTI_CONN means it: writes on one connection, flush on another, crash."""
    uri = node.volume("v", VOLUME_MIB)
    node.restart(POWER_CUT)
    history = History(VOLUME_MIB * 1024 * 1024 // BLOCK, 6)
    writer = Writer(uri, history, seed=6, connections=4, flush_every=0)
    for _ in range(5):
        writer.run(ops=200)
        writer.drain()
        writer.flush()
    assert not history.unsynced
    node.kill9()
    writer.close()
    node.start()
    verify_volume(uri, history, only_flushed=True)
