# SPDX-License-Identifier: Apache-2.0
"""fio's checksums run through each failure that issue 3 names, by NBD and through a FUSE mount at the same time: no error, no
wrong byte, and the longest answer is the I/O gap beside its target. Afterwards another node reads it all once more."""

import shutil
import time

import nbd
import pytest
from conftest import LONG
from hftest.cluster import Cluster
from hftest.faultfs import FaultFs
from hftest.fio import Fio, all_running
from hftest.node import FuseMount
from hftest.process import wait_until
from test_failover import TTL_S

VOLUME_MIB = 512
OUTAGE_S = 60 if LONG else 3 * TTL_S


@pytest.fixture(scope="module")
def shared():
    """One cluster for all of them: ownership stays where it is put, so that 'owner' and 'clients' are who the test says."""
    if not shutil.which("fio"):
        pytest.skip("fio is not here")
    cluster = Cluster(nodes=4, disks=1, etcd=3, disk_mib=640, session_ttl=f"{TTL_S}s", config={"volume": {"handoff": "no"}})
    try:
        yield cluster.create()
    finally:
        cluster.close()


@pytest.fixture
def site(shared, request):
    """(cluster, start): start(owner, at, seconds) begins two clients of a new volume, once all is well; afterwards it is again."""
    request.node.holdfast_clusters = [shared]
    clients, mounts = [], []
    name = f"v{abs(hash(request.node.name)) % 10**8}"

    def tidy():
        while clients:
            clients.pop().close()
        while mounts:
            mounts.pop().close()
        for node in shared.nodes.values():
            if not node.process:
                node.start()
        for name_of_etcd, process in shared.etcd.processes.items():
            if process.poll() is not None:
                shared.etcd.start(name_of_etcd)
        wait_until(lambda: len(shared.up_disks(shared.n1)) == 4, 30, "all disks again")

        def gone():
            return name not in [volume["name"] for volume in shared.n1.volumes()] or not shared.n1.cli_run("volume", "delete", name, "--force", "--yes").returncode

        wait_until(gone, 30, "the volume to go")

    def start(owner, at, seconds):
        tidy()  # of an attempt that was too slow
        cluster = shared
        uri = cluster.nodes[owner].volume(name, VOLUME_MIB)
        handle = nbd.NBD()
        handle.connect_uri(uri)
        handle.pwrite(bytes(4096), 0)
        handle.shutdown()
        mount = FuseMount(cluster.nodes[at], f"mnt-{name}")
        mounts.append(mount)
        clients.append(Fio(f"{name}-nbd", seconds, cluster.dir, uri=cluster.nodes[at].uri(name)))
        clients.append(Fio(f"{name}-fuse", seconds, cluster.dir, path=mount.path / name, offset_mib=VOLUME_MIB // 2))
        all_running(clients, 2)
        assert cluster.nodes[at].owner_of(name) == owner
        return clients

    start.volume = name
    yield shared, start
    tidy()


def through(site, figure, what, target_s, disturb, owner="n1", at="n1", seconds=6):
    """disturb() while both clients write and read; it returns when all is well or going to be."""
    cluster, start = site
    clients = start(owner, at, seconds)
    disturb()
    gap = max(client.finish() for client in clients)
    for node in cluster.nodes.values():
        if not node.process:
            node.start()
    for client in clients:
        client.verify_from(cluster.n4.uri(start.volume))
    figure(f"fio through {what}", gap, target_s)


def test_kill_of_a_node_that_only_holds_copies(site, figure):
    through(site, figure, "kill -9 of a node that is not the owner", 0.3, site[0].n3.kill9)


def test_kill_of_the_owner_while_clients_are_elsewhere(site, figure):
    cluster, start = site
    through(site, figure, f"kill -9 of the owner, clients elsewhere (TTL {TTL_S} s)", TTL_S + 1, cluster.n3.kill9, "n3", "n2")
    assert cluster.n2.owner_of(start.volume) != "n3"


def test_link_cut_without_a_reset(site, figure):
    cluster = site[0]

    def disturb():
        cluster.network.cut("n3")
        time.sleep(5)
        cluster.network.heal("n3")

    through(site, figure, "a link cut without a reset", 3, disturb)


def test_owner_stopped_beyond_its_lease_and_continued(site, figure):
    """Clients on the stopped owner wait, those elsewhere go on after the lease; neither sees an error or a wrong byte."""
    cluster, start = site
    zombies = []

    def disturb():
        zombies.append(Fio("on-the-zombie", 4, cluster.dir, uri=cluster.n3.uri(start.volume), offset_mib=VOLUME_MIB * 3 // 4))
        all_running(zombies, 1)
        cluster.n3.pause()
        time.sleep(2 * TTL_S)
        cluster.n3.resume()

    try:
        through(site, figure, f"SIGSTOP of the owner and SIGCONT (TTL {TTL_S} s)", TTL_S + 1, disturb, "n3", "n2")
        zombies[0].finish()
        zombies[0].verify_from(cluster.n4.uri(start.volume))
        assert cluster.n2.owner_of(start.volume) != "n3"
    finally:
        for zombie in zombies:
            zombie.close()


def test_loss_of_etcds_leader(site, figure):
    cluster = site[0]
    leader = cluster.etcd.leader()
    through(site, figure, "loss of etcd's leader", 0.3, lambda: cluster.etcd.kill9(leader))
    cluster.etcd.start(leader)


def test_loss_of_all_of_etcd(site, figure):
    """Killed, so that connections are refused (test_etcd.py: stopped, so that they hang), for three lease times."""
    cluster, start = site

    def disturb():
        for member in list(cluster.etcd.processes):
            cluster.etcd.kill9(member)
        time.sleep(OUTAGE_S)
        for member in list(cluster.etcd.processes):
            cluster.etcd.start(member)

    through(site, figure, f"loss of all of etcd for {OUTAGE_S} s", 0.3, disturb, "n1", "n2", OUTAGE_S + 1)
    assert cluster.n2.owner_of(start.volume) == "n1"


def test_every_node_restarts_in_turn(site, figure):
    """A rolling upgrade. NBD's client is on the owner until that restarts too: then only the mount, which connects again."""
    cluster, start = site

    def disturb():
        for name in ("n2", "n3", "n4"):
            cluster.nodes[name].restart()
            time.sleep(0.5)
        clients[0].finish()
        cluster.n1.restart()
        time.sleep(0.5)

    clients = start("n1", "n1", 8)
    clients.append(Fio("through-it-all", 12, cluster.dir, path=clients[1].target[1].split("=")[1], offset_mib=VOLUME_MIB * 3 // 4))
    disturb()
    gap = max(client.finish() for client in clients[1:])
    for client in clients:
        client.verify_from(cluster.n4.uri(start.volume))
    figure("fio through a restart of every node in turn", gap, 2)


def test_a_disk_that_starts_to_take_200_ms_a_write(make_cluster, figure):
    cluster = make_cluster(nodes=4, disks=1, disk_mib=640)
    slow = cluster.n3
    mount = FaultFs(slow)
    slow.restart()  # its namespace has the mounts of the time it was started
    slow.cli("disk", "remove", slow.disk_path(0), timeout_s=60)
    slow.cli("disk", "format", mount.path / "disk", "--size", "640MiB")
    slow.cli("disk", "add", mount.path / "disk")
    wait_until(lambda: len(cluster.up_disks(cluster.n1)) == 4, 30, "the disks")
    uri = cluster.n1.volume("v", VOLUME_MIB)
    fuse = FuseMount(cluster.n1)
    first = [Fio("nbd", 8, cluster.dir, uri=uri), Fio("fuse", 8, cluster.dir, path=fuse.path / "v", offset_mib=128)]
    later = []
    try:
        all_running(first, 2)
        mount.fail("slow")
        time.sleep(3)
        # Service has recovered by itself: these begin while the disk is still slow.
        later = [Fio("nbd-later", 3, cluster.dir, uri=uri, offset_mib=256), Fio("fuse-later", 3, cluster.dir, path=fuse.path / "v", offset_mib=384)]
        for client in first:
            client.finish()
        gap = max(client.finish() for client in later)
        for client in first + later:
            client.verify_from(cluster.n4.uri("v"))
        assert all(disk["state"] == "in" for disk in cluster.n1.disks())
        figure("fio begun 3 s after a disk's writes take 200 ms", gap, 0.1)
    finally:
        for client in first + later:
            client.close()
        mount.fail("")
