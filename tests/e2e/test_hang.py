# SPDX-License-Identifier: Apache-2.0
"""A disk that hangs in the kernel: its I/O neither comes back nor fails. After [disk] io_timeout it is out, until that I/O is back."""

import subprocess
import time

import nbd
import pytest
from hftest.faultfs import FaultFs
from hftest.node import MIB
from hftest.process import PATIENCE, wait_until

VOLUME_MIB = 64
TIMEOUT_S = 6  # well above what a busy machine's disks take for a flush


@pytest.fixture
def hanging(make_node):
    """(node, mount, disk): four disks of a 2+1 pool, the last one on the mount."""
    node = make_node(disks=3, code="2+1", config={"disk": {"io_timeout": f"{TIMEOUT_S}s"}})
    mount = FaultFs(node, requests_max=4096)
    disk = mount.path / "disk"
    node.cli("disk", "format", disk, "--size", f"{node.disk_mib}MiB")
    node.cli("disk", "add", disk)
    return node, mount, disk


def mib_of(number):
    return (number * 2654435761 % (1 << 32)).to_bytes(4, "little") * (MIB // 4)


def connect(uri):
    handle = nbd.NBD()
    handle.connect_uri(uri)
    return handle


def fill(uri):
    handle = connect(uri)
    for number in range(VOLUME_MIB):
        handle.pwrite(mib_of(number), number * MIB)
    handle.flush()
    return handle


def read_all(handle, depth=16):
    """All of it, several at a time; the longest answer in seconds."""
    longest = 0
    for first in range(0, VOLUME_MIB, depth):
        numbers = range(first, min(first + depth, VOLUME_MIB))
        buffers = [nbd.Buffer(MIB) for _ in numbers]
        started = time.monotonic()
        cookies = [handle.aio_pread(buffer, number * MIB) for number, buffer in zip(numbers, buffers)]
        while cookies:
            handle.poll(-1)
            cookies = [cookie for cookie in cookies if not handle.aio_command_completed(cookie)]
        longest = max(longest, time.monotonic() - started)
        for number, buffer in zip(numbers, buffers):
            assert buffer.to_bytearray() == mib_of(number), f"MiB {number}"
    return longest


def verifying_fio(uri, seconds):
    job = ["--name=hang", "--ioengine=nbd", f"--uri={uri}", "--rw=randrw", "--bs=4k", "--iodepth=16", "--size=32M"]
    job += ["--verify=crc32c", "--verify_fatal=1", "--verify_backlog=256", "--fsync=64", "--time_based", f"--runtime={seconds}"]
    return subprocess.Popen(["fio", *job], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def state_of(node, disk):
    return next(d for d in node.disks() if d["path"] == str(disk))


def whole(node):
    return all(v["health"] == "ok" for v in node.volumes())


def test_a_disk_that_hangs_is_out_and_comes_back(hanging):
    node, mount, disk = hanging
    reader = fill(node.volume("v", VOLUME_MIB))
    fio = verifying_fio(node.volume("w", VOLUME_MIB), 6)
    time.sleep(1)
    mount.fail("hang")
    assert read_all(reader) < TIMEOUT_S + 20
    wait_until(lambda: state_of(node, disk)["state"] == "missing", 20, "the disk to be out")
    problem = state_of(node, disk)["problem"]
    assert str(disk) in problem and "does not come back" in problem and "disk remove" in problem, problem
    assert str(disk) in node.cli("status")
    read_all(reader)
    # It all comes back late, and disturbs nobody.
    mount.fail("")
    for _ in range(3):
        read_all(reader)
    wait_until(lambda: state_of(node, disk)["state"] == "in", 60, "the disk to come back")
    assert "problem" not in state_of(node, disk)
    text, _ = fio.communicate(timeout=60)
    assert fio.returncode == 0, text
    wait_until(lambda: whole(node), 60, "the volumes to be whole again")
    read_all(reader)
    node.restart()
    read_all(connect(node.uri("v")))


def test_a_disk_that_hangs_is_given_up(hanging):
    node, mount, disk = hanging
    reader = fill(node.volume("v", VOLUME_MIB))
    mount.fail("hang")
    assert read_all(reader) < TIMEOUT_S + 20
    reader.pwrite(mib_of(0), 0)
    wait_until(lambda: state_of(node, disk)["state"] == "missing", 20, "the disk to be out")
    node.add_disk(5)
    node.cli("disk", "remove", str(state_of(node, disk)["number"]), "--force")
    wait_until(lambda: whole(node), 40, "the volumes to be whole again")
    mount.fail("")
    read_all(reader)
    node.restart()
    read_all(connect(node.uri("v")))


def test_storage_that_stalls_and_goes_on_needs_nobody(make_node):
    """All disks hang at once, as in the failover of what they are on."""
    node = make_node(disks=0, code=None, config={"disk": {"io_timeout": f"{TIMEOUT_S}s"}})
    mount = FaultFs(node, requests_max=4096)
    for number in range(4):
        node.cli("disk", "format", mount.path / f"disk{number}", "--size", f"{node.disk_mib}MiB")
        node.cli("disk", "add", mount.path / f"disk{number}")
    node.cli("pool", "create", node.pool, "--code", "2+1")
    handle = fill(node.volume("v", VOLUME_MIB))
    mount.fail("hang")
    buffers = [nbd.Buffer.from_bytearray(bytearray(mib_of(number))) for number in range(8)]
    cookies = [handle.aio_pwrite(buffer, number * MIB) for number, buffer in enumerate(buffers)]
    cookies.append(handle.aio_flush())

    def out():
        handle.poll(0)
        return [d["state"] for d in node.disks()].count("missing") > 1

    wait_until(out, 40, "disks to be out")
    pid = node.process.pid
    mount.fail("")
    deadline = time.monotonic() + PATIENCE * 60
    while cookies:
        assert time.monotonic() < deadline, f"{len(cookies)} writes still wait"
        handle.poll(100)
        cookies = [cookie for cookie in cookies if not handle.aio_command_completed(cookie)]
    wait_until(lambda: all(d["state"] == "in" for d in node.disks()), 60, "all disks to come back")
    wait_until(lambda: whole(node), 60, "the volume to be whole again")
    read_all(handle)
    assert node.process.pid == pid and node.alive()
    node.restart()
    read_all(connect(node.uri("v")))
    node.stop()


def test_a_clean_stop_ends_though_a_disk_hangs(hanging):
    node, mount, disk = hanging
    handle = fill(node.volume("v", VOLUME_MIB))
    mount.fail("hang")
    handle.pwrite(mib_of(0), 0)
    handle.shutdown()
    offset = node.log.stat().st_size
    node.process.terminate()
    # The process itself is the kernel's until the I/O is back; all that others could wait for it has let go.
    wait_until(lambda: "stopped" in node.log.read_text()[offset:], 40, "blockd to stop")
    assert not node.admin_socket.exists()
    mount.fail("")
    node.wait_stopped()
    node.start()
    read_all(connect(node.uri("v")))


def test_a_disk_that_hangs_from_the_start_is_missing(hanging):
    node, mount, disk = hanging
    fill(node.volume("v", VOLUME_MIB)).shutdown()
    node.stop()
    mount.fail("hang")
    node.start()
    told = state_of(node, disk)
    assert told["state"] == "missing" and "does not come back" in told["problem"], told
    read_all(connect(node.uri("v")))
    # Neither does it hang who adds it.
    done = node.cli_run("disk", "add", disk, timeout_s=90)
    assert done.returncode != 0 and str(disk) in done.stderr, done.stderr
    mount.fail("")
    node.stop()
