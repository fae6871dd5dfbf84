# SPDX-License-Identifier: Apache-2.0
"""Child processes that die with us, and what /proc says about them."""

import ctypes
import os
import signal
import subprocess
import time

# Limits are what a quiet machine never needs; a busy one, or one with a slow disk, gets this many times as long.
PATIENCE = float(os.environ.get("HOLDFAST_TEST_PATIENCE", "5"))

PR_SET_PDEATHSIG = 1
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
PRCTL = ctypes.CDLL(None).prctl  # here: between fork and exec, beside other threads, nothing may be loaded
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def die_with_parent():
    """Between fork and exec: SIGKILL when this process ends."""
    PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL)


def private_mounts():
    """What this process and its children mount from now on is seen by nobody else. Another process that gets a mount namespace meanwhile
    (ip netns exec of another run on this machine) would keep a copy, and with it the file system of a loop device in use."""
    libc = ctypes.CDLL(None)
    if libc.unshare(CLONE_NEWNS) == 0:
        libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)


def spawn(command, log, env=None, **kwargs):
    """Starts `command` with stdout and stderr appended to the file `log`; it is killed when this process ends."""
    with open(log, "ab") as out:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            preexec_fn=die_with_parent,
            **kwargs,
        )


def wait_until(condition, timeout_s, what, interval_s=0.02):
    """Polls `condition` until it gives something true, and returns that; fails after PATIENCE times `timeout_s`."""
    deadline = time.monotonic() + PATIENCE * timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE * timeout_s:.0f} s for {what}")
        time.sleep(interval_s)


def cpu_seconds(pid):
    """User and system time so far of a process and of its children that were waited for."""
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return sum(int(ticks) for ticks in fields[11:15]) / CLOCK_TICKS


def least_cpu(pids, window_s, enough_s, windows=20):
    """CPU seconds of the busiest of the processes in a window: of the first in which none used more than enough_s, or else of
    the quietest. Work that is still to be done after something ends; a process that polls or spins has no quiet window."""
    least = None
    for _ in range(windows):
        before = [cpu_seconds(pid) for pid in pids]
        time.sleep(window_s)
        used = max(cpu_seconds(pid) - was for pid, was in zip(pids, before))
        least = used if least is None else min(least, used)
        if least <= enough_s:
            break
    return least


def status_bytes(pid, key):
    """A size from /proc/PID/status, such as VmRSS or VmHWM, in bytes."""
    with open(f"/proc/{pid}/status") as f:
        for line in f:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    raise KeyError(key)


def tail(path, lines=20):
    try:
        with open(path, errors="replace") as f:
            return "".join(f.readlines()[-lines:])
    except OSError as error:
        return str(error)


def run(command, timeout_s=120, check=True, **kwargs):
    """Runs a client to its end and returns it with text output; a failure shows what it said."""
    command = [str(word) for word in command]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE * timeout_s, errors="replace", **kwargs
    )
    if check and done.returncode:
        raise AssertionError(
            f"exit code {done.returncode}: {' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
    return done
