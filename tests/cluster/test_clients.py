# SPDX-License-Identifier: Apache-2.0
"""Clients that nobody here wrote, while nodes come and go: fio with checksums, files through FUSE mounts."""

import os
import subprocess
import threading
import time

from hftest.node import FuseMount
from hftest.process import run, wait_until
from test_failover import TTL_S

FIO = ["--name=v", "--rw=randwrite", "--bs=4k", "--iodepth=16", "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=512"]


def test_fio_verify_runs_through_failures_of_others(make_cluster):
    """A copy's node killed, one cut off, etcd's leader killed, the owner moved: fio sees latency, no error, and its checksums hold."""
    cluster = make_cluster(nodes=5, disks=1, etcd=3, disk_mib=512)
    uri = cluster.n1.volume("v", 128)
    fio = subprocess.Popen(
        ["fio", "--ioengine=nbd", f"--uri={uri}", "--size=128m", "--time_based", "--runtime=14", *FIO],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cluster.dir,
    )
    try:
        time.sleep(2)
        cluster.n2.kill9()
        time.sleep(2)
        cluster.etcd.kill9(cluster.etcd.leader())
        cluster.n2.start_process()
        time.sleep(3)
        cluster.network.cut("n3")
        time.sleep(3)
        cluster.network.heal("n3")
        time.sleep(1)
        cluster.n4.cli("volume", "move", "v", "--to", "n5")
        output, _ = fio.communicate(timeout=450)
    finally:
        fio.kill()
    assert fio.returncode == 0, output[-3000:]


class Appender(threading.Thread):
    """Appends lines to a file of the mount's file and fsyncs each; what was fsynced is remembered."""

    def __init__(self, path, blocks):
        super().__init__(daemon=True)
        self.path, self.blocks = path, blocks
        self.written, self.failure, self.ending = 0, None, False

    def run(self):
        try:
            fd = os.open(self.path, os.O_RDWR)
            while not self.ending and self.written < self.blocks:
                os.pwrite(fd, f"{self.written:08}".encode() * 512, self.written * 4096)
                os.fsync(fd)
                self.written += 1
            os.close(fd)
        except OSError as error:
            self.failure = error

    def more(self, blocks, timeout_s=60):
        wanted = self.written + blocks
        wait_until(lambda: self.failure or self.written >= wanted, timeout_s, f"{blocks} fsynced blocks")
        assert not self.failure, self.failure


def test_files_survive_the_restart_of_their_own_node(make_cluster):
    """A rolling upgrade of all nodes, the one with the mount and the owner included: the mount waits and goes on."""
    cluster = make_cluster(nodes=3, disks=2, session_ttl=f"{TTL_S}s")
    cluster.n1.volume("v", 64)
    mounts = {name: FuseMount(node) for name, node in cluster.nodes.items()}
    appender = Appender(mounts["n1"].path / "v", 16384)
    appender.start()
    appender.more(50)
    for name in ("n1", "n2", "n3"):
        cluster.nodes[name].restart()
        appender.more(50)
    cluster.n1.kill9()
    cluster.n1.start()
    appender.more(50)
    appender.ending = True
    appender.join(150)
    assert not appender.failure, appender.failure
    data = (mounts["n2"].path / "v").read_bytes()[: appender.written * 4096]
    for number in range(appender.written):
        assert data[number * 4096 : (number + 1) * 4096] == f"{number:08}".encode() * 512, f"block {number} as seen from n2"


def test_a_file_system_follows_to_another_node(make_cluster):
    cluster = make_cluster(nodes=4, disks=1, session_ttl=f"{TTL_S}s")
    where = cluster.dir / "where"
    where.mkdir()
    cluster.n1.volume("v", 128)
    first, second = FuseMount(cluster.n1), FuseMount(cluster.n2)
    run(["mkfs.ext4", "-q", "-F", first.path / "v"])
    run(["mount", "-o", "loop", first.path / "v", where])
    try:
        (where / "hello").write_bytes(os.urandom(1 << 20))
        content = (where / "hello").read_bytes()
    finally:
        run(["umount", where])
    cluster.n1.kill9()
    run(["fsck.ext4", "-f", "-n", second.path / "v"], timeout_s=60)
    run(["mount", "-o", "loop,ro", second.path / "v", where])
    try:
        assert (where / "hello").read_bytes() == content
    finally:
        run(["umount", where])
