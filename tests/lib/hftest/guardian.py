# SPDX-License-Identifier: Apache-2.0
"""What tests make on this machine (directories, mounts, namespaces, daemons of their own session) is gone after them, also when they
are killed: a process of its own, the guardian, is told of each thing, and takes away what is left once the tests' process has ended.

Run as a program it is the guardian: lines of JSON on stdin, [number, [word, ...]] = has to be done, [number, null] = is done.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def quietly(*words, timeout_s=120):
    try:
        done = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=timeout_s, check=False)
        return done.stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def below(path, other):
    return other == str(path) or other.startswith(f"{path}/")


def mounts_below(path):
    """The last one made comes first."""
    with open("/proc/mounts", errors="replace") as f:
        points = [re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), line.split()[1]) for line in f]
    return [point for point in reversed(points) if below(path, point)]


def remove_tree(path):
    """A directory with all that is mounted or attached below it. Whoever still writes there has been killed, but may not be gone yet."""
    for line in quietly("losetup", "-l", "-n", "-O", "NAME,BACK-FILE").splitlines():
        name, _, file = line.strip().partition(" ")
        if below(path, file.strip()):
            quietly("losetup", "-d", name)
    for _ in range(200):
        for point in mounts_below(path):
            quietly("umount", "-l", point)
        if not mounts_below(path):
            shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path):
            break
        time.sleep(0.05)


def kill_users(path):
    """Clients that a killed test had started: their command names something below its directory, which is nobody else's."""
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and int(entry) != os.getpid() and f"{path}/".encode() in Path("/proc", entry, "cmdline").read_bytes():
                os.kill(int(entry), signal.SIGKILL)
        except OSError:
            pass  # it has ended


def abandon_tree(path):
    for _ in range(3):  # who is killed may have been about to start another
        kill_users(path)
        time.sleep(0.2)
    remove_tree(path)


def remove_network(tag):
    """Namespaces and links of hftest.cluster.Network."""
    namespaces = os.listdir("/run/netns") if os.path.isdir("/run/netns") else []
    for namespace in namespaces:
        if namespace.startswith(f"{tag}-"):
            quietly("ip", "netns", "del", namespace)
    for link in os.listdir("/sys/class/net"):
        if re.fullmatch(rf"{tag}(br|[en]\d+)", link):
            quietly("ip", "link", "del", link)


class Guardian:
    """This process's, begun with the first thing it has to know of."""

    process = None
    count = 0

    @classmethod
    def tell(cls, number, words):
        if not cls.process:
            cls.process = subprocess.Popen(
                [sys.executable, "-B", __file__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd="/"
            )
        try:
            cls.process.stdin.write((json.dumps([number, words]) + "\n").encode())
            cls.process.stdin.flush()
        except OSError:
            pass  # somebody has killed it; tests go on without

    @classmethod
    def told(cls, *words):
        """Will be done at the end unless it is done() before."""
        cls.count += 1
        cls.tell(cls.count, [str(word) for word in words])
        return cls.count

    @classmethod
    def done(cls, number):
        cls.tell(number, None)


class Scratch:
    """A new directory on a real file system (O_DIRECT), with a short path (unix sockets)."""

    def __init__(self, prefix, base=None):
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=base or os.environ.get("HOLDFAST_TEST_DIR", "/var/tmp")))
        self.number = None
        if not base and os.environ.get("HOLDFAST_TEST_KEEP") != "1":
            self.number = Guardian.told("abandon_tree", self.path)

    def remove(self):
        remove_tree(self.path)
        if self.number:
            Guardian.done(self.number)
            self.number = None


def main():
    left = {}
    for line in sys.stdin:
        number, words = json.loads(line)
        if words:
            left[number] = words
        else:
            left.pop(number, None)
    for number in sorted(left, reverse=True):
        what, *words = left[number]
        {"abandon_tree": abandon_tree, "remove_network": remove_network, "run": quietly}[what](*words)


if __name__ == "__main__":
    main()
