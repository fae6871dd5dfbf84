# SPDX-License-Identifier: Apache-2.0
"""How nodes find and leave their cluster: real daemons and a real etcd, all on loopback (no namespaces, no root needed)."""

import os
import signal
import time

import pytest
from hftest.cluster import Etcd, Loopback
from hftest.guardian import Scratch
from hftest.node import CliError, Node
from hftest.process import spawn, tail, wait_until

TTL_S = 2


class Site:
    def __init__(self):
        self.scratch, self.network = Scratch("hfj."), Loopback()
        self.base = self.scratch.path
        self.etcd, self.nodes = Etcd(self.network, self.base), []

    def node(self, name, start=True, **cluster):
        """A daemon that may wait, for etcd or to join."""
        config = {
            "node": {"name": name},
            "store": {"type": "etcd", "endpoints": self.etcd.endpoints, "path": None},
            "cluster": {"address": f"tcp:127.0.0.1:{self.network.port(0)}", "session_ttl": f"{TTL_S}s", **cluster},
            "repair": {"wait": "1h"},
        }
        node = Node(base=self.base, disks=0, disk_mib=64, config=config)
        self.nodes.append(node)
        node.write_config()
        if start:
            self.start(node)
        return node

    def start(self, node):
        node.start_process()
        wait_until(lambda: node.cli_run("status").returncode == 0, 30, f"the admin socket:\n{tail(node.log)}")

    def close(self):
        for node in self.nodes:
            node.close()
        self.etcd.close()
        self.network.close()
        self.scratch.remove()


@pytest.fixture
def site():
    site = Site()
    yield site
    site.close()


@pytest.fixture
def pair(site):
    """Two nodes that have joined."""
    site.etcd.start_all()
    nodes = [site.node("n1"), site.node("n2", rack="r2")]
    wait_state(nodes[0], "not joined")
    nodes[0].cli("cluster", "init")
    wait_state(nodes[1], "not joined")
    nodes[1].cli("cluster", "join")
    wait_until(lambda: len(up(nodes[0])) == 2, 10, "both nodes")
    return nodes


def nodes_of(node):
    return {n["name"]: n for n in node.json("node", "list")["nodes"]}


def up(node):
    return [name for name, n in nodes_of(node).items() if n["state"] == "up"]


def problem(node):
    return " ".join(node.json("status")["problems"])


def wait_state(node, state):
    wait_until(lambda: node.json("status")["state"] == state, 20, f"{node.dir} to be {state}")


def fails(node, *args):
    with pytest.raises(CliError) as failure:
        node.cli(*args)
    return failure.value.stderr


def test_nodes_wait_until_they_are_joined(site):
    site.etcd.start_all()
    n1, n2 = site.node("n1"), site.node("n2", rack="r2")
    wait_state(n1, "not joined")
    assert "no cluster in the store yet" in problem(n1)
    assert "no cluster in the store yet" in fails(n1, "disk", "list")
    wait_state(n2, "not joined")
    assert "cluster init" in fails(n2, "cluster", "join")
    assert "is made" in n1.cli("cluster", "init")
    cluster = n1.json("status")["cluster"]
    assert cluster in fails(n2, "cluster", "init")
    wait_until(lambda: "has not joined" in problem(n2), 10, "n2 to see the cluster")
    assert cluster in n2.cli("cluster", "join")
    n2.wait_ready()
    assert "has joined" in fails(n2, "cluster", "join") and "has joined" in fails(n2, "cluster", "init")
    for node in (n1, n2):
        wait_until(lambda node=node: len(up(node)) == 2, 10, "both nodes")
        seen = nodes_of(node)
        assert seen["n2"]["rack"] == "r2" and seen["n1"]["address"].startswith("tcp:127.0.0.1:")
        assert seen["n1"]["boot"] == seen["n2"]["boot"] and seen["n1"]["incarnation"] != seen["n2"]["incarnation"]
        table = node.cli("node", "list")
        assert table.split()[:5] == ["NODE", "STATE", "SINCE", "ADDRESS", "RACK"] and " r2 " in table
    # What they were they are after a restart, without a command.
    n1.restart()
    n2.restart()
    wait_until(lambda: len(up(n1)) == 2, 10, "both nodes again")
    assert n1.json("status")["cluster"] == cluster


def test_a_node_that_cannot_listen_does_not_join(site):
    site.etcd.start_all()
    node = site.node("n1", address="tcp:192.0.2.1:7100")  # no host's
    wait_state(node, "not joined")
    for command in ("init", "join"):
        assert "cannot listen for other nodes at tcp:192.0.2.1:7100" in fails(node, "cluster", command)
    assert node.json("status")["state"] == "not joined" and "no cluster in the store yet" in problem(node)


def test_a_node_waits_for_a_store_that_is_not_there_yet(site):
    n1 = site.node("n1")
    wait_state(n1, "waiting for the store")
    assert n1.json("status")["health"] == "waiting" and "store" in problem(n1)
    site.etcd.start_all()
    wait_state(n1, "not joined")
    n1.cli("cluster", "init")
    n1.stop()
    site.etcd.close()
    site.start(n1)
    wait_state(n1, "waiting for the store")
    site.etcd.start_all()
    n1.wait_ready()


def test_a_node_that_waits_stops_cleanly(site):
    site.node("n1").stop()
    site.etcd.start_all()
    site.node("n2").stop()


def test_a_name_is_one_hosts(pair, site):
    impostor = site.node("n2", start=False)
    impostor.start_process()
    assert impostor.process.wait(100) == 1
    impostor.process = None
    assert "choose another [node] name" in tail(impostor.log)
    assert len(up(pair[0])) == 2


def test_a_state_directory_is_one_daemons(pair):
    second = spawn([*pair[0].process.args], pair[0].dir / "second.log")
    assert second.wait(100) == 1
    assert "state directory" in tail(pair[0].dir / "second.log")


def test_data_on_two_nodes_outlives_one(pair):
    n1, n2 = pair
    for node in pair:
        node.add_disk(0)
        node.add_disk(1)
    wait_until(lambda: [d["state"] for d in n1.disks()] == ["in"] * 4, 10, "all disks")
    assert sorted(d["node"] for d in n2.disks()) == ["n1", "n1", "n2", "n2"]
    n1.cli("pool", "create", "p", "--code", "1+1")
    pool = n2.json("pool", "list")["pools"][0]
    assert pool["domain"] == "node"  # with several nodes
    n1.pool = "p"
    image = n1.dir / "image"
    image.write_bytes(bytes(range(256)) * 4096 * 8)
    n1.cli("volume", "import", "v", image, "--create")
    n2.kill9()
    wait_until(lambda: nodes_of(n1)["n2"]["state"] == "down", 3 * TTL_S + 5, "n1 to notice")
    status = n1.json("status")
    assert status["health"] == "degraded" and "node 'n2' is down" in problem(n1)
    assert [d["state"] for d in n1.disks() if d["node"] == "n2"] == ["missing"] * 2
    n1.cli("volume", "export", "v", n1.dir / "copy")
    assert (n1.dir / "copy").read_bytes()[: image.stat().st_size] == image.read_bytes()
    assert "has 2 disks" in fails(n1, "node", "remove", "n2")
    # Back, since it ends its predecessor's session itself (B2); nothing was rebuilt meanwhile.
    n2.start()
    wait_until(lambda: len(up(n1)) == 2 and all(d["state"] == "in" for d in n1.disks()), TTL_S + 5, "n2 again")
    wait_until(lambda: n1.json("status")["health"] == "ok", 30, f"health: {problem(n1)}")
    n1.cli("volume", "close", "v")
    n2.cli("volume", "export", "v", n2.dir / "copy")
    assert (n2.dir / "copy").read_bytes()[: image.stat().st_size] == image.read_bytes()


def test_disks_of_a_node_that_is_gone_are_given_up_by_force(pair):
    n1, n2 = pair
    n1.add_disk(0)
    n1.add_disk(1)
    n2.add_disk(0)
    wait_until(lambda: [d["state"] for d in n1.disks()] == ["in"] * 3, 10, "all disks")
    n1.cli("pool", "create", "p", "--code", "1+1", "--domain", "disk")
    n1.pool = "p"
    image = n1.dir / "image"
    image.write_bytes(b"holdfast" * 131072 * 4)
    n1.cli("volume", "import", "v", image, "--create")
    theirs = [d["number"] for d in n1.disks() if d["node"] == "n2"]
    assert "node 'n2': disk" in fails(n1, "disk", "remove", theirs[0])  # asked there
    n2.kill9()
    wait_until(lambda: nodes_of(n1)["n2"]["state"] == "down", 3 * TTL_S + 5, "n1 to notice")
    assert "which is down: --force" in fails(n1, "disk", "remove", theirs[0])
    for number in theirs:
        n1.cli("disk", "remove", number, "--force")
    wait_until(lambda: [d["node"] for d in n1.disks()] == ["n1"] * 2, 5, "the disks to go")
    # Not waited for: rebuilt on what is left, at once.
    wait_until(lambda: n1.json("volume", "info", "v")["health"] == "ok", 60, f"repair: {problem(n1)}")
    n1.cli("node", "remove", "n2")
    wait_until(lambda: n1.json("status")["health"] == "ok", 20, f"health: {problem(n1)}")
    n1.cli("volume", "export", "v", n1.dir / "copy")
    assert (n1.dir / "copy").read_bytes()[: image.stat().st_size] == image.read_bytes()


def test_a_node_that_was_given_up_while_it_was_away_writes_nothing_more(pair, site):
    n1, n2 = pair
    n1.add_disk(0)
    n1.add_disk(1)
    n2.add_disk(0)
    wait_until(lambda: [d["state"] for d in n2.disks()] == ["in"] * 3, 10, "all disks")
    n1.cli("pool", "create", "p", "--code", "1+1", "--domain", "disk")
    image = n1.dir / "image"
    image.write_bytes(b"holdfast" * 131072 * 2)
    n2.cli("volume", "import", "v", image, "--create")
    number = next(d["number"] for d in n1.disks() if d["node"] == "n2")
    os.kill(n2.process.pid, signal.SIGSTOP)
    wait_until(lambda: nodes_of(n1)["n2"]["state"] == "down", 3 * TTL_S + 5, "n1 to notice")
    n1.cli("disk", "remove", number, "--force")
    n1.cli("node", "remove", "n2")
    os.kill(n2.process.pid, signal.SIGCONT)
    wait_until(lambda: "this node was removed from the cluster" in problem(n2), 10, "n2 to hear of it")
    wait_until(lambda: n2.disks()[-1]["state"] == "failed", 10, "its disk to be given up")
    assert f"disk {number} " in problem(n2) and "removed from this node by another" in problem(n2)
    time.sleep(1)  # it gets no session any more
    assert nodes_of(n1).keys() == {"n1"}
    n1.cli("volume", "export", "v", n1.dir / "copy")
    assert (n1.dir / "copy").read_bytes()[: image.stat().st_size] == image.read_bytes()
    wait_until(lambda: n1.json("status")["health"] == "ok", 60, f"repair: {problem(n1)}")
    # The way out that it names.
    n2.stop()
    site.start(n2)
    wait_state(n2, "not joined")
    n2.cli("cluster", "join")
    n2.wait_ready()
    n2.cli("disk", "format", n2.disk_path(0), "--force")
    n2.cli("disk", "add", n2.disk_path(0))
    wait_until(lambda: len(up(n1)) == 2 and n1.json("status")["health"] == "ok", 20, f"n2 again: {problem(n1)}")


def test_a_disk_is_carried_to_another_node_with_all_it_has(pair):
    n1, n2 = pair
    n2.add_disk(0)
    n2.cli("pool", "create", "p", "--code", "1+0", "--domain", "disk")
    image = n1.dir / "image"
    image.write_bytes(b"holdfast" * 131072 * 2)
    n2.cli("volume", "import", "v", image, "--create")
    number = n2.disks()[0]["number"]
    n2.kill9()
    assert "node 'n2', which is up" in fails(n1, "disk", "add", n2.disk_path(0))
    wait_until(lambda: nodes_of(n1)["n2"]["state"] == "down", 3 * TTL_S + 5, "n1 to notice")
    assert f"disk number {number}." in n1.cli("disk", "add", n2.disk_path(0))
    n1.cli("volume", "export", "v", n1.dir / "copy")
    assert (n1.dir / "copy").read_bytes()[: image.stat().st_size] == image.read_bytes()
    assert [(d["node"], d["state"]) for d in n1.disks()] == [("n1", "in")]
    # What it was is no trouble to the other one when that comes back, which finds the disk where it is.
    n2.start()
    wait_until(lambda: [(d["node"], d["state"]) for d in n2.disks()] == [("n1", "in")], 10, "n2 to see the disk")
    n2.cli("volume", "export", "v", n2.dir / "copy")
    assert (n2.dir / "copy").read_bytes()[: image.stat().st_size] == image.read_bytes()


def test_what_comes_to_share_a_node_is_moved_apart(pair, site):
    n1, n2 = pair
    n3 = site.node("n3")
    wait_state(n3, "not joined")
    n3.cli("cluster", "join")
    for node in (n1, n2):
        node.add_disk(0)
    wait_until(lambda: [d["state"] for d in n1.disks()] == ["in", "in"], 20, "n1 to see both disks")
    n1.cli("pool", "create", "p", "--code", "1+1", "--domain", "node")
    image = n1.dir / "image"
    image.write_bytes(b"holdfast" * 131072 * 2)
    n1.cli("volume", "import", "v", image, "--create")
    n2.kill9()
    wait_until(lambda: nodes_of(n1)["n2"]["state"] == "down", 3 * TTL_S + 5, "n1 to notice")
    n1.cli("disk", "add", n2.disk_path(0))  # both halves of every chunk are on n1 now
    n3.add_disk(0)
    wait_until(lambda: (i := n1.json("volume", "info", "v"))["health"] == "ok" and i["chunks"] > 0, 60, f"repair: {problem(n1)}")
    assert n1.json("volume", "info", "v")["chunks_crowded"] == 0
    # One of them is on n3: n1 is not missed.
    n1.kill9()
    n2.start()
    n2.add_disk(1)
    n3.cli("volume", "export", "v", n3.dir / "copy")
    assert (n3.dir / "copy").read_bytes()[: image.stat().st_size] == image.read_bytes()


def test_a_dead_node_is_removed_and_its_name_free(pair, site):
    n1, n2 = pair
    assert "is up" in fails(n1, "node", "remove", "n2")
    assert "is this node" in fails(n1, "node", "remove", "n1")
    assert "no node named" in fails(n1, "node", "remove", "n9")
    n2.stop()
    wait_until(lambda: nodes_of(n1)["n2"]["state"] == "down", TTL_S + 5, "n1 to notice")
    assert "out of the cluster" in n1.cli("node", "remove", "n2")
    wait_until(lambda: list(nodes_of(n1)) == ["n1"], 5, "n2 to go")
    successor = site.node("n2")
    wait_state(successor, "not joined")
    successor.cli("cluster", "join")
    wait_until(lambda: len(up(n1)) == 2, 10, "the new n2")
    # The old one is told.
    n2.start_process()
    assert n2.process.wait(100) == 1
    n2.process = None
    assert "choose another [node] name" in tail(n2.log)


def test_the_embedded_store_has_one_node_and_says_so():
    with Node(disks=3, disk_mib=64, code="1+2") as node:
        node.create()
        nodes = node.json("node", "list")["nodes"]
        assert [n["name"] for n in nodes] == ["n1"] and nodes[0]["state"] == "up" and nodes[0]["disks"] == 3
        assert "type = etcd" in fails(node, "cluster", "join")
        assert "type = etcd" in fails(node, "cluster", "init")
        assert node.json("status")["health"] == "ok"
        assert node.json("pool", "list")["pools"][0]["domain"] == "disk"
