# SPDX-License-Identifier: Apache-2.0
"""The coordination store fails under load: without a node failing too, I/O does not notice."""

import errno
import os
import signal
import time

import nbd
import pytest
from conftest import LONG
from hftest.load import Load
from hftest.node import FuseMount
from hftest.process import wait_until
from test_failover import TTL_S, settle


def test_loss_of_etcds_leader(make_cluster, figure):
    cluster = make_cluster(nodes=3, disks=1, etcd=3, session_ttl=f"{TTL_S}s")
    cluster.n1.volume("v", 256)
    with Load([cluster.n1.uri("v"), cluster.n2.uri("v")]) as load:
        settle(load)
        quiet = settle(load)
        leader = cluster.etcd.leader()
        begin = time.monotonic()
        cluster.etcd.kill9(leader)
        settle(load, 2 * TTL_S)
        gap = load.gap_since(begin)
        cluster.n1.cli("volume", "create", "w", "--size", "64MiB", "--pool", cluster.pool)
        cluster.etcd.start(leader)
        load.stop()
    load.verify(cluster.n3.uri("v"))
    figure("loss of etcd's leader: longest answer", gap, 0.3, quiet=quiet)


def test_loss_of_all_of_etcd(make_cluster, figure):
    """Longer than any lease: owners go on (reads by no-ops, S17), nobody takes anything over, and it all comes back."""
    cluster = make_cluster(nodes=3, disks=1, session_ttl=f"{TTL_S}s", config={"volume": {"handoff": "no"}})
    cluster.n1.volume("v", 256)
    with Load([cluster.n1.uri("v"), cluster.n2.uri("v")]) as load:
        settle(load)
        quiet = settle(load)
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
    figure("loss of all of etcd: longest answer", gap, 0.3, quiet=quiet)


def answers_within(what, seconds):
    begin = time.monotonic()
    try:
        return what()
    finally:
        waited = time.monotonic() - begin
        assert waited < seconds, f"{waited:.1f} s"


def error_of(what):
    try:
        what()
    except OSError as error:
        return error.errno
    return 0


@pytest.mark.parametrize("how", ["stopped", "killed"] if LONG else ["stopped"])
def test_files_are_found_and_opened_without_etcd(make_cluster, how):
    """S18: what blockd serves, is attached to or has seen is listed, looked up and opened; new names fail clearly, and soon."""
    cluster = make_cluster(nodes=3, disks=1, session_ttl=f"{TTL_S}s")
    for name in ("here", "there", "seen"):
        cluster.n1.volume(name, 64)
    mounts = {node: FuseMount(cluster.nodes[node]) for node in ("n1", "n2")}
    with open(mounts["n1"].path / "here", "r+b") as file:
        file.write(b"h" * 4096)
    held = nbd.NBD()
    held.connect_uri(cluster.n2.uri("here"))  # n2 is attached to it
    with open(mounts["n2"].path / "there", "r+b") as file:
        file.write(b"t" * 4096)
    assert sorted(os.listdir(mounts["n1"].path)) == sorted(os.listdir(mounts["n2"].path)) == ["here", "seen", "there"]
    cluster.n1.cli("volume", "info", "there")
    served = cluster.n1.volume("served", 64)
    only = nbd.NBD()
    only.connect_uri(served)
    only.pwrite(b"o" * 4096, 0)
    cluster.n3.cli("volume", "move", "there", "--to", "n3")  # n1 is not told
    if how == "stopped":
        cluster.etcd.signal_all(signal.SIGSTOP)
    else:
        cluster.etcd.kill9("e1")
    for round_number in range(2):  # within the lease, and beyond it
        for mount in mounts.values():
            for name in ("here", "there"):
                data = answers_within((mount.path / name).read_bytes, 60 if round_number == 0 else 30)
                assert data[:4096] == name[:1].encode() * 4096
            listed = answers_within(lambda at=mount: os.listdir(at.path), 60)
            assert {"here", "seen", "there"} <= set(listed) <= {"here", "seen", "there", "served"}
            assert (mount.path / "seen").stat().st_size == 64 << 20
        if round_number == 0:
            time.sleep(TTL_S)
    with pytest.raises(OSError) as new:
        answers_within((mounts["n1"].path / "new").stat, 60)
    assert new.value.errno == errno.EAGAIN
    # What only another node has heard of is found by asking who serves it.
    assert (mounts["n2"].path / "served").read_bytes()[:4096] == b"o" * 4096
    other = nbd.NBD()
    other.connect_uri(cluster.n3.uri("served"))
    assert other.pread(4096, 0) == b"o" * 4096
    with open(mounts["n2"].path / "there", "r+b") as file:
        file.write(b"T" * 4096)
        os.fsync(file.fileno())
    assert (mounts["n1"].path / "there").read_bytes()[:4096] == b"T" * 4096
    assert bytes(held.pread(4096, 0)) == b"h" * 4096
    unknown = cluster.n1.cli_run("volume", "info", "new")
    assert unknown.returncode and "the store does not answer" in unknown.stderr
    assert "last saw" in cluster.n2.cli("volume", "list") and "last saw" in cluster.n2.cli("node", "list")
    closed = cluster.n2.json("volume", "info", "seen")  # not tried to be opened
    assert closed["recalled"] and "nobody was seen to serve it" in closed["problem"]
    moved = cluster.n1.cli_run("volume", "move", "here", "--to", "n3")
    assert moved.returncode, moved.stdout
    assert bytes(held.pread(4096, 0)) == b"h" * 4096
    # And back.
    if how == "stopped":
        cluster.etcd.signal_all(signal.SIGCONT)
    else:
        cluster.etcd.start("e1")
    time.sleep(2 * TTL_S)
    wait_until(lambda: error_of((mounts["n1"].path / "new").stat) == errno.ENOENT, 10, "the new name not to be there")
    wait_until(lambda: "last saw" not in cluster.n2.cli("volume", "list"), 10, "the list of now")
    cluster.n1.cli("volume", "move", "here", "--to", "n3")
    assert cluster.n2.owner_of("here") == "n3" and (mounts["n2"].path / "seen").read_bytes() == bytes(64 << 20)


def test_a_handoff_is_not_begun_while_etcd_is_away(make_cluster):
    """Within the lease, too, when nobody has noticed yet: the volume would be nobody's until etcd is back."""
    cluster = make_cluster(nodes=3, disks=1, session_ttl="10s", config={"volume": {"handoff_after": "500ms"}})
    cluster.n1.volume("v", 64)
    handle = nbd.NBD()
    handle.connect_uri(cluster.n1.uri("v"))
    handle.pwrite(b"1" * 4096, 32 << 20)
    assert cluster.n2.owner_of("v") == "n1"
    cluster.etcd.signal_all(signal.SIGSTOP)
    with Load([cluster.n2.uri("v")]) as load:  # all of the traffic
        settle(load, 6)
        load.stop()
    moved = cluster.n1.cli_run("volume", "move", "v", "--to", "n2")
    assert moved.returncode and "store" in moved.stderr, moved.stderr
    load.verify(cluster.n1.uri("v"))
    cluster.etcd.signal_all(signal.SIGCONT)
    load.verify(cluster.n3.uri("v"))


def in_use(node):
    return sorted((disk["number"], disk["node"]) for disk in node.disks() if disk["state"] == "in")


def restore_etcd(cluster, snapshot):
    """As docs/OPERATIONS.md says: all of etcd is lost, and set up anew from a snapshot under daemons that run on."""
    etcd = cluster.etcd
    etcd.kill9("e1")
    (etcd.base / "e1").rename(etcd.base / "e1.lost")
    words = ["snapshot", "restore", snapshot, "--name=e1", f"--data-dir={etcd.base / 'e1'}"]
    words += [f"--initial-cluster=e1={etcd.peers['e1']}", f"--initial-advertise-peer-urls={etcd.peers['e1']}"]
    etcd.ctl("e1", *words, check=True)
    etcd.start("e1")


def test_etcd_restored_from_a_snapshot_under_a_running_cluster(make_cluster):
    cluster = make_cluster(nodes=3, disks=1, session_ttl=f"{TTL_S}s")
    for name in ("stays", "moves"):
        cluster.n1.volume(name, 64)
    handle = nbd.NBD()
    handle.connect_uri(cluster.n2.uri("moves"))
    handle.pwrite(b"m" * 4096, 0)
    handle.flush()
    with Load([cluster.n1.uri("stays"), cluster.n2.uri("stays")]) as load:
        settle(load, 3)
        snapshot = cluster.dir / "snapshot"
        cluster.etcd.ctl("e1", "snapshot", "save", snapshot, check=True)
        cluster.n1.cli("volume", "move", "moves", "--to", "n3")
        cluster.n1.volume("late", 64)
        cluster.n2.add_disk(1)
        disks = sorted((disk["number"], disk["node"]) for disk in cluster.n2.disks())
        restore_etcd(cluster, snapshot)
        settle(load, 2 * TTL_S)
        load.stop()
    load.verify(cluster.n3.uri("stays"))
    # A disk that was added later is recorded again by its node: it is what it was, and nobody gets its number.
    for node in (cluster.n1, cluster.n2):
        wait_until(lambda n=node: in_use(n) == disks, 20, "all disks to be in use")
    cluster.n3.add_disk(1)
    assert len(disks) == 4 and max(disk["number"] for disk in cluster.n3.disks()) == disks[-1][0] + 1
    # What was made later is gone; what moved is where it moved to, for its owner has written its root again.
    wait_until(lambda: {volume["name"] for volume in cluster.n2.volumes()} == {"stays", "moves"}, 20, "the list of then")
    wait_until(lambda: cluster.n2.owner_of("moves") == "n3", 20, "the owner of 'moves' to say so")
    there = nbd.NBD()
    there.connect_uri(cluster.n1.uri("moves"))
    assert there.pread(4096, 0) == b"m" * 4096
    there.pwrite(b"M" * 4096, 4096)
    there.flush()
    cluster.n2.cli("volume", "move", "moves", "--to", "n2")
    assert there.pread(8192, 0) == b"m" * 4096 + b"M" * 4096 and cluster.n1.owner_of("moves") == "n2"
    there.shutdown()
    exported = cluster.dir / "moves.img"
    cluster.n3.cli("volume", "export", "moves", exported)
    assert exported.read_bytes()[:4096] == b"m" * 4096
    # The cluster goes on: volumes are made and moved, nodes that die are noticed.
    cluster.n3.cli("volume", "import", "moves2", exported, "--create")
    cluster.n1.cli("volume", "move", "moves2", "--to", "n1")
    cluster.n3.kill9()
    wait_until(lambda: "down" in cluster.n1.cli("node", "list"), 4 * TTL_S, "n3 to be down")
    load.verify(cluster.n2.uri("stays"))
    back = nbd.NBD()
    back.connect_uri(cluster.n2.uri("moves2"))
    assert back.pread(4096, 0) == b"m" * 4096
