# SPDX-License-Identifier: Apache-2.0
"""Disks vanish, rot, shrink and fill: everything stays readable, damage is counted and repaired, errors are clear."""

import errno
import os
import random
import subprocess
import time

import nbd
import pytest
from hftest.faultfs import FaultFs
from hftest.node import MIB
from hftest.pattern import BLOCK, History, Writer, block_bytes, verify_volume
from hftest.process import least_cpu, wait_until

VOLUME_MIB = 96


def filled(node, seed, ops=2500):
    """A volume with a history, all of it flushed; (address, history)."""
    uri = node.volume("v", VOLUME_MIB)
    history = History(VOLUME_MIB * MIB // BLOCK, seed)
    write_more(uri, history, seed, ops)
    return uri, history


def write_more(uri, history, seed, ops):
    writer = Writer(uri, history, seed=seed)
    writer.run(ops=ops)
    writer.drain()
    writer.flush()
    writer.close()


def take_away(node, numbers):
    for number in numbers:
        os.rename(node.disk_path(number), f"{node.disk_path(number)}.away")


def put_back(node, numbers):
    for number in numbers:
        os.rename(f"{node.disk_path(number)}.away", node.disk_path(number))


def flip_bits(path, seed, from_bytes):
    """One bit in each block that holds something, from there on to the last superblock; returns how many."""
    rng = random.Random(seed)
    flipped = 0
    with open(path, "r+b") as f:
        for at in range(from_bytes, os.path.getsize(path) - BLOCK, BLOCK):
            block = os.pread(f.fileno(), BLOCK, at)
            if block.count(0) == BLOCK:
                continue
            bit = rng.randrange(8 * BLOCK)
            os.pwrite(f.fileno(), bytes([block[bit // 8] ^ (1 << bit % 8)]), at + bit // 8)
            flipped += 1
    return flipped


def health(node):
    return node.json("status")["health"]


def wait_for_full_redundancy(node, timeout_s=120):
    def healthy():
        info = node.json("volume", "info", "v")
        return info.get("volume", info).get("health", "ok") == "ok" if isinstance(info.get("volume"), dict) else info["health"] == "ok"

    wait_until(healthy, timeout_s, f"the volume to be healthy again: {node.cli('volume', 'info', 'v')}", interval_s=0.3)


@pytest.mark.parametrize("gone", [(0, 1), (2, 5), (3, 4)])
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_any_two_disks_of_4_2_may_be_missing(node, how, gone):
    uri, history = filled(node, seed=sum(gone))
    node.stop() if how == "stopped" else node.kill9()
    take_away(node, gone)
    node.start()
    assert health(node) != "ok"
    verify_volume(uri, history)
    node.kill9()
    put_back(node, gone)
    node.start()
    verify_volume(uri, history)


def test_a_disk_that_comes_back_stale_is_not_believed(node):
    """With one disk of six away, writes go on; what it still holds when it returns must not win over them."""
    uri, history = filled(node, seed=8)
    node.kill9()
    take_away(node, [3])
    node.start()
    write_more(uri, history, seed=9, ops=1500)
    node.kill9()
    put_back(node, [3])
    node.start()
    verify_volume(uri, history)
    write_more(uri, history, seed=10, ops=500)
    node.kill9()
    take_away(node, [0, 1])
    node.start()
    verify_volume(uri, history)


def test_below_the_pools_minimum_writes_wait_and_reads_go_on(node):
    uri, history = filled(node, seed=11)
    node.kill9()
    take_away(node, [0, 1])
    node.start()
    # Large enough that what was allocated before cannot take it.
    writer = nbd.NBD()
    writer.connect_uri(uri)
    done = []
    data = [block_bytes(1, 1, block) * 256 for block in range(48)]
    for at, chunk in enumerate(data):
        buffer = nbd.Buffer.from_bytearray(bytearray(chunk))
        writer.aio_pwrite(buffer, at * MIB, completion=lambda error: done.append(error.value) or 1)
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        writer.poll(100)
    assert len(done) < len(data), "writes were acked with four disks of 4+2, whose minimum is five"
    reader = nbd.NBD()
    reader.connect_uri(uri)
    for offset in range(48 * MIB, VOLUME_MIB * MIB, MIB):
        reader.pread(MIB, offset)
    assert least_cpu([node.process.pid], 1, 0.25) < 0.3, "it spins while it waits"
    put_back(node, [0])
    node.cli("disk", "add", node.disk_path(0))
    wait_until(lambda: writer.poll(100) >= 0 and len(done) == len(data), 30, "the writes")
    assert done == [0] * len(data), done
    for at, chunk in enumerate(data):
        assert bytes(reader.pread(MIB, at * MIB)) == chunk


def test_any_two_disks_may_rot(node):
    uri, history = filled(node, seed=21)
    node.stop()
    for number in (1, 4):
        assert flip_bits(node.disk_path(number), seed=number, from_bytes=4 * MIB) > 500  # all slabs
    node.start()
    verify_volume(uri, history)
    errors = {disk["path"]: disk["errors"] for disk in node.disks()}
    for number in range(6):
        assert (errors[str(node.disk_path(number))] > 0) == (number in (1, 4)), errors
    wait_for_full_redundancy(node)
    verify_volume(uri, history)


@pytest.mark.parametrize("damage", ["zeroed-head", "flipped-head", "truncated", "emptied"])
def test_a_disk_with_a_ruined_head_is_named_and_left_out(node, damage):
    uri, history = filled(node, seed=31)
    node.stop()
    path = node.disk_path(2)
    with open(path, "r+b") as f:
        if damage == "zeroed-head":
            f.write(bytes(2 * MIB))
        elif damage == "flipped-head":
            head = bytearray(f.read(256 * 1024))
            for at in range(0, len(head), 997):
                head[at] ^= 0x10
            f.seek(0)
            f.write(head)
        elif damage == "truncated":
            f.truncate(os.path.getsize(path) // 3)
        else:
            f.truncate(0)
    node.start()
    assert node.alive()
    verify_volume(uri, history)
    assert str(path) in node.log.read_text().split("ready")[-1] or str(path) in node.cli("status"), "no word about the disk"


def test_a_lost_disk_is_rebuilt_onto_a_spare(make_node):
    node = make_node(disks=7, config={"repair": {"wait": "3s"}})
    uri, history = filled(node, seed=41)
    node.kill9()
    take_away(node, [0])
    node.start()
    verify_volume(uri, history)
    wait_for_full_redundancy(node)
    # Had it not been rebuilt, losing two more would now be one too many for some stripe.
    node.kill9()
    take_away(node, [1, 2])
    node.start()
    verify_volume(uri, history)


def test_a_disk_that_fails_under_load_stops_nothing(node):
    uri, history = filled(node, seed=51, ops=500)
    writer = Writer(uri, history, seed=52)
    writer.run(ops=1500, at={writer.sent + 300: lambda: os.truncate(node.disk_path(3), 0)})
    writer.drain()
    writer.flush()
    writer.close()
    verify_volume(uri, history)
    # The file grows again when it is written to, and what was read of it is mended by now, so the
    # node may well feel healthy; its head is gone, though, which shows when it is opened next.
    node.kill9()
    node.start()
    verify_volume(uri, history)
    assert health(node) != "ok"


def test_a_full_pool_says_enospc_and_loses_nothing(make_node):
    node = make_node(disks=3, disk_mib=96, code="1+1")
    uri = node.volume("big", 1024)
    handle = nbd.NBD()
    handle.connect_uri(uri)
    rng = random.Random(61)
    written, refused = {}, None
    for chunk in range(1024):
        data = rng.randbytes(MIB)
        try:
            handle.pwrite(data, chunk * MIB)
            written[chunk] = data
        except nbd.Error as error:
            refused = error.errnum
            break
    assert refused == errno.ENOSPC, f"error {refused} after {len(written)} MiB"
    assert len(written) >= 60, f"full after only {len(written)} MiB of a pool of 3 x 96 MiB at 1+1"
    handle.flush()
    for chunk, data in written.items():
        assert bytes(handle.pread(MIB, chunk * MIB)) == data
    node.kill9()
    node.start()
    handle = nbd.NBD()
    handle.connect_uri(uri)
    for chunk, data in written.items():
        assert bytes(handle.pread(MIB, chunk * MIB)) == data
    # Trim works when full, and makes room.
    freed = list(written)[: len(written) // 2]
    for chunk in freed:
        handle.trim(MIB, chunk * MIB)
    handle.flush()

    def writable():
        try:
            handle.pwrite(written[freed[0]], freed[0] * MIB)
            return True
        except nbd.Error as error:
            assert error.errnum == errno.ENOSPC
            return False

    wait_until(writable, 60, "space to come back after a trim", interval_s=0.5)
    for chunk in list(written)[len(written) // 2 :]:
        assert bytes(handle.pread(MIB, chunk * MIB)) == written[chunk]


def test_deleted_volumes_give_their_space_back(make_node):
    node = make_node(disks=3, disk_mib=128, code="1+1")
    free = lambda: sum(disk["free_bytes"] for disk in node.disks())  # noqa: E731
    before = free()
    for _ in range(4):
        uri = node.volume("v", 64)
        handle = nbd.NBD()
        handle.connect_uri(uri)
        for chunk in range(60):
            handle.pwrite(os.urandom(MIB), chunk * MIB)
        handle.flush()
        handle.shutdown()
        del handle
        node.cli("volume", "delete", "v")
        wait_until(lambda: free() >= before - 16 * MIB, 30, "the space of a deleted volume to come back", interval_s=0.2)


def test_a_deleted_volume_waits_for_a_disk_that_is_away_until_it_is_forgotten(make_node):
    node = make_node(disks=4, code="1+1")
    filled(node, seed=81, ops=300)
    node.kill9()
    take_away(node, [2])
    node.start()
    node.cli("volume", "delete", "v")
    wait_until(lambda: "deleted volume" in node.log.read_text(), 20, "the purge to wait for disk 3")
    assert "holdfast disk remove N --force" in node.log.read_text()
    assert node.cli_run("pool", "delete", "main").returncode != 0
    number = next(disk["number"] for disk in node.disks() if disk["state"] == "missing")
    node.cli("disk", "remove", str(number), "--force")
    # At once, not with the next try in a minute.
    wait_until(lambda: node.cli_run("pool", "delete", "main").returncode == 0, 10, "the deleted volume to be gone")


@pytest.fixture
def failing_disks(make_node):
    """(node, mount): five disks of a 4+2 pool and a spare on real files, one disk on the mount."""
    node = make_node(disks=6)
    mount = FaultFs(node)
    disk = mount.path / "disk"
    node.cli("disk", "remove", node.disk_path(5))
    os.remove(node.disk_path(5))
    node.cli("disk", "format", disk, "--size", f"{node.disk_mib}MiB")
    node.cli("disk", "add", disk)
    return node, mount, disk


def verifying_fio(uri, name, seconds):
    """fio that writes at random and reads back what it wrote, by checksum."""
    job = [f"--name={name}", "--ioengine=nbd", f"--uri={uri}", "--rw=randrw", "--bs=4k", "--iodepth=16", f"--size={VOLUME_MIB // 2}M"]
    job += ["--verify=crc32c", "--verify_fatal=1", "--verify_backlog=256", "--fsync=64", "--time_based", f"--runtime={seconds}"]
    return subprocess.Popen(["fio", *job], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("what", ["write", "sync", "read write sync"])
def test_a_disk_whose_kernel_says_eio_is_retired_and_rebuilt(failing_disks, what):
    node, mount, disk = failing_disks
    uri, history = filled(node, seed=71, ops=800)
    other = node.volume("w", VOLUME_MIB)
    fio = verifying_fio(other, "eio", 8)
    time.sleep(2)
    mount.fail(what)
    text, _ = fio.communicate(timeout=450)
    assert fio.returncode == 0, text
    verify_volume(uri, history)

    def told():
        return [d for d in node.disks() if d["path"] == str(disk) and d["state"] == "failed"]

    wait_until(told, 20, "the disk to be retired")
    problem = told()[0]["problem"]
    assert "Input/output error" in problem and "disk remove" in problem, problem
    assert f"{disk}" in node.cli("status")
    # A spare, and all is well again; without two more disks everything is still there.
    node.add_disk(6)
    number = told()[0]["number"]
    node.cli("disk", "remove", str(number), "--force")
    wait_for_full_redundancy(node)
    node.kill9()
    take_away(node, [1, 2])
    node.start()
    verify_volume(uri, history)
