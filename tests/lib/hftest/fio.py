# SPDX-License-Identifier: Apache-2.0
"""fio that writes at a steady pace, reads back what it wrote by checksum as it goes, and all of it once more at the end."""

import json
import subprocess
import time

from .process import PATIENCE

PACE = 800  # 4 KiB writes a second: so much that a pause shows, so little that several fit beside a cluster on two cores


class Fio:
    """One client, by NBD (`uri`) or on a file of a mount (`path`). `seconds`: how long it writes if nothing pauses it."""

    def __init__(self, name, seconds, directory, uri=None, path=None, offset_mib=0):
        self.name, self.bytes = name, seconds * PACE * 4096
        self.output = directory / f"fio-{name}.json"
        self.target = ["--ioengine=nbd", f"--uri={uri}"] if uri else ["--ioengine=libaio", f"--filename={path}"]
        self.job = [
            f"--name={name}",
            *(["--direct=1"] if path else []),
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=8",
            f"--offset={offset_mib}m",
            f"--size={self.bytes}",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--randseed=7",
        ]
        self.directory = directory
        extra = ["--verify_backlog=256", f"--rate_iops={PACE}", "--output-format=json", f"--output={self.output}"]
        self.log = open(directory / f"fio-{name}.log", "w+")
        self.process = subprocess.Popen(["fio", *self.target, *self.job, *extra], stdout=self.log, stderr=self.log, cwd=directory)

    def told(self):
        self.log.seek(0)
        text = self.log.read()
        return text + (self.output.read_text()[:3000] if self.output.exists() else "")

    def running(self):
        return self.process.poll() is None

    def finish(self, timeout_s=90):
        """Fails unless fio ended well; returns the longest answer in seconds."""
        try:
            self.process.wait(PATIENCE * timeout_s)
        except subprocess.TimeoutExpired as late:
            raise AssertionError(f"fio {self.name}: not done after {PATIENCE * timeout_s:.0f} s") from late
        assert self.process.returncode == 0, f"fio {self.name}: {self.told()}"
        text = self.output.read_text()
        job = json.loads(text[text.index("{") :])["jobs"][0]
        assert job["error"] == 0 and job["write"]["io_bytes"] == self.bytes, job["write"]["io_bytes"]
        assert job["read"]["io_bytes"] >= self.bytes, "not all was read back"
        return max(job[what]["clat_ns"]["max"] for what in ("read", "write")) / 1e9

    def verify_from(self, uri):
        """Everything is read once more, through another node."""
        job = ["fio", "--ioengine=nbd", f"--uri={uri}", *self.job, "--verify_only"]
        done = subprocess.run(job, capture_output=True, text=True, timeout=PATIENCE * 90, cwd=self.directory, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def close(self):
        if self.running():
            self.process.kill()
            self.process.wait()
        self.log.close()


def all_running(clients, seconds):
    """None of them ends within that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for client in clients:
            assert client.running(), client.told()
        time.sleep(0.05)
