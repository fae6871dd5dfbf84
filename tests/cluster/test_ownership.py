# SPDX-License-Identifier: Apache-2.0
"""Who owns a volume, and how that moves: attach anywhere, forward, hand over."""

import os
import time

import nbd
from conftest import LONG
from hftest.load import Load
from hftest.pattern import BLOCK
from hftest.process import wait_until
from test_failover import settle


# The traffic moves nothing.
BY_HAND = {"volume": {"handoff": "no"}}


def connect(node, volume):
    handle = nbd.NBD()
    handle.connect_uri(node.uri(volume))
    return handle


def test_a_volume_is_one_disk_on_every_node(make_cluster):
    cluster = make_cluster(nodes=3, disks=1)
    cluster.n1.volume("v", 64)
    handles = [connect(node, "v") for node in cluster.nodes.values()]
    for number in range(60):
        writer, reader = handles[number % 3], handles[(number + 1) % 3]
        block = number % 7
        writer.pwrite(bytes([number]) * BLOCK, block * BLOCK)
        assert reader.pread(BLOCK, block * BLOCK) == bytes([number]) * BLOCK
    handles[0].trim(BLOCK, 0)
    assert handles[2].pread(BLOCK, 0) == bytes(BLOCK)
    handles[1].flush()
    wait_until(lambda: len({node.owner_of("v") for node in cluster.nodes.values()}) == 1, 5, "all to name one owner")


def test_ownership_follows_the_traffic(make_cluster, figure):
    cluster = make_cluster(nodes=3, disks=1)
    cluster.n1.volume("v", 256)
    handle = connect(cluster.n1, "v")
    handle.pwrite(b"1" * BLOCK, 200 * 1024 * 1024)
    assert cluster.n2.owner_of("v") == "n1"
    begin = time.monotonic()
    with Load([cluster.n2.uri("v")] * 2) as load:
        wait_until(lambda: cluster.n2.owner_of("v") == "n2", 30, "the handoff", interval_s=0.2)
        load.progress(200)
        gap = load.gap_since(begin)
        quiet = settle(load)
        load.stop()
    assert handle.pread(BLOCK, 200 * 1024 * 1024) == b"1" * BLOCK
    load.verify(cluster.n3.uri("v"))
    figure("handoff pause", gap * 1000, 50, "ms", quiet=quiet * 1000)


def test_a_volume_is_moved_by_hand(make_cluster, figure):
    cluster = make_cluster(nodes=3, disks=1, config=BY_HAND)
    cluster.n1.volume("v", 256)
    gaps = []
    with Load([cluster.n1.uri("v"), cluster.n2.uri("v")]) as load:
        load.progress(200)
        quiet = settle(load)
        for target in ("n2", "n3", "n1", "n3", "n2", "n1"):
            begin = time.monotonic()
            cluster.n3.cli("volume", "move", "v", "--to", target)
            assert cluster.n1.owner_of("v") == target
            load.progress(50)
            gaps.append(load.gap_since(begin))
        load.stop()
    load.verify(cluster.n3.uri("v"))
    figure("handoff pause, asked for by hand (worst of 6)", max(gaps) * 1000, 50, "ms", quiet=quiet * 1000)


HANDOFFS = int(os.environ.get("HOLDFAST_TEST_HANDOFFS", 200 if LONG else 24))


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def test_many_handoffs(make_cluster, figure):
    """Percentiles over HOLDFAST_TEST_HANDOFFS of them, as clients on two nodes see them, and of the owner's part of it."""
    cluster = make_cluster(nodes=3, disks=1, config=BY_HAND)
    cluster.n1.volume("v", 256)
    seen, owners = [], []
    with Load([cluster.n1.uri("v"), cluster.n2.uri("v")]) as load:
        load.progress(200)
        quiet = settle(load, 2) * 1000
        for number in range(HANDOFFS):
            begin = time.monotonic()
            moved = cluster.n3.json("volume", "move", "v", "--to", f"n{(number + 1) % 3 + 1}")
            load.progress(30)
            seen.append(load.gap_since(begin) * 1000)
            owners.append(moved["pause_us"] / 1000)
        load.stop()
    load.verify(cluster.n3.uri("v"))
    for share in (0.5, 0.9, 0.99):
        figure(f"handoff pause, p{share * 100:.0f} of {HANDOFFS}", percentile(seen, share), 50, "ms", quiet=quiet)
        figure(f"  of it until the old owner had released, p{share * 100:.0f}", percentile(owners, share), 50, "ms", quiet=quiet)


def test_any_node_administers_any_volume(make_cluster):
    cluster = make_cluster(nodes=3, disks=1)
    cluster.n1.volume("v", 64)
    handle = connect(cluster.n1, "v")
    handle.pwrite(b"1" * BLOCK, 0)
    assert [volume["name"] for volume in cluster.n2.volumes()] == ["v"]
    cluster.n2.cli("volume", "resize", "v", "128MiB")
    wait_until(lambda: connect(cluster.n3, "v").get_size() == 128 * 1024 * 1024, 10, "the new size on another node")
    handle = connect(cluster.n1, "v")  # a resize ends connections
    busy = cluster.n3.cli_run("volume", "delete", "v")
    assert busy.returncode and "in use" in busy.stderr
    del handle
    wait_until(lambda: cluster.n3.cli_run("volume", "delete", "v").returncode == 0, 10, "the delete")
    wait_until(lambda: not cluster.n1.volumes(), 10, "the volume to go")


def test_a_disk_is_removed_from_another_node(make_cluster):
    cluster = make_cluster(nodes=3, disks=1)
    numbers = {disk["node"]: disk["number"] for disk in cluster.n1.json("disk", "list")["disks"]}
    cluster.n2.cli("disk", "remove", str(numbers["n3"]))
    assert [disk["node"] for disk in cluster.n3.json("disk", "list")["disks"]].count("n3") == 0
    wait_until(lambda: len(cluster.n1.json("disk", "list")["disks"]) == 2, 10, "the other nodes to see it")
    gone = cluster.n2.cli_run("disk", "remove", "99")
    assert gone.returncode and "99" in gone.stderr
