# SPDX-License-Identifier: Apache-2.0
"""A node-shaped thing served by nbdkit from plain files: shows that a test itself is right when no blockd is in question.

HOLDFAST_E2E_STANDIN=1 makes the `node` fixture use it. A killed nbdkit loses nothing, since the kernel has every write.
"""

import json
import os
import subprocess
import time

from .node import MIB, Node
from .process import spawn, wait_until

UNITS = {"MiB": MIB, "GiB": 1024 * MIB, "KiB": 1024}


class StandInNode(Node):
    def create(self):
        (self.dir / "volumes").mkdir()
        self.start()
        return self

    def start(self, env=None, timeout_s=30):
        begin = time.monotonic()
        self.nbd_socket.unlink(missing_ok=True)
        self.process = spawn(["nbdkit", "-f", "-U", self.nbd_socket, "file", f"dir={self.dir}/volumes"], self.log)
        wait_until(self.nbd_socket.exists, 10, "nbdkit")
        return time.monotonic() - begin

    def cli_run(self, *args, timeout_s=120):
        args = [str(arg) for arg in args if arg != "--json"]
        out = ""
        if args[:2] == ["volume", "create"]:
            size = args[args.index("--size") + 1]
            with open(self.dir / "volumes" / args[2], "xb") as f:
                f.truncate(int(size[:-3]) * UNITS[size[-3:]])
        elif args[:2] == ["volume", "list"]:
            files = sorted(os.scandir(self.dir / "volumes"), key=lambda entry: entry.name)
            out = json.dumps({"volumes": [{"name": f.name, "size_bytes": f.stat().st_size} for f in files]})
        elif args[:2] == ["volume", "delete"]:
            (self.dir / "volumes" / args[2]).unlink()
        else:
            return subprocess.CompletedProcess(args, 1, "", "the stand-in cannot do that")
        return subprocess.CompletedProcess(args, 0, out, "")
