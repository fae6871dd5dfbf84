# SPDX-License-Identifier: Apache-2.0
"""./quickstart sets up, goes on after a kill, and leaves nothing behind when stopped."""

import os
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from hftest.guardian import Guardian, Scratch
from hftest.node import BUILD, ROOT
from hftest.process import die_with_parent, run


@pytest.fixture
def quickstart():
    scratch = Scratch("hfq.")
    directory = scratch.path
    environment = {**os.environ, "QUICKSTART_RUN_DIR": str(directory / "run"), "HOLDFAST_BUILD": str(BUILD)}

    def call(*args):
        done = subprocess.run(
            [ROOT / "quickstart", *args],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
            preexec_fn=die_with_parent,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    call.dir = directory / "run"
    setting = [f"{name}={environment[name]}" for name in ("QUICKSTART_RUN_DIR", "HOLDFAST_BUILD")]
    number = Guardian.told("run", "env", *setting, ROOT / "quickstart", "stop", "--wipe")
    yield call
    subprocess.run([ROOT / "quickstart", "stop", "--wipe"], env=environment, check=False, capture_output=True)
    Guardian.done(number)
    scratch.remove()


def settings(directory):
    lines = (directory / "quickstart.env").read_text().splitlines()
    return {key: shlex.split(value)[0] for key, _, value in (line.partition("=") for line in lines) if value}


def processes_of(directory):
    """Commands still running that name the directory."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(directory) in command:
                found.append(command)
    return found


def test_quickstart_starts_restarts_and_stops(quickstart):
    output = quickstart("--no-install", "--disk-size", "256MiB", "--volume-size", "512MiB")
    env = settings(quickstart.dir)
    assert {"HOLDFAST", "HOLDFAST_SOCKET", "NBD_SOCKET", "MOUNT", "VOLUME", "BLOCKD_PID"} <= set(env)
    assert "(running)" in output and "stop" in output
    volume = Path(env["MOUNT"], env["VOLUME"])
    assert volume.stat().st_size == 512 * 1024 * 1024
    run(["nbdinfo", f"nbd+unix:///{env['VOLUME']}?socket={env['NBD_SOCKET']}"])
    run(["qemu-io", "-f", "raw", "-c", "write -P 0x5a 1M 1M", f"nbd+unix:///{env['VOLUME']}?socket={env['NBD_SOCKET']}"])

    os.kill(int(env["BLOCKD_PID"]), signal.SIGKILL)
    output = quickstart("--no-install")
    assert "checksums are good" in output and "(running)" in output
    with open(volume, "rb") as f:
        f.seek(1024 * 1024)
        assert f.read(1024 * 1024) == b"\x5a" * 1024 * 1024

    quickstart("stop")
    assert not processes_of(quickstart.dir)
    assert str(quickstart.dir) not in Path("/proc/mounts").read_text()
    assert not (quickstart.dir / "quickstart.env").exists()
    assert "(running)" in quickstart("--no-install")  # with the disks that were kept
    quickstart("stop", "--wipe")
    assert not quickstart.dir.exists()
