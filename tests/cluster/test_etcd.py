# SPDX-License-Identifier: Apache-2.0
"""The coordination store fails under load: without a node failing too, I/O does not notice."""

import signal
import time

from conftest import LONG
from hftest.load import Load
from test_failover import TTL_S, settle


def test_loss_of_etcds_leader(make_cluster, figure):
    cluster = make_cluster(nodes=3, disks=1, etcd=3, session_ttl=f"{TTL_S}s")
    cluster.n1.volume("v", 256)
    with Load([cluster.n1.uri("v"), cluster.n2.uri("v")]) as load:
        settle(load)
        leader = cluster.etcd.leader()
        begin = time.monotonic()
        cluster.etcd.kill9(leader)
        settle(load, 2 * TTL_S)
        gap = load.gap_since(begin)
        cluster.n1.cli("volume", "create", "w", "--size", "64MiB", "--pool", cluster.pool)
        cluster.etcd.start(leader)
        load.stop()
    load.verify(cluster.n3.uri("v"))
    figure("loss of etcd's leader: longest answer", gap, 0.3)


def test_loss_of_all_of_etcd(make_cluster, figure):
    """Longer than any lease: owners go on (reads by no-ops, S17), nobody takes anything over, and it all comes back."""
    cluster = make_cluster(nodes=3, disks=1, session_ttl=f"{TTL_S}s")
    cluster.n1.volume("v", 256)
    with Load([cluster.n1.uri("v"), cluster.n2.uri("v")]) as load:
        settle(load)
        owner = cluster.n1.owner_of("v")
        begin = time.monotonic()
        cluster.etcd.signal_all(signal.SIGSTOP)
        settle(load, 60 if LONG else 3 * TTL_S)
        gap = load.gap_since(begin)
        cluster.etcd.signal_all(signal.SIGCONT)
        settle(load, 2 * TTL_S)
        assert cluster.n3.owner_of("v") == owner
        load.stop()
    load.verify(cluster.n3.uri("v"))
    figure("loss of all of etcd: longest answer", gap, 0.3)
