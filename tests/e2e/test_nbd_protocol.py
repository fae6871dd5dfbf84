# SPDX-License-Identifier: Apache-2.0
"""The NBD server against clients nobody here wrote, and against clients that mean harm, over volumes in memory.

tests/lib/nbd_memory_server is the server of blockd with volumes that a test can delay, break, close, grow and delete.
"""

import errno
import hashlib
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from contextlib import contextmanager

import nbd
import pytest
from hftest.node import BUILD, MIB
from hftest.process import least_cpu, run, spawn, status_bytes, tail, wait_until

SERVER = BUILD / "tests/lib/nbd_memory_server"
SIZE = 64 * MIB
SEC_NS = 10**9

REQUEST_MAGIC = 0x25609513
READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)


class MemoryServer:
    def __init__(self, directory, volumes=(("vm1", SIZE),), **options):
        self.dir = directory
        self.socket = directory / "nbd.sock"
        self.log = directory / "server.log"
        command = [SERVER, "--listen", f"unix:{self.socket}", "--listen", "tcp:127.0.0.1:0"]
        command += ["--control", f"unix:{directory}/control"]
        for name, size in volumes:
            command += ["--volume", f"{name}:{size}"]
        for name, value in options.items():
            command += ["--" + name.replace("_", "-"), value]
        self.process = spawn(command, self.log)
        wait_until(lambda: "ready\n" in tail(self.log, 100), 10, f"the server: {tail(self.log)}")
        self.port = int(re.search(r"listening tcp:127.0.0.1:(\d+)", tail(self.log, 100)).group(1))
        self.control = socket.socket(socket.AF_UNIX)
        # It says that it is ready just before it listens there.
        wait_until(lambda: self.control.connect_ex(str(directory / "control")) == 0, 10, "the server's control socket")

    def uri(self, name="vm1"):
        return f"nbd+unix:///{name}?socket={self.socket}"

    def tcp_uri(self, name="vm1"):
        return f"nbd://127.0.0.1:{self.port}/{name}"

    def command(self, *words):
        self.control.sendall((" ".join(str(word) for word in words) + "\n").encode())
        answer = b""
        while not answer.endswith(b"\n"):
            answer += self.control.recv(4096)
        answer = answer.decode().split()
        assert answer[0] == "ok", answer
        return {key: int(value) for key, value in (word.split("=") for word in answer[1:])}

    def stats(self):
        return self.command("stats")

    def counts(self, name="vm1"):
        return self.command("counts", name)

    def fault(self, what, value, name="vm1"):
        self.command("set", name, what, value)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def close(self):
        self.control.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def make_server(scratch):
    servers = []

    def make(**options):
        directory = scratch / str(len(servers))
        directory.mkdir()
        servers.append(MemoryServer(directory, **options))
        return servers[-1]

    yield make
    for server in servers:
        alive = server.process.poll() is None
        server.close()
        assert alive or server.process.returncode == 0, tail(server.log)


@pytest.fixture
def server(make_server):
    return make_server()


@pytest.fixture
def image(scratch):
    """A sparse file of SIZE with random data in it; some of its edges are odd."""
    path = scratch / "image"
    rng = random.Random(7)
    with open(path, "wb") as f:
        f.truncate(SIZE)
        for offset, length in ((0, 100_000), (5 * MIB + 3, 3 * MIB), (20 * MIB, 4096), (SIZE - 999, 999)):
            f.seek(offset)
            f.write(rng.randbytes(length))
    return path


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def connection(uri, **settings):
    h = nbd.NBD()
    for name, value in settings.items():
        getattr(h, name)(value)
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    h.connect_uri(uri)
    # Requests that the library would refuse by itself are what is tested here.
    h.set_strict_mode(0)
    try:
        yield h
    finally:
        if h.aio_is_ready():
            h.shutdown()


def error_of(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except nbd.Error as error:
        return error.errno
    return None


# Real clients


def test_nbdinfo_sees_all_features(server):
    info = json.loads(run(["nbdinfo", "--json", server.uri()]).stdout)
    export = info["exports"][0]
    assert info["protocol"] == "newstyle-fixed" and info["structured"]
    assert export["export-name"] == "vm1" and export["export-size"] == SIZE
    assert export["description"] == "Holdfast volume vm1"
    for feature in "cache df fast_zero flush fua multi_conn trim zero".split():
        assert export[f"can_{feature}"], feature
    assert not export["is_read_only"] and not export["is_rotational"]
    assert (export["block_size_minimum"], export["block_size_preferred"]) == (1, 4096)
    assert export["block_size_maximum"] == 32 * MIB
    listed = json.loads(run(["nbdinfo", "--json", "--list", server.tcp_uri("")]).stdout)
    assert [e["export-name"] for e in listed["exports"]] == ["vm1"]


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_nbdcopy_both_ways(server, image, scratch, transport):
    uri = server.uri() if transport == "unix" else server.tcp_uri()
    run(["nbdcopy", "--flush", image, uri])
    run(["nbdcopy", uri, scratch / "back"])
    assert sha(image) == sha(scratch / "back")
    assert server.counts()["flushes"] > 0
    extents = json.loads(run(["nbdinfo", "--map", "--json", uri]).stdout)
    assert sum(e["length"] for e in extents) == SIZE
    assert sum(e["length"] for e in extents if e["type"] == 0) < 4 * MIB


def test_qemu_img_convert_compare_and_map(server, image, scratch):
    run(["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, server.uri()])
    run(["qemu-img", "compare", "-f", "raw", "-F", "raw", image, server.uri()])
    extents = json.loads(run(["qemu-img", "map", "-f", "raw", "--output=json", server.uri()]).stdout)
    assert sum(e["length"] for e in extents if e["data"]) < 5 * MIB
    assert sum(e["length"] for e in extents) == SIZE
    run(["qemu-img", "convert", "-f", "raw", "-O", "raw", server.uri(), scratch / "back"])
    assert sha(image) == sha(scratch / "back")
    run(["qemu-img", "bench", "-f", "raw", "-c", "2000", "-d", "64", "-w", "--flush-interval=64", server.uri()])


def test_qemu_io_patterns(server):
    commands = [
        "write -P 1 0 1M",
        "write -z -u 64k 64k",
        "write -z 256k 4k",
        "discard 512k 64k",
        "write -f -P 2 100 1000",
        "write -P 3 1048577 31M",
        "flush",
        "read -P 2 100 1000",
        "read -P 1 1100 3000",
        "read -P 0 64k 64k",
        "read -P 0 256k 4k",
        "read -P 0 512k 64k",
        "read -P 3 1048577 31M",
    ]
    words = ["qemu-io", "-f", "raw", "-t", "none"]
    for command in commands:
        words += ["-c", command]
    out = run([*words, server.uri()])
    assert "Pattern verification failed" not in out.stdout, out.stdout
    assert server.counts()["fua"] > 0


@pytest.mark.parametrize("block", ["4k", "5555", "100k", "1m"])
def test_fio_verifies_what_it_wrote(server, block):
    jobs = ["--rw=randwrite", "--iodepth=32", "--size=32m"]
    jobs += ["--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--verify_state_save=0"]
    done = run(["fio", "--name=v", "--ioengine=nbd", f"--uri={server.uri()}", f"--bs={block}", *jobs])
    assert "err= 0" in done.stdout, done.stdout


def test_many_connections_see_each_others_writes(server):
    with connection(server.uri()) as a, connection(server.uri()) as b, connection(server.tcp_uri()) as c:
        for i in range(50):
            block = bytes([i]) * 4096
            a.pwrite(block, i * 4096)
            assert b.pread(4096, i * 4096) == block
            b.flush()
            c.zero(4096, i * 4096)
            assert a.pread(4096, i * 4096) == bytes(4096)
        assert server.counts()["users"] == 3


def test_qemu_reconnects_after_growth_and_sees_the_new_size(server):
    """As libvirt-notes.md has it: dropped, it connects anew with its next request, and only then can be resized."""
    node = f"driver=raw,file.driver=nbd,file.path={server.socket},file.export=vm1,file.reconnect-delay=30"
    qemu_io = subprocess.Popen(
        ["qemu-io", "--image-opts", node], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )

    def answer():
        out = b""
        while not out.endswith(b"qemu-io> "):
            part = os.read(qemu_io.stdout.fileno(), 4096)
            assert part, out
            out += part
        return out.decode()

    def do(command):
        qemu_io.stdin.write(command.encode() + b"\n")
        qemu_io.stdin.flush()
        return answer()

    try:
        answer()
        assert "wrote 4096" in do("write -P 7 0 4096")
        assert "64 MiB" in do("length")
        server.command("resize", "vm1", 2 * SIZE)
        wait_until(lambda: server.stats()["connections"] == 0, 5, "the connection to be dropped")
        assert "read 4096" in do("read -P 7 0 4096")
        do(f"truncate {2 * SIZE}")
        assert "128 MiB" in do("length")
        assert "wrote 4096" in do("write -P 8 100M 4096")
    finally:
        qemu_io.kill()
        qemu_io.wait()


# Corners of the protocol, by libnbd


def test_errors_are_those_of_the_text(server):
    with connection(server.uri()) as h:
        assert error_of(h.pread, 512, SIZE) == "EINVAL"
        assert error_of(h.pread, 512, SIZE - 511) == "EINVAL"
        assert error_of(h.pwrite, b"x" * 512, SIZE - 511) == "ENOSPC"
        assert error_of(h.pwrite, b"x", 2**63 - 1) == "ENOSPC"
        assert error_of(h.zero, 512, SIZE) == "ENOSPC"
        assert error_of(h.trim, 512, SIZE) == "EINVAL"
        assert error_of(h.cache, 512, SIZE) == "EINVAL"
        assert error_of(h.block_status, 512, SIZE, lambda *_: 0) == "EINVAL"
        assert error_of(h.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE) == "ENOTSUP"
        assert error_of(h.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO) is None
        assert error_of(h.pread, 33 * MIB, 0) == "EOVERFLOW"
        assert error_of(h.trim, 2**32 - 1, 0) == "EINVAL"
        server.fault("error", errno.ENOSPC)
        assert error_of(h.pwrite, b"x" * 4096, 0) == "ENOSPC"
        server.fault("error", errno.ENODATA)
        assert error_of(h.pread, 4096, 0, nbd.CMD_FLAG_DF) == "EIO"
        server.fault("error", 0)
        assert h.pread(4096, 0) == bytes(4096)


@pytest.mark.parametrize("structured", [True, False])
def test_any_offset_and_length(server, structured):
    rng = random.Random(3)
    shadow = bytearray(8 * MIB)
    with connection(server.uri(), set_request_structured_replies=structured) as h:
        assert h.get_structured_replies_negotiated() == structured
        for _ in range(300):
            length = rng.choice([1, 3, 511, 512, 4096, 4097, 65536, 65537, 300_000])
            offset = rng.randrange(len(shadow) - length)
            action = rng.randrange(4)
            if action == 0:
                data = rng.randbytes(length)
                h.pwrite(data, offset, rng.choice([0, nbd.CMD_FLAG_FUA]))
                shadow[offset : offset + length] = data
            elif action == 1:
                h.zero(length, offset, rng.choice([0, nbd.CMD_FLAG_NO_HOLE]))
                shadow[offset : offset + length] = bytes(length)
            else:
                assert h.pread(length, offset) == shadow[offset : offset + length]


def test_block_status_is_right_for_every_block(server):
    with connection(server.uri()) as h:
        h.pwrite(b"d" * 8192, 4096)
        h.pwrite(b"d", 1 * MIB)
        h.zero(4096, 2 * MIB, nbd.CMD_FLAG_NO_HOLE)
        extents = []
        h.block_status(4 * MIB, 0, lambda context, offset, entries, error: extents.extend(entries) or 0)
        pairs = list(zip(extents[::2], extents[1::2]))
        hole, data = nbd.STATE_HOLE | nbd.STATE_ZERO, 0
        assert pairs[:3] == [(4096, hole), (8192, data), (1 * MIB - 12288, hole)]
        assert pairs[3:6] == [(4096, data), (1 * MIB - 4096, hole), (4096, data)]
        one = []
        h.block_status(
            4 * MIB, 6000, lambda context, offset, entries, error: one.extend(entries) or 0, nbd.CMD_FLAG_REQ_ONE
        )
        assert one == [12288 - 6000, data]


def test_options_by_libnbd(server):
    server.command("add", "vm2", MIB)
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_unix(str(server.socket))
    names = []
    assert h.opt_list(lambda name, description: names.append(name) or 0) == 2
    assert names == ["vm1", "vm2"]
    h.set_export_name("")
    with pytest.raises(nbd.Error, match="No such file"):
        h.opt_info()
    h.set_export_name("vm2")
    h.opt_info()
    assert h.get_size() == MIB
    contexts = []
    h.opt_list_meta_context(lambda name: contexts.append(name) or 0)
    assert contexts == ["base:allocation"]
    h.add_meta_context("base:allocation")
    h.add_meta_context("x-other:thing")
    h.opt_go()
    assert h.can_meta_context("base:allocation")
    h.shutdown()
    h = nbd.NBD()
    h.set_tls(nbd.TLS_REQUIRE)
    with pytest.raises(nbd.Error):
        h.connect_unix(str(server.socket))
    for flags in (0, nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE, nbd.HANDSHAKE_FLAG_NO_ZEROES):
        with connection(server.uri(), set_handshake_flags=flags) as h:
            assert h.pread(512, 0) == bytes(512)


# Raw sockets


class Raw:
    """A client that says exactly what a test wants."""

    def __init__(self, server, name="vm1", tcp=False, go=True):
        self.s = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
        self.s.settimeout(120)
        self.s.connect(("127.0.0.1", server.port) if tcp else str(server.socket))
        assert self.recv(18) == b"NBDMAGICIHAVEOPT\0\3"
        self.s.sendall(struct.pack(">I", 3))
        if go:
            self.option(1, name.encode())
            self.size, self.flags = struct.unpack(">QH", self.recv(10))

    def option(self, option, data=b""):
        self.s.sendall(b"IHAVEOPT" + struct.pack(">II", option, len(data)) + data)

    def recv(self, length):
        data = bytearray()
        while len(data) < length:
            part = self.s.recv(length - len(data))
            if not part:
                raise EOFError(f"closed after {len(data)} of {length} bytes")
            data += part
        return bytes(data)

    def request(self, command, offset=0, length=0, cookie=1, flags=0, payload=b""):
        self.s.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, flags, command, cookie, offset, length) + payload)

    def reply(self, length=0):
        magic, error, cookie = struct.unpack(">IIQ", self.recv(16))
        assert magic == 0x67446698
        return cookie, error, self.recv(length) if not error else b""

    def closed(self, timeout_s=60):
        self.s.settimeout(timeout_s)
        try:
            return self.s.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self):
        self.s.close()


@contextmanager
def undisturbed(server):
    """Somebody else's connection must work throughout, and the server must be as before afterwards."""
    with connection(server.uri()) as h:
        h.pwrite(b"k" * 4096, 32 * MIB)
        before = server.stats()["connections"]
        yield h
        begin = time.monotonic()
        assert h.pread(4096, 32 * MIB) == b"k" * 4096
        assert time.monotonic() - begin < 20
        wait_until(lambda: server.stats()["connections"] <= before, 15, "the others to be forgotten")
        assert server.stats()["in_flight"] == 0


@pytest.mark.parametrize("tcp", [False, True])
def test_half_close_gets_all_its_replies(server, tcp):
    """More than the server takes at a time, then shutdown of the sending side."""
    with undisturbed(server):
        server.fault("delay_ns", 2_000_000)
        raw = Raw(server, tcp=tcp)
        sender = threading.Thread(
            target=lambda: (
                [raw.request(WRITE, i * 512, 512, i, payload=b"h" * 512) for i in range(1500)],
                raw.s.shutdown(socket.SHUT_WR),
            )
        )
        sender.start()
        cookies = sorted(raw.reply()[0] for _ in range(1500))
        sender.join()
        assert cookies == list(range(1500))
        assert raw.closed()
        raw.close()
        server.fault("delay_ns", 0)


def test_disc_answers_what_is_outstanding(server):
    server.fault("delay_ns", 100_000_000)
    raw = Raw(server)
    for i in range(10):
        raw.request(READ, i * 4096, 4096, i)
    raw.request(DISC)
    assert sorted(raw.reply(4096)[0] for _ in range(10)) == list(range(10))
    assert raw.closed()


GARBAGE = {
    "zeroes": bytes(4096),
    "old magic": struct.pack(">I", 0x12560953) + bytes(24),
    "text": b"GET / HTTP/1.1\r\nHost: example\r\n\r\n" * 10,
    "magic then noise": struct.pack(">I", REQUEST_MAGIC) + b"\xff" * 24 + b"\xff" * 100,
    "huge write": struct.pack(">IHHQQI", REQUEST_MAGIC, 0, WRITE, 1, 0, 0xFFFFFFFF),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_ends_only_its_own_connection(server, what):
    with undisturbed(server):
        raw = Raw(server)
        raw.s.sendall(GARBAGE[what])
        while not raw.closed():
            pass
        raw.close()
        shake = Raw(server, go=False)
        shake.s.sendall(GARBAGE[what] + bytes(16))
        assert shake.closed()
        shake.close()


def test_random_bytes_and_sudden_ends(server):
    """Clients that vanish at any byte of a session."""
    rng = random.Random(11)
    session = struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 1, 3) + b"vm1"
    for i in range(20):
        session += struct.pack(">IHHQQI", REQUEST_MAGIC, 0, WRITE, i, i * 4096, 4096) + rng.randbytes(4096)
        session += struct.pack(">IHHQQI", REQUEST_MAGIC, 0, READ, i, 0, 1 * MIB)
    session += struct.pack(">IHHQQI", REQUEST_MAGIC, 0, WRITE, 99, 0, 2 * MIB) + bytes(MIB)
    with undisturbed(server):
        for _ in range(150):
            s = socket.socket(socket.AF_UNIX)
            s.connect(str(server.socket))
            cut = rng.randrange(rng.choice([100, len(session)]))
            data = bytearray(session[:cut])
            if data and rng.randrange(3) == 0:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            if rng.randrange(2):
                s.settimeout(5)
            else:
                s.setblocking(False)
            try:
                s.sendall(data)
                if rng.randrange(2):
                    s.recv(rng.randrange(1, 100_000))
            except OSError:
                pass
            s.close()


def test_a_killed_clients_requests_end_before_its_successors_begin(make_server):
    """S19: writes of the old process are stuck in the volume and unread in the socket; the new one's must win."""
    server = make_server(connection_requests_max=4)
    server.fault("stuck", 1)
    old = Raw(server)
    for i in range(12):
        old.request(WRITE, 0, 4096, i, payload=b"o" * 4096)
    wait_until(lambda: server.counts()["now"] == 4, 5, "the writes to be stuck")
    old.close()
    new = Raw(server)  # the handshake is answered
    new.request(WRITE, 0, 4096, 77, payload=b"n" * 4096)
    time.sleep(0.3)
    assert server.counts()["now"] == 4
    server.fault("stuck", 0)
    assert new.reply()[:2] == (77, 0)
    new.request(READ, 0, 4096, 78)
    assert new.reply(4096) == (78, 0, b"n" * 4096)
    assert server.counts()["writes"] == 1  # what was stuck had no place in the order, and gets none (N2)
    assert server.stats()["connections"] == 1
    new.close()


def test_slow_readers_and_liars_leave_memory_and_others_alone(make_server):
    server = make_server(buffer_bytes_max=64 * MIB, stall_timeout_ns=2 * SEC_NS)
    before = status_bytes(server.process.pid, "VmRSS")
    with connection(server.uri()) as good:
        good.pwrite(b"g" * (32 * MIB), 0)
        bad = []
        for i in range(20):
            raw = Raw(server, tcp=i % 2 == 1)
            if i % 3 == 0:  # announces a payload and sends a part of it
                raw.request(WRITE, 0, 32 * MIB, 1, payload=b"l" * 1000)
            else:  # asks for much and takes nothing
                for j in range(64):
                    raw.request(READ, 0, 8 * MIB, j)
            bad.append(raw)
        time.sleep(0.5)
        assert server.stats()["buffers"] < 64 * MIB + 21 * 400 * 1024
        begin = time.monotonic()
        assert good.pread(4096, 0) == b"g" * 4096  # its reserve
        assert server.stats()["stalled"] == 0 or time.monotonic() - begin < 2
        assert good.pread(16 * MIB, 0) == b"g" * (16 * MIB)  # those who hoard have to go
        good.pwrite(b"w" * (16 * MIB), 0)
        assert time.monotonic() - begin < 200
        assert server.stats()["stalled"] > 0
        # Memory of the volume itself, the bound, and what the process has anyhow.
        assert status_bytes(server.process.pid, "VmHWM") < before + 32 * MIB + 64 * MIB + 64 * MIB
        for raw in bad:
            raw.close()
        wait_until(lambda: server.stats()["connections"] == 1, 10, "the bad ones to be forgotten")


def test_crowds_in_the_handshake_do_not_keep_others_out(make_server):
    server = make_server(handshake_timeout_ns=2 * SEC_NS, connections_max=100)
    crowd = []
    for _ in range(200):
        s = socket.socket(socket.AF_UNIX)
        s.connect(str(server.socket))
        crowd.append(s)
    with connection(server.uri()) as h:
        assert h.pread(512, 0) == bytes(512)
    assert server.stats()["handshakes"] <= 64
    wait_until(lambda: server.stats()["connections"] == 0, 10, "the silent ones to time out")
    assert server.stats()["timed_out"] > 0
    for s in crowd:
        s.close()


def test_the_connection_limit_answers_at_once(make_server):
    server = make_server(connections_max=3)
    clients = [Raw(server) for _ in range(3)]
    begin = time.monotonic()
    h = nbd.NBD()
    with pytest.raises(nbd.Error):
        h.connect_unix(str(server.socket))
    assert time.monotonic() - begin < 9
    clients.pop().close()
    wait_until(lambda: server.stats()["connections"] == 2, 5, "room")
    clients.append(Raw(server))
    for raw in clients:
        raw.close()


# Volumes and servers that go away


def test_load_goes_on_while_the_volume_is_closed_again_and_again(server):
    """N4: fio verifies through it without an error."""
    server.fault("delay_ns", 200_000)
    fio = subprocess.Popen(
        ["fio", "--name=v", "--ioengine=nbd", f"--uri={server.uri()}", "--rw=randwrite", "--bs=4k", "--iodepth=16"]
        + ["--size=48m", "--verify=crc32c", "--verify_state_save=0", "--verify_fatal=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(lambda: server.counts()["writes"] > 0, 10, "fio to write")
    held = 0
    while fio.poll() is None:
        server.fault("open_error", 16)
        server.command("depose", "vm1")
        time.sleep(0.05)
        held += server.stats()["held"]
        server.fault("open_error", 0)
        time.sleep(0.2)
    out = fio.communicate()[0]
    assert fio.returncode == 0 and "err= 0" in out, out
    assert held > 0


def test_growth_answers_then_drops_and_the_next_connection_sees_it(server):
    raw = Raw(server)
    server.fault("stuck", 1)
    raw.request(WRITE, 0, 4096, 5, payload=b"g" * 4096)
    wait_until(lambda: server.counts()["now"] == 1, 5, "the write to be in flight")
    server.command("resize", "vm1", SIZE + 4096)
    server.fault("stuck", 0)
    assert raw.reply()[:2] == (5, 0)
    assert raw.closed()
    again = Raw(server)
    assert again.size == SIZE + 4096
    again.close()


def test_stop_answers_what_is_in_flight_and_exits(server):
    server.fault("delay_ns", 1_500_000_000)
    raw = Raw(server)
    for i in range(8):
        raw.request(WRITE, i * 4096, 4096, i, payload=b"s" * 4096)
    wait_until(lambda: server.counts()["now"] == 8, 5, "the writes to be in flight")
    server.process.send_signal(signal.SIGTERM)
    assert sorted(raw.reply()[0] for _ in range(8)) == list(range(8))
    assert raw.closed()
    assert server.process.wait(10) == 0
    assert not server.socket.exists()


def test_idle_connections_use_no_cpu(server):
    clients = [Raw(server) for _ in range(30)]
    assert least_cpu([server.process.pid], 2, 0.01) < 0.015
    for raw in clients:
        raw.close()


def test_sockets_that_cannot_be_had_are_explained(server, scratch):
    done = run([SERVER, "--listen", f"unix:{server.socket}", "--volume", "x:4096"], check=False)
    assert done.returncode == 1 and "another daemon serves there" in done.stderr, done.stderr
    assert os.path.exists(server.socket)
    done = run([SERVER, "--listen", f"unix:{scratch}/no/such", "--volume", "x:4096"], check=False)
    assert done.returncode == 1 and "No such file" in done.stderr
