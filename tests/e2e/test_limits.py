# SPDX-License-Identifier: Apache-2.0
"""What a node may cost: no CPU when idle, bounded memory under load, a quick start."""

import errno
import fcntl
import os
import struct
import subprocess
import time

import nbd
from conftest import LONG
from hftest.faultfs import FaultFs
from hftest.node import MIB
from hftest.process import least_cpu, run, wait_until


def fio(uri, *options):
    run(["fio", "--name=job", "--ioengine=nbd", f"--uri={uri}", "--group_reporting", *options], timeout_s=600)


def load(node, uri, *options):
    """fio at depth for a while, in the background."""
    command = ["fio", "--name=load", "--ioengine=nbd", f"--uri={uri}", "--size=192M", "--time_based", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=node.dir)


def test_an_idle_node_uses_no_cpu(node, fuse):
    uri = node.volume("v", 64)
    handle = nbd.NBD()
    handle.connect_uri(uri)
    handle.pwrite(b"x" * MIB, 0)
    handle.flush()
    # Two ticks of the clock that this is counted in; the clean-up after the last write (sync, destage) is work, not idling.
    used = least_cpu([node.process.pid, fuse.process.pid], 3, 0.02)
    assert used < 0.025, f"blockd or holdfast-fuse used {used:.2f} s of 3 s"


def test_memory_stays_under_its_bound_under_load(make_node):
    """Small and large requests at depth on eight connections, with a budget of 128 MiB, on disks that become slow: everything fills up."""
    budget_mib = 128
    node = make_node(disks=0, code=None, config={"node": {"memory": f"{budget_mib}MiB"}})
    mount = FaultFs(node)
    try:
        for number in range(6):
            disk = mount.path / f"disk{number}"
            node.cli("disk", "format", disk, "--size", "512MiB")
            node.cli("disk", "add", disk)
        node.cli("pool", "create", "main", "--code", "4+2")
        uris = [node.volume(f"v{number}", 192) for number in range(4)]
        idle = node.rss_bytes()
        for rw, block, depth in (("randwrite", "1M", 16), ("randrw", "64k", 64), ("randwrite", "32M", 2), ("randrw", "4k", 64)):
            options = f"--rw={rw}", f"--bs={block}", f"--iodepth={depth}", f"--runtime={60 if LONG else 3}"
            jobs = [load(node, uri, *options) for uri in uris * 2]
            for what in ["", "slow"] * (10 if LONG else 1) + [""]:
                mount.fail(what)
                time.sleep(1)
            for job in jobs:
                assert job.wait(600) == 0
    finally:
        if node.alive():
            peak = node.peak_rss_bytes()
            node.kill9()
        mount.close()
    print(f"peak RSS {peak // MIB} MiB, idle {idle // MIB} MiB, budget {budget_mib} MiB")
    assert peak <= (budget_mib + 64) * MIB, f"peak RSS {peak // MIB} MiB with a budget of {budget_mib} MiB (idle {idle // MIB} MiB)"


def is_unlocked(path):
    """Whether blockd's lock (F_OFD_SETLK) could be had: the kernel keeps a dead process's files until its last write is back."""
    with open(path, "r+b") as file:
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except OSError as error:
            assert error.errno in (errno.EAGAIN, errno.EACCES), error
            return False
    return True


def test_a_volume_with_64_mib_of_log_opens_in_about_a_second(make_node):
    """Its data disks take 1 s a write, its log disks do not: so the log grows to its limit, also where fio is slow, before blockd is killed."""
    node = make_node(disks=0, code=None, config={"node": {"memory": "512MiB"}})
    mount = FaultFs(node)
    try:
        for number in range(6):
            disk, kind = (node.dir / f"fast{number}", "fast") if number < 3 else (mount.path / f"slow{number}", "slow")
            node.cli("disk", "format", disk, "--size", "256MiB", "--class", kind)
            node.cli("disk", "add", disk)
        node.cli("pool", "create", "main", "--code", "2+1", "--class", "slow", "--log-class", "fast")
        uri = node.volume("v", 256)
        fio(uri, "--rw=randwrite", "--bs=4k", "--iodepth=4", "--size=1M")  # chunks and logs are there
        mount.fail("crawl")
        writer = subprocess.Popen(
            ["fio", "--name=f", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=256M"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=node.dir,
        )
        wait_until(lambda: node.json("volume", "info", "v")["log_bytes"] >= 56 * MIB, 60, "56 MiB of log", interval_s=0.1)
        log_mib = node.json("volume", "info", "v")["log_bytes"] / MIB
        node.kill9()
        writer.wait()
        mount.fail("")
        for number in range(3, 6):
            wait_until(lambda path=mount.path / f"slow{number}": is_unlocked(path), 30, "the kernel to let go of the dead daemon's disks")
        begin = time.monotonic()
        node.start()
        ready = time.monotonic()
        handle = nbd.NBD()
        handle.connect_uri(uri)
        handle.pread(4096, 0)
        opened = time.monotonic() - ready
    finally:
        if node.alive():
            node.kill9()
        mount.close()
    print(f"{log_mib:.0f} MiB of log: ready after {ready - begin:.2f} s, first read after {opened:.2f} s more (target 1 s)")
    assert opened < 10, f"the first read of a volume with {log_mib:.0f} MiB of log took {opened:.2f} s"


def trim_and_write_again(uri, mib, rounds):
    """Whole MiB trimmed, then written: both need a log, and the second space that the first has made."""
    handle = nbd.NBD()
    handle.connect_uri(uri)
    for number in range(rounds):
        at = (number * 7 % mib) * MIB
        handle.trim(MIB, at)
        assert handle.pread(4096, at) == bytes(4096)
        handle.pwrite(bytes([number % 255 + 1]) * MIB, at)
    handle.flush()
    for number in range(max(0, rounds - mib), rounds):
        at = (number * 7 % mib) * MIB
        assert handle.pread(MIB, at) == bytes([number % 255 + 1]) * MIB


def test_overwriting_a_pool_that_is_two_thirds_full_goes_on_for_ever(make_node):
    """Garbage is space: no write gets ENOSPC, however often everything is overwritten, and everything reads back."""
    disk_mib = 224
    node = make_node(disks=3, code="2+1", disk_mib=disk_mib, config={"volume": {"log_limit": "16MiB"}})
    mib = 2 * disk_mib * 60 // 100
    uri = node.volume("v", mib)
    small, large = (mib * 8, mib * 12) if LONG else (mib // 4, 2 * mib)
    verify = ("--verify=crc32c", "--verify_fatal=1", "--do_verify=1")
    fio(uri, "--rw=write", "--bs=1M", "--iodepth=8", f"--size={mib}M")
    fio(uri, "--rw=randwrite", "--bs=1M", "--iodepth=8", f"--size={mib}M", f"--io_size={large}M", "--norandommap")
    fio(uri, "--rw=randwrite", "--bs=4k", "--iodepth=32", f"--size={mib}M", f"--io_size={small}M", "--norandommap")
    trim_and_write_again(uri, mib, 2 * mib if LONG else mib // 4)
    fio(uri, "--rw=randwrite", "--bs=64k", "--iodepth=16", f"--size={mib}M", *verify)
