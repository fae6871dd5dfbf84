# SPDX-License-Identifier: Apache-2.0
"""Files on a disk that fails or is slow when told so."""

import os
import subprocess

from .node import BUILD
from .process import spawn, wait_until


class FaultFs:
    """A mount (tests/lib/fault_fs.c) of a directory of its own below the node's; closed with it."""

    def __init__(self, node, requests_max=None):
        directory = node.dir
        self.backing, self.path = directory / "fault.backing", directory / "fault"
        self.backing.mkdir()
        self.path.mkdir()
        node.helpers.append(self)
        self.process = spawn([BUILD / "tests/lib/fault_fs", self.backing, self.path, *([str(requests_max)] if requests_max else [])], directory / "fault_fs.log")
        wait_until(lambda: os.path.ismount(self.path), 10, "fault_fs to be mounted")

    def fail(self, what):
        """Any of the words of fault_fs.c: read, write, sync fail with EIO; slow: each write takes 200 ms, crawl: 1 s;
        hang: nothing comes back until the word is gone. Empty: all is well."""
        (self.backing / ".fail").write_text(what)

    def close(self):
        self.fail("")  # a process in the kernel's hands dies when that lets go
        subprocess.run(["fusermount3", "-u", "-z", self.path], stderr=subprocess.DEVNULL, check=False)
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
