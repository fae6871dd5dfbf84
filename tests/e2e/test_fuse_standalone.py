# SPDX-License-Identifier: Apache-2.0
"""holdfast-fuse by itself: volumes are files served by nbdkit or qemu-nbd, the admin socket is played by a thread here.

What needs a real blockd is in test_fuse.py. nbdkit takes any alignment, qemu-nbd can be told to want 512 bytes; both keep nothing in
memory that a kill would lose, as blockd promises.
"""

import ctypes
import errno
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest
from hftest.guardian import Scratch
from hftest.node import BUILD
from hftest.process import least_cpu, run, spawn, tail, wait_until

MIB = 1 << 20
PUNCH_HOLE, KEEP_SIZE, ZERO_RANGE = 2, 1, 16
libc = ctypes.CDLL(None, use_errno=True)


def fallocate(fd, mode, off, length):
    if libc.fallocate(fd, mode, ctypes.c_long(off), ctypes.c_long(length)):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


class FakeAdmin:
    """The admin socket's volume and pool methods over a directory of files."""

    def __init__(self, path, directory):
        self.path = path
        self.directory = directory
        self.ids = {}
        self.calls = 0
        self.listener = None
        self.connections = []
        self.start()

    def start(self):
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(5)
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def stop(self):
        self.path.unlink(missing_ok=True)
        for s in [self.listener, *self.connections]:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()
        self.connections = []

    def _accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, connection.makefile("rw") as stream:
            try:
                for line in stream:
                    request = json.loads(line)
                    self.calls += 1
                    answer = {"id": request["id"]}
                    try:
                        answer["result"] = self._call(request["method"], request["params"])
                    except OSError as error:
                        answer["error"] = {"code": errno.errorcode[error.errno], "message": str(error)}
                    stream.write(json.dumps(answer) + "\n")
                    stream.flush()
            except (OSError, ValueError):
                pass

    def _info(self, name):
        st = os.stat(self.directory / name)
        return {
            "name": name,
            "volume": self.ids.setdefault(name, f"id-{name}"),
            "size_bytes": st.st_size,
            "allocated_bytes": st.st_blocks * 512,
            "pool": "default",
        }

    def _call(self, method, params):
        if method == "volume.list":
            return {"volumes": [self._info(name) for name in sorted(os.listdir(self.directory))]}
        if method == "volume.info":
            return self._info(params["name"])
        if method == "volume.resize":
            os.truncate(self.directory / params["name"], params["size_bytes"])
            return {}
        if method == "pool.list":
            return {"pools": [{"name": "default", "code": "1+0", "size_bytes": 8 << 30, "free_bytes": 3 << 30, "disks": 1}]}
        raise OSError(errno.EINVAL, f"no method {method}")


class Mount:
    """A directory of volumes, their servers, and holdfast-fuse on them."""

    def __init__(self):
        self.scratch = Scratch("hff.")
        self.dir = self.scratch.path
        self.volumes = self.dir / "volumes"
        self.volumes.mkdir()
        self.path = self.dir / "mnt"
        self.path.mkdir()
        self.nbd_socket = self.dir / "nbd.sock"
        self.log = self.dir / "fuse.log"
        self.loops = []
        self.server = self.process = None
        self.admin = FakeAdmin(self.dir / "admin.sock", self.volumes)

    def volume(self, name, size):
        with open(self.volumes / name, "xb") as f:
            f.truncate(size)
        return self.path / name

    def serve(self, *filters, args=()):
        self.nbd_socket.unlink(missing_ok=True)
        command = ["nbdkit", "-f", "-U", self.nbd_socket, *filters, "file", f"dir={self.volumes}", *args]
        self.server = spawn(command, self.dir / "nbdkit.log")
        wait_until(self.nbd_socket.exists, 10, "nbdkit")

    def serve_one_by_qemu(self, name, *options):
        self.server = spawn(
            ["qemu-nbd", "-f", "raw", "-t", "-e", "8", "-x", name, "-k", self.nbd_socket, *options, self.volumes / name],
            self.dir / "qemu-nbd.log",
        )
        wait_until(self.nbd_socket.exists, 10, "qemu-nbd")

    def kill_server(self):
        self.server.kill()
        self.server.wait()

    def mount(self, options=""):
        sockets = f"nbd={self.nbd_socket},admin={self.admin.path}"
        self.process = spawn([BUILD / "fuse/holdfast-fuse", "-f", "-o", sockets + options, self.path], self.log)
        wait_until(self._mounted, 10, "the mount")
        return self

    def _mounted(self):
        if self.process.poll() is not None:
            raise AssertionError(f"holdfast-fuse ended with {self.process.returncode}:\n{tail(self.log)}")
        return os.path.ismount(self.path)

    def unmount(self):
        run(["umount", self.path])
        return self.process.wait(60)

    def loop(self, path, *options):
        device = run(["losetup", "-f", "--show", *options, path]).stdout.strip()
        self.loops.append(device)
        return device

    def close(self):
        for device in self.loops:
            subprocess.run(["losetup", "-d", device], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["umount", "-l", self.path], stderr=subprocess.DEVNULL, check=False)
        for process in (self.process, self.server):
            if process and process.poll() is None:
                process.kill()
                process.wait()
        self.admin.stop()
        self.scratch.remove()


@pytest.fixture
def bare(request):
    m = Mount()
    yield m
    m.close()


@pytest.fixture
def mount(bare):
    bare.volume("vol1", 64 * MIB)
    bare.volume("vol2", 3 * MIB)
    bare.serve()
    return bare.mount()


def fio(path, *options, timeout_s=60, check=True):
    return run(
        ["fio", "--name=j", f"--filename={path}", "--ioengine=libaio", "--direct=1", "--output-format=json", *options],
        timeout_s=timeout_s,
        check=check,
    )


VERIFY = ("--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=16m", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0")


def test_files_are_the_volumes(mount):
    assert sorted(os.listdir(mount.path)) == ["vol1", "vol2"]
    st = (mount.path / "vol2").stat()
    assert st.st_size == 3 * MIB and st.st_blocks == 0
    assert next(e.inode() for e in os.scandir(mount.path) if e.name == "vol2") == st.st_ino
    mount.volume("vol3", MIB)
    assert sorted(os.listdir(mount.path)) == ["vol1", "vol2", "vol3"]
    (mount.volumes / "vol3").unlink()
    with pytest.raises(FileNotFoundError):
        (mount.path / "vol3").stat()
    fs = os.statvfs(mount.path)
    assert (fs.f_blocks * fs.f_frsize, fs.f_bavail * fs.f_frsize) == (8 << 30, 3 << 30)
    assert run(["findmnt", "-n", "-o", "FSTYPE,SOURCE", mount.path]).stdout.split() == ["fuse.holdfast", "holdfast"]


def test_files_are_not_made_here(mount):
    vol1 = mount.path / "vol1"
    for refused in (
        lambda: (mount.path / "new").touch(),
        lambda: (mount.path / "new").mkdir(),
        lambda: vol1.unlink(),
        lambda: vol1.rename(mount.path / "other"),
        lambda: (mount.path / "link").symlink_to("vol1"),
        lambda: vol1.chmod(0o666),
    ):
        with pytest.raises(PermissionError):
            refused()
    assert sorted(os.listdir(mount.path)) == ["vol1", "vol2"]


def test_bytes_come_back_at_any_alignment(mount):
    path = mount.path / "vol2"
    expected = bytearray(3 * MIB)
    fd = os.open(path, os.O_RDWR)
    for i, (off, length) in enumerate([(0, 3 * MIB), (1, 1), (511, 2), (4095, 4098), (70001, 65537), (12345, 2 * MIB + 1), (3 * MIB - 1, 1)]):
        data = os.urandom(length)
        assert os.pwrite(fd, data, off) == length, i
        expected[off : off + length] = data
        assert os.pread(fd, length + 7, max(off - 3, 0)) == expected[max(off - 3, 0) : max(off - 3, 0) + length + 7]
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)
    assert path.read_bytes() == expected
    assert (mount.volumes / "vol2").read_bytes() == expected


def test_io_at_the_end(mount):
    fd = os.open(mount.path / "vol2", os.O_RDWR)
    size = 3 * MIB
    assert os.pread(fd, 100, size) == b"" and os.pread(fd, 100, size + 5000) == b"" and len(os.pread(fd, 100, size - 10)) == 10
    assert os.pwrite(fd, b"x" * 100, size - 10) == 10
    with pytest.raises(OSError) as error:
        os.pwrite(fd, b"x", size)
    assert error.value.errno == errno.EFBIG
    os.close(fd)
    assert (mount.volumes / "vol2").stat().st_size == size


def test_fio_verifies_with_many_requests_in_flight(mount):
    fio(mount.path / "vol1", *VERIFY)
    fio(mount.path / "vol1", "--rw=randwrite", "--bsrange=1k-512k", "--bs_unaligned=1", "--ioengine=psync", "--direct=0", "--numjobs=1",
        "--size=32m", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0", "--fsync=16")  # fmt: skip


def test_several_connections(bare):
    bare.volume("vol1", 64 * MIB)
    bare.serve()
    bare.mount(",connections=4")
    with open(bare.path / "vol1", "rb"):
        connected = run(["ss", "-xH", "src", str(bare.nbd_socket)]).stdout
        wait_until(lambda: len(run(["ss", "-xH", "state", "established", "src", str(bare.nbd_socket)]).stdout.splitlines()) == 4, 5, connected)
        fio(bare.path / "vol1", *VERIFY)


def test_opening_again_and_again_takes_no_time(mount):
    """A server that greets before the client looks must not leave the handshake waiting for an event."""
    begin = time.monotonic()
    for _ in range(300):
        with open(mount.path / "vol2", "rb") as f:
            f.read(512)
    assert time.monotonic() - begin < 50


def traced_commands(mount, path):
    """The NBD commands that nbdkit's log filter saw since the last call."""
    text = path.read_text()
    path.write_text("")
    return re.findall(r" (Read|Write|Flush|Zero|Trim|Extents) id=\d+(.*?) \.\.\.", text)


@pytest.fixture
def traced(bare):
    bare.volume("vol1", 64 * MIB)
    trace = bare.dir / "trace"
    bare.serve("--filter=log", args=(f"logfile={trace}", "logappend=true"))
    bare.mount()
    return bare, trace


def test_sync_is_flush_and_dsync_is_fua(traced):
    mount, trace = traced
    fd = os.open(mount.path / "vol1", os.O_RDWR)
    os.pwrite(fd, b"a" * 4096, 0)
    commands = traced_commands(mount, trace)
    assert [c for c, _ in commands] == ["Write"] and "fua=0" in commands[0][1]
    os.fsync(fd)
    assert [c for c, _ in traced_commands(mount, trace)] == ["Flush"]
    os.fdatasync(fd)
    assert [c for c, _ in traced_commands(mount, trace)] == ["Flush"]
    os.pwritev(fd, [b"b" * 4096], 8192, os.RWF_DSYNC)
    commands = traced_commands(mount, trace)
    assert [c for c, _ in commands] == ["Write"] and "fua=1" in commands[0][1]
    os.close(fd)
    time.sleep(0.2)
    assert [c for c, _ in traced_commands(mount, trace)] == [], "all was flushed before the close"
    fd = os.open(mount.path / "vol1", os.O_RDWR | os.O_DSYNC)
    os.pwrite(fd, b"c" * 4096, 0)
    assert "fua=1" in traced_commands(mount, trace)[0][1]
    os.close(fd)


def test_the_last_close_flushes_and_disconnects(traced):
    mount, trace = traced
    with open(mount.path / "vol1", "r+b", buffering=0) as f:
        f.write(b"a" * 4096)
    wait_until(lambda: " Close" in trace.read_text() or "Disconnect" in trace.read_text(), 5, "the end of the connection")
    assert [c for c, _ in traced_commands(mount, trace)] == ["Write", "Flush"]


def test_holes(mount):
    path = mount.path / "vol1"
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, b"d" * MIB, 0)
    os.pwrite(fd, b"e" * MIB, 4 * MIB)
    assert os.lseek(fd, 0, os.SEEK_HOLE) == MIB
    assert os.lseek(fd, MIB, os.SEEK_DATA) == 4 * MIB
    assert os.lseek(fd, 4 * MIB + 5, os.SEEK_DATA) == 4 * MIB + 5
    assert os.lseek(fd, 4 * MIB, os.SEEK_HOLE) == 5 * MIB
    assert os.lseek(fd, 6 * MIB, os.SEEK_HOLE) == 6 * MIB
    with pytest.raises(OSError) as error:
        os.lseek(fd, 6 * MIB, os.SEEK_DATA)
    assert error.value.errno == errno.ENXIO

    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 65536, 131072)
    assert os.pread(fd, 131072, 65536) == bytes(131072)
    assert os.pread(fd, 4096, 65536 - 4096) == b"d" * 4096 and os.pread(fd, 4096, 65536 + 131072) == b"d" * 4096
    assert os.lseek(fd, 0, os.SEEK_HOLE) == 65536
    fallocate(fd, ZERO_RANGE | KEEP_SIZE, 4 * MIB + 1, 99)
    assert os.pread(fd, 101, 4 * MIB) == b"e" + bytes(99) + b"e"
    # Beyond the end: a hole may be punched there, the size stays.
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 63 * MIB, 8 * MIB)
    os.posix_fallocate(fd, 0, 64 * MIB)
    with pytest.raises(OSError) as error:
        fallocate(fd, ZERO_RANGE, 63 * MIB, 8 * MIB)
    assert error.value.errno == errno.EFBIG
    assert os.fstat(fd).st_size == 64 * MIB
    os.close(fd)


def test_truncate_grows_and_never_shrinks(mount):
    path = mount.path / "vol1"
    with open(path, "r+b", buffering=0) as f:
        f.write(b"head")
        os.ftruncate(f.fileno(), 80 * MIB)
        assert os.fstat(f.fileno()).st_size == 80 * MIB == (mount.volumes / "vol1").stat().st_size
        assert os.pwrite(f.fileno(), b"tail", 80 * MIB - 4) == 4
        os.ftruncate(f.fileno(), 80 * MIB)
        for smaller in (79 * MIB, 0):
            with pytest.raises(OSError) as error:
                os.ftruncate(f.fileno(), smaller)
            assert error.value.errno == errno.EINVAL
        with pytest.raises(OSError):
            open(path, "wb")
        assert os.pread(f.fileno(), 4, 0) == b"head" and os.pread(f.fileno(), 4, 80 * MIB - 4) == b"tail"
    assert "refused to shrink" in mount.log.read_text()


def test_growth_elsewhere_shows_at_once(mount):
    path = mount.path / "vol2"
    fd = os.open(path, os.O_RDWR)
    assert os.pread(fd, 10, 3 * MIB) == b""
    os.truncate(mount.volumes / "vol2", 4 * MIB)
    assert os.pwrite(fd, b"new", 3 * MIB) == 3
    os.truncate(mount.volumes / "vol2", 5 * MIB)
    assert os.fstat(fd).st_size == 5 * MIB
    assert os.pread(fd, 10, 5 * MIB - 4) == bytes(4)
    os.truncate(mount.volumes / "vol2", 6 * MIB)
    assert os.lseek(fd, 0, os.SEEK_END) == 6 * MIB
    os.close(fd)


def test_growth_under_load(mount):
    job = spawn(["fio", "--name=j", f"--filename={mount.path}/vol1", "--ioengine=libaio", "--direct=1", *VERIFY, "--loops=8"], mount.dir / "fio.log")
    for i in range(5):
        time.sleep(0.1)
        os.truncate(mount.path / "vol1", (65 + i) * MIB)
    assert job.wait(300) == 0, tail(mount.dir / "fio.log")


def test_server_killed_under_load(mount):
    job = spawn(
        ["fio", "--name=j", f"--filename={mount.path}/vol1", "--ioengine=libaio", "--direct=1", *VERIFY, "--loops=10", "--fsync=64"],
        mount.dir / "fio.log",
    )
    for _ in range(3):
        wait_until(lambda: (mount.volumes / "vol1").stat().st_blocks > 0, 10, "the first write")
        time.sleep(0.3)
        mount.kill_server()
        mount.admin.stop()
        time.sleep(0.3)
        assert job.poll() is None, tail(mount.dir / "fio.log")
        mount.admin.start()
        mount.serve()
    assert job.wait(300) == 0, tail(mount.dir / "fio.log")
    assert "connected to blockd again" in mount.log.read_text()


def test_metadata_waits_for_blockd_and_df_does_not(mount):
    os.statvfs(mount.path)
    mount.kill_server()
    mount.admin.stop()
    fs = os.statvfs(mount.path)
    assert fs.f_blocks * fs.f_frsize == 8 << 30
    listing = subprocess.Popen(["ls", mount.path], stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    assert listing.poll() is None
    mount.admin.start()
    assert listing.communicate(timeout=60)[0].split() == ["vol1", "vol2"]


def test_waiting_callers_can_be_killed_and_are_not_disturbed_by_signals(mount):
    fd = os.open(mount.path / "vol1", os.O_RDWR)
    asynchronous = spawn(
        ["fio", "--name=j", f"--filename={mount.path}/vol1", *VERIFY, "--ioengine=libaio", "--direct=1", "--thread", "--loops=1000"], mount.dir / "fio.log"
    )
    wait_until(lambda: (mount.volumes / "vol1").stat().st_blocks > 0, 10, "the first write")
    mount.kill_server()
    mount.admin.stop()
    reader = subprocess.Popen(["cat", mount.path / "vol2"], stdout=subprocess.DEVNULL)
    writer = subprocess.Popen(["dd", "if=/dev/zero", f"of=/proc/{os.getpid()}/fd/{fd}", "bs=4k", "count=1", "conv=notrunc"], stderr=subprocess.DEVNULL)
    # An open file's I/O, interrupted by a signal it handles, goes on; SIGKILL ends it.
    alarmed = subprocess.Popen(
        ["/usr/bin/python3", "-c", "import os, signal\nsignal.signal(signal.SIGALRM, lambda *_: None)\nsignal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)\n"
         "print(os.pwrite(%d, b'x' * 512, 0), flush=True)" % fd], pass_fds=[fd], stdout=subprocess.PIPE, text=True)  # fmt: skip
    killed = subprocess.Popen(["/usr/bin/python3", "-c", "import os\nos.pread(%d, 512, 0)" % fd], pass_fds=[fd])
    time.sleep(1)
    for process in (reader, writer, killed, asynchronous):
        assert process.poll() is None, process.args
        process.kill()
    for process in (reader, writer, killed, asynchronous):
        process.wait(60)
    assert alarmed.poll() is None
    mount.admin.start()
    mount.serve()
    assert alarmed.communicate(timeout=60)[0] == "512\n"
    os.close(fd)


def test_time_limit(bare):
    bare.volume("vol1", MIB)
    bare.serve()
    bare.mount(",timeout=1")
    fd = os.open(bare.path / "vol1", os.O_RDWR)
    begin = time.monotonic()  # the limit counts from the loss of the connection
    bare.kill_server()
    with pytest.raises(OSError) as error:
        os.pwrite(fd, b"x", 0)
    assert error.value.errno == errno.EIO and 0.5 < time.monotonic() - begin < 30
    bare.serve()
    wait_until(lambda: "again" in bare.log.read_text(), 5, "the connection")
    assert os.pwrite(fd, b"x", 0) == 1
    os.close(fd)


def test_names_have_a_time_limit_of_their_own(bare):
    """ls on the mount of a dead blockd ends with a clear error; what is open waits, and keeps its attributes."""
    bare.volume("vol1", MIB)
    bare.serve()
    bare.mount(",names_timeout=1")
    fd = os.open(bare.path / "vol1", os.O_RDWR)
    os.pwrite(fd, b"a", 0)
    bare.admin.stop()
    bare.kill_server()
    for ask in (lambda: os.listdir(bare.path), (bare.path / "new").stat):
        begin = time.monotonic()
        with pytest.raises(OSError) as error:
            ask()
        assert error.value.errno == errno.ETIMEDOUT and 0.5 < time.monotonic() - begin < 30
    assert os.fstat(fd).st_size == MIB
    assert "blockd has not answered volume.list for 1 s" in bare.log.read_text()
    reader = subprocess.Popen(["dd", f"if=/proc/{os.getpid()}/fd/{fd}", "bs=1", "count=1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    time.sleep(2)
    assert reader.poll() is None
    bare.admin.start()
    bare.serve()
    assert reader.communicate(timeout=100)[0] == b"a"
    os.close(fd)
    assert os.listdir(bare.path) == ["vol1"]


def test_another_volume_of_the_same_name_is_not_written_to(mount):
    fd = os.open(mount.path / "vol2", os.O_RDWR)
    mount.kill_server()
    (mount.volumes / "vol2").unlink()
    mount.volume("vol2", 3 * MIB)
    mount.admin.ids["vol2"] = "id-another"
    mount.serve()
    with pytest.raises(OSError) as error:
        os.pwrite(fd, b"x", 0)
    assert error.value.errno == errno.ESTALE
    os.close(fd)
    assert (mount.volumes / "vol2").read_bytes() == bytes(3 * MIB)
    with open(mount.path / "vol2", "r+b") as f:
        f.write(b"new")


def test_a_renamed_volume_is_followed(mount):
    fd = os.open(mount.path / "vol2", os.O_RDWR)
    mount.kill_server()
    (mount.volumes / "vol2").rename(mount.volumes / "moved")
    mount.admin.ids["moved"] = mount.admin.ids["vol2"]
    mount.serve()
    assert os.pwrite(fd, b"x", 0) == 1
    os.close(fd)
    assert (mount.path / "moved").read_bytes()[:1] == b"x"
    assert sorted(os.listdir(mount.path)) == ["moved", "vol1"]


def test_a_volume_that_the_server_does_not_open_fails_the_open(bare):
    bare.volume("vol1", MIB)
    bare.volume("vol2", MIB)
    bare.serve_one_by_qemu("vol1")
    bare.mount()
    with pytest.raises(OSError) as error:
        os.open(bare.path / "vol2", os.O_RDONLY)
    assert error.value.errno == errno.EIO and "does not open it" in bare.log.read_text()
    assert (bare.path / "vol1").read_bytes() == bytes(MIB)


def test_a_server_of_512_byte_blocks(bare):
    """Requests reach it aligned (the blocksize-policy filter refuses others), neighbours of a part of a block stay."""
    bare.volume("vol1", 8 * MIB)
    bare.serve("--filter=blocksize-policy", args=("blocksize-minimum=512", "blocksize-maximum=65536", "blocksize-error-policy=error"))
    bare.mount()
    path = bare.path / "vol1"
    fd = os.open(path, os.O_RDWR)
    expected = bytearray(8 * MIB)
    for off, length in [(0, 4096), (1, 1), (511, 2), (1000, 3000), (4095, 200001), (5 * MIB + 100, 5), (8 * MIB - 5, 5), (700000, MIB)]:
        data = os.urandom(length)
        assert os.pwrite(fd, data, off) == length
        expected[off : off + length] = data
        assert os.pread(fd, length, off) == data
    for off, length in [(3, 5), (510, 600), (1024, 512), (100001, 99999)]:
        fallocate(fd, ZERO_RANGE | KEEP_SIZE, off, length)
        expected[off : off + length] = bytes(length)
    assert os.lseek(fd, 6 * MIB + 1, os.SEEK_HOLE) == 6 * MIB + 1
    os.close(fd)
    assert path.read_bytes() == expected == (bare.volumes / "vol1").read_bytes()

    # Threads that write the bytes of the same blocks do not undo one another.
    def write_every_fourth(first):
        f = os.open(path, os.O_RDWR)
        for at in range(first, 2048, 4):
            os.pwrite(f, bytes([first + 1]), at)
        os.close(f)

    threads = [threading.Thread(target=write_every_fourth, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (bare.volumes / "vol1").read_bytes()[:2048] == bytes([1, 2, 3, 4]) * 512


def test_qemu_nbd_serves_too(bare):
    bare.volume("vol1", 32 * MIB)
    bare.serve_one_by_qemu("vol1", "--cache=writeback", "--discard=unmap")
    bare.mount(",connections=2")
    path = bare.path / "vol1"
    fio(path, *VERIFY)
    fd = os.open(path, os.O_RDWR)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 20 * MIB)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 20 * MIB if os.pread(fd, MIB, 20 * MIB).strip(b"\0") else True
    assert os.pread(fd, MIB, MIB) == bytes(MIB)
    os.close(fd)


def test_read_only_exports_and_mounts(bare):
    bare.volume("vol1", MIB)
    bare.serve("-r")
    bare.mount()
    assert (bare.path / "vol1").read_bytes() == bytes(MIB)
    with pytest.raises(OSError) as error:
        os.open(bare.path / "vol1", os.O_RDWR)
    assert error.value.errno == errno.EROFS


def test_a_file_system_on_a_loop_device(mount):
    device = mount.loop(mount.path / "vol1")
    run(["mkfs.ext4", "-q", device])
    inner = mount.dir / "inner"
    inner.mkdir()
    run(["mount", "-o", "discard", device, inner])
    try:
        for i in range(20):
            (inner / f"f{i}").write_bytes(os.urandom(300000 + i))
        (inner / "f3").unlink()
        run(["fstrim", inner])
        sums = run("sha256sum *", shell=False, check=False) if False else run(["sh", "-c", f"cd {inner} && sha256sum f*"]).stdout
    finally:
        run(["umount", inner])
    run(["losetup", "-d", device])
    mount.loops.remove(device)
    assert mount.unmount() == 0
    run(["fsck.ext4", "-f", "-n", mount.volumes / "vol1"])
    run(["mount", "-o", "loop,ro", mount.volumes / "vol1", inner])
    try:
        assert run(["sh", "-c", f"cd {inner} && sha256sum f*"]).stdout == sums
    finally:
        run(["umount", inner])


def test_unmount_ends_the_process_and_keeps_nothing_back(mount):
    (mount.path / "vol2").open("r+b").write(b"kept")
    assert mount.unmount() == 0
    assert not os.path.ismount(mount.path)
    assert (mount.volumes / "vol2").read_bytes()[:4] == b"kept"
    assert os.listdir(mount.path) == []


def test_sigterm_answers_what_is_under_way(mount):
    job = spawn(["fio", "--name=j", f"--filename={mount.path}/vol1", "--ioengine=libaio", "--direct=1", *VERIFY, "--loops=50"], mount.dir / "fio.log")
    wait_until(lambda: (mount.volumes / "vol1").stat().st_blocks > 0, 10, "the first write")
    mount.process.send_signal(signal.SIGTERM)
    assert mount.process.wait(60) == 0
    assert not os.path.ismount(mount.path)
    assert job.wait(100) != 0, "its files are gone"


def test_sigterm_without_blockd_still_ends(mount):
    fd = os.open(mount.path / "vol1", os.O_RDWR)
    mount.kill_server()
    writer = threading.Thread(target=lambda: pytest.raises(OSError, os.pwrite, fd, b"x", 0))
    writer.start()
    time.sleep(0.3)
    mount.process.send_signal(signal.SIGTERM)
    assert mount.process.wait(60) == 1
    writer.join(60)
    assert not writer.is_alive()
    os.close(fd)


def test_idle_costs_nothing(mount):
    with open(mount.path / "vol1", "rb"):
        assert least_cpu([mount.process.pid], 1, 0) == 0


def test_start_errors_say_what_to_do(bare):
    fuse = BUILD / "fuse/holdfast-fuse"
    options = f"nbd={bare.nbd_socket},admin={bare.admin.path}"
    for arguments, words in [
        ([], "MOUNTPOINT"),
        (["-o", options, bare.dir / "nowhere"], "nowhere"),
        (["-o", options, bare.path], "nbd.sock"),
        (["-o", f"admin={bare.dir}/no.sock", bare.path], "cannot reach blockd at admin socket"),
        (["-o", options + ",wait,nonsense=5", bare.path], "nonsense"),
        (["-o", options + ",timeout=soon", bare.path], "timeout=soon"),
        (["-o", options, "a", bare.path, "c"], "one argument too many"),
    ]:
        done = run([fuse, *arguments], check=False)
        assert done.returncode != 0 and words in done.stderr, (arguments, done.stderr)
        assert not os.path.ismount(bare.path)
    assert "MOUNTPOINT" in run([fuse, "--help"]).stdout
    assert re.match(r"holdfast-fuse \d", run([fuse, "--version"]).stdout)


def test_mount_helper_forms(bare):
    """As mount(8) calls it for fstab lines `holdfast /mnt holdfast OPTIONS` and `... fuse.holdfast OPTIONS`."""
    bare.volume("vol1", MIB)
    bare.serve()
    helper = bare.dir / "mount.holdfast"
    helper.symlink_to(BUILD / "fuse/holdfast-fuse")
    run([helper, "holdfast", bare.path, "-o", f"rw,nofail,_netdev,x-systemd.automount,defaults,nbd={bare.nbd_socket},admin={bare.admin.path}"])
    try:
        assert os.listdir(bare.path) == ["vol1"]
        pid = int(run(["pgrep", "-f", f"^{helper} holdfast {bare.path}"]).stdout)
    finally:
        run(["umount", bare.path])
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), 5, "the daemon's end")
