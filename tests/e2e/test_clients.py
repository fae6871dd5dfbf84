# SPDX-License-Identifier: Apache-2.0
"""Real clients that nobody here wrote read, write, map, compare and verify volumes."""

import json
import os
import re

import pytest
from conftest import LONG
from hftest.process import run

MIB = 1024 * 1024
FIO_SECONDS = 120 if LONG else 4


@pytest.fixture
def volume(shared_node, request):
    """A 128 MiB volume of the test's own; (address, name)."""
    name = re.sub(r"\W+", "-", request.node.name)[-40:].strip("-_")
    yield shared_node.volume(name, 128)
    shared_node.cli("volume", "delete", name)


@pytest.fixture
def image(scratch):
    """A 128 MiB file with data, zeroes and holes in turn."""
    path = scratch / "image"
    with open(path, "wb") as f:
        f.truncate(128 * MIB)
        for at, size in ((0, 1 * MIB), (7 * MIB + 512, 100_000), (40 * MIB, 20 * MIB), (127 * MIB, 1 * MIB)):
            f.seek(at)
            f.write(os.urandom(size))
        f.seek(80 * MIB)
        f.write(bytes(5 * MIB))
    return path


def extents(uri):
    """[(offset, length, kind)] by nbdinfo, neighbours of one kind joined."""
    joined = []
    for extent in json.loads(run(["nbdinfo", "--map", "--json", uri]).stdout):
        offset, length, kind = extent["offset"], extent["length"], extent["type"]
        if joined and joined[-1][2] == kind:
            joined[-1][1] += length
        else:
            joined.append([offset, length, kind])
    return [tuple(extent) for extent in joined]


def fio(uri, *options):
    run(["fio", "--name=job", "--ioengine=nbd", f"--uri={uri}", "--group_reporting", *options], timeout_s=300)


def test_nbdinfo_lists_volumes_with_their_properties(shared_node, volume):
    info = json.loads(run(["nbdinfo", "--json", volume]).stdout)["exports"][0]
    assert info["export-size"] == 128 * MIB
    assert info["can_flush"] and info["can_trim"] and info["can_zero"] and info["can_fua"] and info["can_multi_conn"]
    assert "base:allocation" in info["contexts"]
    assert not info["is_read_only"]
    listed = json.loads(run(["nbdinfo", "--json", "--list", f"nbd+unix:///?socket={shared_node.nbd_socket}"]).stdout)
    assert info["export-name"] in [export["export-name"] for export in listed["exports"]]


def test_nbdinfo_shows_our_block_sizes(volume):
    info = json.loads(run(["nbdinfo", "--json", volume]).stdout)["exports"][0]
    assert info["block_size_minimum"] in (1, 512)
    assert info["block_size_preferred"] == 4096
    assert info["block_size_maximum"] >= 32 * MIB


def test_nbdcopy_in_and_out_gives_the_same_bytes(volume, image, scratch):
    run(["nbdcopy", "--flush", image, volume])
    run(["nbdcopy", volume, scratch / "back"])
    run(["cmp", image, scratch / "back"])


def test_nbdcopy_by_many_connections(volume, image, scratch):
    run(["nbdcopy", "--flush", "--connections=8", "--requests=32", "--request-size=131072", image, volume])
    run(["nbdcopy", "--connections=4", "--requests=16", volume, scratch / "back"])
    run(["cmp", image, scratch / "back"])


def test_qemu_img_convert_compare_and_map(volume, image, scratch):
    run(["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, volume])
    assert "identical" in run(["qemu-img", "compare", "-f", "raw", "-F", "raw", image, volume]).stdout
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", volume, scratch / "back.qcow2"])
    assert "identical" in run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", image, scratch / "back.qcow2"]).stdout
    mapped = json.loads(run(["qemu-img", "map", "-f", "raw", "--output=json", volume]).stdout)
    data = [(e["start"], e["length"]) for e in mapped if e["data"] and not e["zero"]]
    assert any(start <= 40 * MIB and start + length >= 60 * MIB for start, length in data)
    assert sum(length for _, length in data) < 30 * MIB, "holes of the image became data"
    with open(image, "r+b") as f:
        f.seek(50 * MIB)
        f.write(b"x")
    assert run(["qemu-img", "compare", "-f", "raw", "-F", "raw", image, volume], check=False).returncode == 1


def test_qemu_img_bench(volume):
    run(["qemu-img", "bench", "-f", "raw", "-w", "-c", 4000, "-d", 16, "-s", 4096, "-S", 65536, "--flush-interval=100", volume])
    run(["qemu-img", "bench", "-f", "raw", "-c", 4000, "-d", 16, "-s", 4096, volume])


def test_qemu_io_patterns_of_any_alignment(volume):
    commands = [
        "write -P 0x11 0 1M",
        "write -P 0x22 4096 512",
        "write -P 0x33 66048 1536",
        "write -f -P 0x44 12288 8192",
        "write -z 524288 65536",
        "write -z -u 600000 50000",
        "discard 720896 131072",
        "flush",
        "read -P 0x11 0 4096",
        "read -P 0x22 4096 512",
        "read -P 0x11 4608 7680",
        "read -P 0x44 12288 8192",
        "read -P 0x33 66048 1536",
        "read -P 0 524288 65536",
        "read -P 0x11 589824 10176",
        "read -P 0 600000 50000",
        "read -P 0x11 650000 70896",
        "read -P 0 720896 131072",
        "read -P 0x11 851968 196608",
        "write -P 0x55 100M 28M",
        "read -P 0x55 100M 28M",
    ]
    done = run(["qemu-io", "-f", "raw", *[word for command in commands for word in ("-c", command)], volume])
    assert "Pattern verification failed" not in done.stdout + done.stderr, done.stdout


def test_trimmed_and_zeroed_ranges_show_as_holes(volume):
    run(["qemu-io", "-f", "raw", "-c", "write -P 1 0 64M", "-c", "flush", volume])
    assert extents(volume)[0][1] >= 64 * MIB and extents(volume)[0][2] == 0
    run(["qemu-io", "-f", "raw", "-d", "unmap", "-c", "discard 16M 16M", "-c", "write -z -u 40M 8M", volume])
    kinds = extents(volume)
    assert [kind & 2 for _, _, kind in kinds] == [0, 2, 0, 2, 0, 2], kinds
    assert [(offset, length) for offset, length, kind in kinds][:4] == [
        (0, 16 * MIB),
        (16 * MIB, 16 * MIB),
        (32 * MIB, 8 * MIB),
        (40 * MIB, 8 * MIB),
    ]


@pytest.mark.parametrize(
    "options",
    [
        ("--rw=randwrite", "--bs=4k", "--iodepth=32"),
        ("--rw=randwrite", "--bsrange=512-64k", "--bs_unaligned=0", "--blockalign=512", "--iodepth=16", "--fsync=16"),
        ("--rw=write", "--bs=1M", "--iodepth=8"),
        ("--rw=randtrimwrite", "--bs=16k", "--iodepth=1"),
    ],
    ids=["randwrite-4k", "mixed-sizes-fsync", "seqwrite-1m", "trim-write"],
)
def test_fio_verifies_its_checksums(volume, options):
    if "--rw=randtrimwrite" in options:
        fio(volume, *options, f"--runtime={FIO_SECONDS}", "--size=32M")
        return
    fio(volume, *options, "--size=96M", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", f"--loops={30 if LONG else 1}")


def test_fio_verifies_four_connections_at_once(volume):
    fio(
        volume,
        "--rw=randwrite",
        "--bs=4k",
        "--iodepth=8",
        "--numjobs=4",
        "--size=24M",
        "--offset_increment=32M",
        "--verify=crc32c",
        "--verify_backlog=256",
        "--verify_fatal=1",
    )


# FUSE


def test_fio_verifies_over_fuse(node, fuse):
    node.volume("f", 128)
    run(
        ["fio", "--name=job", "--ioengine=io_uring", f"--filename={fuse.path}/f", "--direct=1", "--rw=randwrite", "--bs=4k"]
        + ["--iodepth=16", "--size=64M", "--verify=crc32c", "--verify_fatal=1", "--fsync=64"],
        timeout_s=300,
    )


def test_file_system_on_a_fuse_file(node, fuse, scratch):
    """mkfs, loop mount, files, umount, fsck; then the same files through another door."""
    node.volume("fs", 256)
    file = fuse.path / "fs"
    run(["mkfs.ext4", "-q", "-F", file])
    where = scratch / "mnt"
    where.mkdir()
    run(["mount", "-o", "loop", file, where])
    try:
        run(["cp", "-a", "/usr/share/zoneinfo", where / "tree"])
        run(["dd", "if=/dev/urandom", f"of={where}/big", "bs=1M", "count=40", "conv=fsync"])
        run(["rm", "-rf", where / "tree" / "Europe"])
        run(["fstrim", where], check=False)
        total = run(["sh", "-c", "find . -type f | sort | xargs cat | sha256sum"], cwd=where).stdout
    finally:
        run(["umount", where])
    run(["e2fsck", "-f", "-n", file])
    run(["nbdcopy", node.uri("fs"), scratch / "out"])
    run(["e2fsck", "-f", "-n", scratch / "out"])
    run(["mount", "-o", "loop,ro", scratch / "out", where])
    try:
        assert run(["sh", "-c", "find . -type f | sort | xargs cat | sha256sum"], cwd=where).stdout == total
    finally:
        run(["umount", where])


def test_fuse_and_nbd_see_each_others_writes(node, fuse):
    uri = node.volume("both", 64)
    assert os.listdir(fuse.path) == ["both"] and os.path.getsize(fuse.path / "both") == 64 * MIB
    run(["qemu-io", "-f", "raw", "-c", "write -P 0x61 1M 64k", "-c", "flush", uri])
    with open(fuse.path / "both", "r+b", buffering=0) as f:
        f.seek(MIB)
        assert f.read(65536) == b"a" * 65536
        f.seek(2 * MIB)
        f.write(b"b" * 65536)
        os.fsync(f.fileno())
        assert os.lseek(f.fileno(), 0, os.SEEK_DATA) == MIB
        assert os.lseek(f.fileno(), 3 * MIB, os.SEEK_HOLE) == 3 * MIB
    done = run(["qemu-io", "-f", "raw", "-c", "read -P 0x62 2M 64k", uri])
    assert "failed" not in done.stdout


def test_fuse_waits_out_a_blockd_that_is_killed_under_fio(node, fuse):
    """kill -9 under fio's verify: the mount waits for the restart and goes on, and every checksum holds."""
    import time

    from hftest.process import spawn

    node.volume("k", 128)
    log = node.dir / "fio.log"
    process = spawn(
        ["fio", "--name=job", "--ioengine=io_uring", f"--filename={fuse.path}/k", "--direct=1", "--rw=randwrite", "--bs=4k"]
        + ["--iodepth=16", "--size=96M", "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=2048"],
        log,
    )
    for _ in range(3):
        time.sleep(0.7)
        if process.poll() is not None:
            break
        node.kill9()
        time.sleep(0.2)
        node.start()
    assert process.wait(600) == 0, log.read_text()
