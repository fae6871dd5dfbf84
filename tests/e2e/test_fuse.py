# SPDX-License-Identifier: Apache-2.0
"""holdfast-fuse on a real blockd: what test_fuse_standalone.py cannot show with servers that are not blockd."""

import os
import signal
import subprocess
import time

import pytest
from hftest.node import MIB
from hftest.process import run, spawn, tail, wait_until


VERIFY = ["--ioengine=libaio", "--direct=1", "--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=32m", "--verify=crc32c",
          "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0"]  # fmt: skip


def volume_state(node, name):
    return next(v for v in node.volumes() if v["name"] == name)


def test_looking_does_not_open_a_volume_and_closing_lets_go_of_it(node, fuse):
    node.volume("idle", 64)
    run(["ls", "-l", fuse.path])
    assert os.stat(fuse.path / "idle").st_size == 64 * MIB
    assert not volume_state(node, "idle")["open"]
    with open(fuse.path / "idle", "r+b", buffering=0) as f:
        f.write(b"x")
        assert volume_state(node, "idle")["connections"] == 1
    wait_until(lambda: volume_state(node, "idle")["connections"] == 0, 5, "the end of the connection")


def test_growth_by_the_cli_reaches_an_open_file_under_load(node, fuse):
    node.volume("grow", 64)
    path = fuse.path / "grow"
    job = spawn(["fio", "--name=j", f"--filename={path}", *VERIFY, "--loops=6"], node.dir / "fio.log")
    with open(path, "r+b", buffering=0) as f:
        for size in (80, 96, 128):
            time.sleep(0.2)
            node.cli("volume", "resize", "grow", f"{size}MiB")
            assert os.fstat(f.fileno()).st_size == size * MIB
            assert os.pwrite(f.fileno(), b"end", size * MIB - 3) == 3
            assert os.pread(f.fileno(), 4, size * MIB - 4) == b"\0end"
        os.ftruncate(f.fileno(), 160 * MIB)
        assert volume_state(node, "grow")["size_bytes"] == 160 * MIB
        with pytest.raises(OSError):
            os.ftruncate(f.fileno(), 128 * MIB)
    assert job.wait(300) == 0, tail(node.dir / "fio.log")


def test_every_kind_of_request_survives_restarts(node, fuse):
    """kill -9 and clean stops of blockd while many requests are under way; no caller sees an error."""
    node.volume("r", 128)
    path = fuse.path / "r"
    mixed = spawn(["fio", "--name=j", f"--filename={path}", *VERIFY, "--loops=6", "--fsync=32"], node.dir / "fio.log")
    large = spawn(
        ["fio", "--name=l", f"--filename={path}", *VERIFY, "--rw=write", "--bs=1m", "--iodepth=4", "--offset=64m", "--loops=4"], node.dir / "fio2.log"
    )
    for i in range(4):
        time.sleep(0.4)
        if i % 2:
            node.stop()
        else:
            node.kill9()
        time.sleep(0.1)
        node.start()
    assert mixed.wait(450) == 0, tail(node.dir / "fio.log")
    assert large.wait(450) == 0, tail(node.dir / "fio2.log")


def test_a_volume_deleted_and_made_again_is_another_file(node, fuse):
    node.volume("twin", 32)
    fd = os.open(fuse.path / "twin", os.O_RDWR)
    os.pwrite(fd, b"old", 0)
    os.close(fd)
    wait_until(lambda: volume_state(node, "twin")["connections"] == 0, 5, "the close")
    before = os.stat(fuse.path / "twin").st_ino
    node.cli("volume", "delete", "twin")
    with pytest.raises(FileNotFoundError):
        os.stat(fuse.path / "twin")
    node.volume("twin", 32)
    assert os.stat(fuse.path / "twin").st_ino != before
    with open(fuse.path / "twin", "rb") as f:
        assert f.read(3) == bytes(3)


def test_holes_and_space_come_back(node, fuse):
    node.volume("thin", 128)
    path = fuse.path / "thin"
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, os.urandom(MIB), 16 * MIB)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 16 * MIB and os.lseek(fd, 16 * MIB, os.SEEK_HOLE) == 17 * MIB
    run(["fallocate", "--punch-hole", "--offset", 16 * MIB, "--length", MIB, path])
    assert os.pread(fd, MIB, 16 * MIB) == bytes(MIB)
    os.fsync(fd)
    assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
    with pytest.raises(OSError):
        os.lseek(fd, 0, os.SEEK_DATA)
    os.close(fd)


def test_sigterm_of_the_mount_and_of_blockd_together(node, fuse):
    node.volume("s", 64)
    job = subprocess.Popen(["fio", "--name=j", f"--filename={fuse.path}/s", *VERIFY, "--loops=50"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: volume_state(node, "s").get("connections", 0) > 0, 10, "fio")
    fuse.process.send_signal(signal.SIGTERM)
    assert fuse.process.wait(120) == 0
    job.wait(120)
    node.stop()
