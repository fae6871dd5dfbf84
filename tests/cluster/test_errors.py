# SPDX-License-Identifier: Apache-2.0
"""What an administrator is told when a command cannot be done: which node, what is wrong with it, the way out."""

import time

import nbd
from hftest.load import Load
from hftest.process import wait_until
from test_failover import TTL_S


def refused(node, *words, timeout_s=60):
    """The sentence on stderr of a command that must fail, in time and without a trace of its insides."""
    begin = time.monotonic()
    done = node.cli_run(*words)
    assert done.returncode == 1 and not done.stdout, (words, done.stdout)
    assert time.monotonic() - begin < timeout_s, words
    assert done.stderr.startswith("holdfast: ") and "No route" not in done.stderr, done.stderr
    return done.stderr


def test_a_volume_is_moved_only_to_where_it_can_be(make_cluster):
    cluster = make_cluster(nodes=4, disks=1, session_ttl=f"{TTL_S}s")
    cluster.n1.volume("v", 64)
    cluster.n1.volume("idle", 64)
    with Load([cluster.n1.uri("v")]) as load:
        load.progress(50)
        for asked in (cluster.n1, cluster.n2):
            assert "no volume named 'none'" in refused(asked, "volume", "move", "none", "--to", "n2")
            assert "no node named 'n9' has joined" in refused(asked, "volume", "move", "v", "--to", "n9")
        # Already there: from anywhere, and nothing happens.
        epoch = cluster.n1.json("volume", "info", "v")["epoch"]
        for asked in (cluster.n1, cluster.n3):
            assert "Node 'n1' serves volume 'v' now" in asked.cli("volume", "move", "v", "--to", "n1")
        assert cluster.n1.json("volume", "info", "v")["epoch"] == epoch
        # Nobody's: opened there.
        cluster.n2.cli("volume", "move", "idle", "--to", "n3")
        assert cluster.n1.owner_of("idle") == "n3"
        # To a node that has just died, and one that is known to be down.
        cluster.n4.kill9()
        just = cluster.n2.cli_run("volume", "move", "v", "--to", "n4")
        assert just.returncode == 1 and "n4" in just.stderr, just.stderr
        load.progress(50, timeout_s=TTL_S + 10)
        wait_until(lambda: "down" in cluster.n1.cli("node", "list"), 3 * TTL_S, "n4 to be down")
        for asked in (cluster.n1, cluster.n2):
            assert "node 'n4' is down; start it first" in refused(asked, "volume", "move", "v", "--to", "n4")
        load.progress(50)
        load.stop()
    load.verify(cluster.n3.uri("v"))


def test_commands_name_the_node_that_is_down(make_cluster):
    """Until its lease has run out they say whom they wait for; after that another node does what was asked."""
    cluster = make_cluster(nodes=4, disks=1, session_ttl="8s", config={"volume": {"handoff": "no"}})
    handle = nbd.NBD()
    handle.connect_uri(cluster.n3.volume("v", 64))
    handle.pwrite(b"v" * 4096, 0)
    handle.flush()
    assert cluster.n1.owner_of("v") == "n3"
    disk = str(next(disk["number"] for disk in cluster.n1.disks() if disk["node"] == "n3"))
    cluster.n3.kill9()
    for words in (("volume", "flush", "v"), ("volume", "resize", "v", "+1MiB"), ("volume", "delete", "v", "--yes"), ("volume", "rename", "v", "w"), ("volume", "move", "v", "--to", "n2")):
        said = refused(cluster.n1, *words, timeout_s=10)
        assert "node 'n3'" in said and "lease" in said, said
    info = cluster.n1.json("volume", "info", "v")
    assert info["health"] == "unavailable" and "n3" in info["problem"] and info["size_bytes"] == 64 << 20
    listed = cluster.n1.json("volume", "list")["volumes"][0]
    assert listed["owner"] == "n3" and "connections" not in cluster.n1.volumes()[0]
    assert cluster.n1.cli("volume", "list").split()[-1] == "?"
    assert "n3" in refused(cluster.n1, "disk", "scrub", "--node", "n3")
    assert "no node named 'n9'" in refused(cluster.n1, "disk", "scrub", "--node", "n9")
    wait_until(lambda: "down" in cluster.n1.cli("node", "list"), 20, "n3 to be down")
    assert "node 'n3' is down" in refused(cluster.n1, "disk", "scrub", "--node", "n3")
    assert "n3" in refused(cluster.n1, "disk", "remove", disk)
    cluster.n1.cli("volume", "resize", "v", "+1MiB")
    assert cluster.n2.owner_of("v") == "n1"
    cluster.n2.cli("volume", "rename", "v", "w")
    cluster.n2.cli("volume", "delete", "w", "--yes")


def test_clients_and_scrubs_of_other_nodes(make_cluster):
    cluster = make_cluster(nodes=3, disks=1)
    cluster.n1.volume("v", 64)
    handles = [nbd.NBD(), nbd.NBD()]
    for handle, node in zip(handles, (cluster.n1, cluster.n2)):
        handle.connect_uri(node.uri("v"))
        handle.pwrite(b"v" * 4096, 0)
    for node in cluster.nodes.values():
        row = node.cli("volume", "list").splitlines()[1].split()
        assert row[-2:] == ["n1", "2"], row
    cluster.n1.cli("disk", "scrub", "--node", "n2")
    wait_until(lambda: cluster.n2.json("status")["scrub"]["passes"] == 1, 20, "the scrub of n2")
    assert cluster.n1.json("status")["scrub"]["passes"] == 0
    image = cluster.dir / "image"
    image.write_bytes(bytes(1 << 20))
    absent = cluster.n2.cli_run("volume", "import", "new", image)
    assert absent.returncode == 1 and "no volume named 'new'" in absent.stderr and "--create" in absent.stderr
    cluster.n2.cli("volume", "import", "new", image, "--create")
