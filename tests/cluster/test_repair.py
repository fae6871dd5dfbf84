# SPDX-License-Identifier: Apache-2.0
"""What a node held is rebuilt on the others when it stays away; when it returns, nothing of it is left lying about."""

import nbd
from hftest.load import Load
from hftest.process import wait_until
from test_failover import settle


def shards(cluster):
    """Of all disks, each told by its own node."""
    return {
        disk["number"]: disk["shards"]
        for node in cluster.nodes.values()
        for disk in node.disks()
        if disk["node"] == node.name and disk["state"] == "in"
    }


def healthy(node, volume):
    info = node.json("volume", "info", volume)
    return info["health"] == "ok" and info["chunks_degraded"] == 0


def test_a_node_that_stays_away_is_rebuilt_on_the_others_and_comes_back_empty(make_cluster):
    cluster = make_cluster(nodes=5, disks=1, code="2+1", config={"repair": {"wait": "2s"}}, session_ttl="2s")
    uri = cluster.n1.volume("v", 64)
    handle = nbd.NBD()
    handle.connect_uri(uri)
    for offset in range(0, 64, 4):
        handle.pwrite(bytes([offset + 1]) * (4 << 20), offset << 20)
    handle.flush()
    with Load([cluster.n1.volume("load", 16)], blocks=200) as load:
        settle(load)
        cluster.n3.kill9()
        load.progress(50)
        wait_until(lambda: healthy(cluster.n1, "v"), 60, "the rebuild without n3", interval_s=0.3)
        # One more may go now: the data is whole without n3.
        cluster.n4.kill9()
        load.progress(50)
        load.stop()
    for offset in range(0, 64, 4):
        assert handle.pread(4096, (offset << 20) + (2 << 20)) == bytes([offset + 1]) * 4096
    cluster.n3.start()
    cluster.n4.start()
    wait_until(lambda: healthy(cluster.n1, "v"), 60, "the return of n3 and n4", interval_s=0.3)
    for name in ("v", "load"):
        cluster.n1.cli("volume", "delete", name, "--force")
    wait_until(lambda: not any(shards(cluster).values()), 60, "no shard to be left on any disk", interval_s=0.3)


def test_volumes_deleted_while_a_node_is_away_leave_nothing_on_it(make_cluster):
    cluster = make_cluster(nodes=3, disks=2, code="1+1", config={"repair": {"wait": "1h"}}, session_ttl="2s")
    uri = cluster.n1.volume("v", 64)
    handle = nbd.NBD()
    handle.connect_uri(uri)
    for block in range(64):
        handle.pwrite(b"x" * (1 << 20), block << 20)
    handle.flush()
    del handle
    cluster.n3.kill9()
    wait_until(lambda: cluster.n2.cli_run("volume", "delete", "v", "--force").returncode == 0, 20, "the delete")
    cluster.n3.start()
    wait_until(lambda: len(shards(cluster)) == 6 and not any(shards(cluster).values()), 90, "no shard to be left", interval_s=0.5)
