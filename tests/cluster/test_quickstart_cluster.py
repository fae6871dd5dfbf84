# SPDX-License-Identifier: Apache-2.0
"""./quickstart --cluster, as a user runs it: up, a node killed, up again, stopped."""

import os
import shlex
import signal

import pytest
from hftest.guardian import Guardian, Scratch
from hftest.node import BUILD, ROOT
from hftest.process import die_with_parent, run, wait_until


@pytest.fixture
def quickstart():
    scratch = Scratch("hfq.")
    directory = scratch.path
    env = {**os.environ, "QUICKSTART_RUN_DIR": str(directory), "HOLDFAST_BUILD": str(BUILD)}

    def call(*words, check=True):
        return run([ROOT / "quickstart", *words, "--cluster", "--no-install"], timeout_s=100, check=check, env=env, preexec_fn=die_with_parent)

    call.directory = directory
    setting = [f"{name}={env[name]}" for name in ("QUICKSTART_RUN_DIR", "HOLDFAST_BUILD")]
    number = Guardian.told("run", "env", *setting, ROOT / "quickstart", "stop", "--wipe", "--cluster")
    yield call
    call("stop", "--wipe", check=False)
    Guardian.done(number)
    scratch.remove()


def variables(directory):
    lines = [shlex.split(line)[0] for line in (directory / "cluster.env").read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_four_nodes_start_survive_a_kill_and_stop(quickstart):
    quickstart("--disk-size", "128MiB", "--volume-size", "64MiB", "--memory", "128MiB")
    env = variables(quickstart.directory)
    assert env["NODES"].split() == ["n1", "n2", "n3", "n4"]
    holdfast = [env["HOLDFAST"], "--socket", env["HOLDFAST_SOCKET_n2"]]
    wait_until(lambda: run([*holdfast, "node", "list"]).stdout.count(" up ") == 4, 20, "all nodes as n2 sees them")
    data = os.urandom(1 << 20)
    with open(f"{env['MOUNT_n1']}/{env['VOLUME']}", "r+b") as file:
        file.write(data)
        os.fsync(file.fileno())
    os.kill(int(env["BLOCKD_PID_n1"]), signal.SIGKILL)
    with open(f"{env['MOUNT_n3']}/{env['VOLUME']}", "rb") as file:
        assert file.read(1 << 20) == data
    quickstart()
    again = variables(quickstart.directory)
    assert again["BLOCKD_PID_n1"] != env["BLOCKD_PID_n1"] and again["BLOCKD_PID_n2"] == env["BLOCKD_PID_n2"]
    with open(f"{again['MOUNT_n1']}/{env['VOLUME']}", "rb") as file:
        assert file.read(1 << 20) == data
    quickstart("stop")
    assert not (quickstart.directory / "cluster.env").exists()
    assert not os.path.exists(f"/run/netns/{env['NETNS_n1']}")
