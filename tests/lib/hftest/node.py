# SPDX-License-Identifier: Apache-2.0
"""One node: a blockd with file-backed disks in a directory of its own. All knowledge of how to start one is here."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from .guardian import Scratch
from .process import PATIENCE, cpu_seconds, run, spawn, status_bytes, tail, wait_until

ROOT = Path(__file__).resolve().parents[3]
BUILD = Path(os.environ.get("HOLDFAST_BUILD", ROOT / "build")).resolve()
MIB = 1024 * 1024
GIB = 1024 * MIB


class CliError(Exception):
    """The CLI exited non-zero."""

    def __init__(self, args, done):
        super().__init__(f"holdfast {' '.join(args)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        self.returncode, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr


class Node:
    """Starts, kills and restarts one blockd. Use as a context manager, or call close()."""

    def __init__(self, base=None, disks=6, disk_mib=256, code="4+2", pool="main", config=None, env=None):
        # O_DIRECT needs a real file system (not tmpfs) and unix sockets a short path: hence /var/tmp.
        self.scratch = Scratch("hf.", base)
        self.dir = self.scratch.path
        self.disk_count, self.disk_mib, self.code, self.pool = disks, disk_mib, code, pool
        self.config, self.env = config or {}, env or {}
        self.nbd_socket = self.dir / "nbd.sock"
        self.admin_socket = self.dir / "admin.sock"
        self.log = self.dir / "blockd.log"
        self.config_file = self.dir / "holdfast.conf"
        self.process = None
        self.prefix = []  # of the command: into a namespace
        self.helpers = []  # mounts and clients that must go before the daemon

    # Set-up

    def create(self):
        """Writes the configuration, starts blockd, formats and adds the disks, makes the pool."""
        self.write_config()
        self.start()
        for number in range(self.disk_count):
            self.add_disk(number)
        if self.code:
            self.cli("pool", "create", self.pool, "--code", self.code)
        return self

    def write_config(self):
        sections = {
            "node": {"name": "n1", "run_dir": self.dir, "state_dir": self.dir / "state", "memory": "256MiB"},
            "nbd": {"listen": f"unix:{self.nbd_socket}"},
            "admin": {"socket": self.admin_socket},
            "store": {"type": "embedded", "path": self.dir / "state" / "store"},
            "log": {"level": "info"},
        }
        for section, values in self.config.items():
            sections.setdefault(section, {}).update(values)
        (self.dir / "state").mkdir(exist_ok=True)
        with open(self.config_file, "w") as f:
            for section, values in sections.items():
                f.write(f"[{section}]\n" + "".join(f"{key}={value}\n" for key, value in values.items() if value is not None) + "\n")

    def disk_path(self, number):
        return self.dir / f"disk{number}"

    def add_disk(self, number):
        self.cli("disk", "format", self.disk_path(number), "--size", f"{self.disk_mib}MiB")
        self.cli("disk", "add", self.disk_path(number))

    # The daemon

    def start(self, env=None, timeout_s=30):
        """Starts blockd and waits for its line that it is ready; returns the seconds that took."""
        self.start_process(env)
        return self.wait_ready(timeout_s)

    def start_process(self, env=None):
        assert not self.process, "already running"
        self.started = time.monotonic()
        self.log_offset = self.log.stat().st_size if self.log.exists() else 0
        self.process = spawn(
            [*self.prefix, BUILD / "blockd/holdfast-blockd", "--config", self.config_file],
            self.log,
            env={**self.env, **(env or {})},
        )

    def wait_ready(self, timeout_s=30):
        """Seconds from the start of the process to its line that it is ready."""

        def ready():
            if self.process.poll() is not None:
                code, self.process = self.process.returncode, None
                raise AssertionError(f"blockd ended with {code} before it was ready:\n{tail(self.log)}")
            with open(self.log, "rb") as f:
                f.seek(self.log_offset)
                return b"holdfast-blockd: ready" in f.read()

        wait_until(ready, timeout_s, f"blockd to be ready:\n{tail(self.log)}", interval_s=0.01)
        return time.monotonic() - self.started

    def stop(self, timeout_s=60):
        """A clean shutdown; fails unless blockd ends with 0."""
        self.process.send_signal(signal.SIGTERM)
        self.wait_stopped(timeout_s)

    def wait_stopped(self, timeout_s=60):
        """The end of a shutdown that somebody has asked for: another SIGTERM would end it at once."""
        code = self.process.wait(PATIENCE * timeout_s)
        self.process = None
        assert code == 0, f"blockd ended with {code} on SIGTERM:\n{tail(self.log)}"

    def kill9(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def restart(self, env=None):
        self.stop()
        return self.start(env)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def dump_fibers(self):
        """Appends to the log what each fiber of blockd waits for (needs gdb)."""
        gdb = shutil.which("gdb")
        if gdb and self.alive():
            with open(self.log, "ab") as out:
                command = [gdb, "-q", "-batch", "-p", str(self.process.pid), "-x", str(ROOT / "common/fiber-gdb.py"), "-ex", "fibers"]
                subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60, check=False)

    def cpu_seconds(self):
        return cpu_seconds(self.process.pid)

    def rss_bytes(self):
        return status_bytes(self.process.pid, "VmRSS")

    def peak_rss_bytes(self):
        return status_bytes(self.process.pid, "VmHWM")

    # Its interfaces

    def cli_run(self, *args, timeout_s=120):
        """Runs the CLI and returns the finished process, whatever its exit code."""
        args = [str(arg) for arg in args]
        return run(
            [BUILD / "cli/holdfast", *args],
            timeout_s=timeout_s,
            check=False,
            env={**os.environ, "HOLDFAST_SOCKET": str(self.admin_socket)},
        )

    def cli(self, *args, timeout_s=120):
        args = [str(arg) for arg in args]
        done = self.cli_run(*args, timeout_s=timeout_s)
        if done.returncode:
            raise CliError(args, done)
        return done.stdout

    def json(self, *args):
        return json.loads(self.cli(*args, "--json"))

    def volume(self, name, size_mib):
        """Creates a volume and returns its NBD address."""
        self.cli("volume", "create", name, "--size", f"{size_mib}MiB", "--pool", self.pool)
        return self.uri(name)

    def uri(self, name):
        return f"nbd+unix:///{name}?socket={self.nbd_socket}"

    def disks(self):
        answer = self.json("disk", "list")
        return answer["disks"] if isinstance(answer, dict) else answer

    def volumes(self):
        answer = self.json("volume", "list")
        return answer["volumes"] if isinstance(answer, dict) else answer

    # The end

    def close(self, keep=False):
        while self.helpers:
            self.helpers.pop().close()
        if self.alive():
            self.kill9()
        if not keep:
            self.scratch.remove()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class FuseMount:
    """holdfast-fuse on a directory of the node; closed with it."""

    def __init__(self, node, name="mnt"):
        self.node = node
        self.path = node.dir / name
        self.path.mkdir(exist_ok=True)
        self.log = node.dir / f"fuse-{name}.log"
        self.process = spawn(
            [
                BUILD / "fuse/holdfast-fuse",
                "-f",
                "-o",
                f"nbd={node.nbd_socket},admin={node.admin_socket}",
                self.path,
            ],
            self.log,
        )
        node.helpers.append(self)
        wait_until(self._mounted, 15, "the FUSE mount")

    def _mounted(self):
        if self.process.poll() is not None:
            raise AssertionError(f"holdfast-fuse ended with {self.process.returncode}:\n{tail(self.log)}")
        return os.path.ismount(self.path)

    def cpu_seconds(self):
        return cpu_seconds(self.process.pid)

    def unmount(self, timeout_s=20):
        run(["umount", self.path])
        return self.process.wait(PATIENCE * timeout_s)

    def close(self):
        if self in self.node.helpers:
            self.node.helpers.remove(self)
        if self.process.poll() is None:
            subprocess.run(["umount", "-l", self.path], stderr=subprocess.DEVNULL, check=False)
            self.process.terminate()  # namespaces made meanwhile have the mount too, and keep it
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        subprocess.run(["umount", "-l", self.path], stderr=subprocess.DEVNULL, check=False)
