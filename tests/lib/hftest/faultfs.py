# SPDX-License-Identifier: Apache-2.0
"""Files on a disk that fails or is slow when told so."""

import os
import subprocess

from .node import BUILD
from .process import spawn, wait_until


class FaultFs:
    """A mount (tests/lib/fault_fs.c) of a directory of its own below `directory`."""

    def __init__(self, directory, requests_max=None):
        self.backing, self.path = directory / "fault.backing", directory / "fault"
        self.backing.mkdir()
        self.path.mkdir()
        self.process = spawn([BUILD / "tests/lib/fault_fs", self.backing, self.path, *([str(requests_max)] if requests_max else [])], directory / "fault_fs.log")
        wait_until(lambda: os.path.ismount(self.path), 10, "fault_fs to be mounted")

    def fail(self, what):
        """Any of the words of fault_fs.c: read, write, sync fail with EIO; slow: each write takes 200 ms;
        hang: nothing comes back until the word is gone. Empty: all is well."""
        (self.backing / ".fail").write_text(what)

    def close(self):
        subprocess.run(["fusermount3", "-u", "-z", self.path], check=False)
        self.process.terminate()
        self.process.wait(60)
