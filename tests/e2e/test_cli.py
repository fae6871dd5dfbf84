# SPDX-License-Identifier: Apache-2.0
"""The holdfast command: help, exit codes, JSON, and errors that say what to do."""

import os
import subprocess

import pytest
from hftest.node import BUILD, MIB, ROOT
from hftest.process import run


COMMANDS = [
    ("disk",),
    ("disk", "format"),
    ("disk", "add"),
    ("disk", "list"),
    ("pool", "create"),
    ("pool", "list"),
    ("volume", "create"),
    ("volume", "list"),
    ("volume", "info"),
    ("volume", "resize"),
    ("volume", "rename"),
    ("volume", "delete"),
    ("volume", "import"),
    ("volume", "export"),
    ("status",),
    ("top",),
]


@pytest.mark.parametrize("command", [()] + COMMANDS, ids=" ".join)
def test_help_of_each_command(command):
    done = run([BUILD / "cli/holdfast", *command, "--help"])
    assert "sage" in done.stdout and not done.stderr


def fails(node, *args):
    done = node.cli_run(*args)
    assert done.returncode != 0, done.stdout
    assert done.stderr.strip(), "a failure without a word"
    assert not done.stdout.strip() or done.stdout.lstrip().startswith("{"), done.stdout
    return done.stderr


def test_unknown_commands_and_options_are_usage_errors(shared_node):
    for args in (["frobnicate"], ["volume", "frobnicate"], ["volume", "list", "--frobnicate"], ["volume", "create"]):
        done = shared_node.cli_run(*args)
        assert done.returncode == 2 and done.stderr, args


def test_without_a_daemon_it_names_the_socket(scratch):
    done = subprocess.run(
        [BUILD / "cli/holdfast", "--socket", scratch / "none.sock", "status"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and "none.sock" in done.stderr


def test_every_command_speaks_json(node, scratch):
    assert node.json("status")["health"] == "ok"
    assert len(node.json("disk", "list")["disks"]) == 6
    assert [pool["name"] for pool in node.json("pool", "list")["pools"]] == ["main"]
    node.json("volume", "create", "a", "--size", "64MiB", "--pool", "main")
    assert node.json("volume", "info", "a")["size_bytes"] == 64 * MIB
    node.json("volume", "resize", "a", "128MiB") if "SIZE" in node.cli("volume", "resize", "--help").split("\n")[0] else node.json(
        "volume", "resize", "a", "--size", "128MiB"
    )
    assert node.json("volume", "info", "a")["size_bytes"] == 128 * MIB
    node.json("volume", "rename", "a", "b")
    listed = node.json("volume", "list")["volumes"]
    assert [(v["name"], v["size_bytes"], v["pool"]) for v in listed] == [("b", 128 * MIB, "main")]
    node.json("volume", "delete", "b")
    assert node.json("volume", "list")["volumes"] == []
    node.json("disk", "format", scratch / "extra", "--size", "64MiB")
    node.json("disk", "add", scratch / "extra")
    node.json("pool", "create", "mirror", "--code", "1+1")
    assert len(node.json("disk", "list")["disks"]) == 7


def test_errors_name_the_thing_and_the_way_out(node, scratch):
    assert "nopool" in fails(node, "volume", "create", "x", "--size", "64MiB", "--pool", "nopool")
    assert "novol" in fails(node, "volume", "info", "novol")
    assert "novol" in fails(node, "volume", "delete", "novol")
    node.cli("volume", "create", "x", "--size", "64MiB", "--pool", "main")
    assert "x" in fails(node, "volume", "create", "x", "--size", "64MiB", "--pool", "main")
    assert "lots" in fails(node, "volume", "create", "y", "--size", "lots", "--pool", "main")
    assert "0+9" in fails(node, "pool", "create", "odd", "--code", "0+9")
    assert "a/b" in fails(node, "volume", "create", "a/b", "--size", "64MiB", "--pool", "main")
    for size in ("0", "100", "1000", "2PiB", "8000PiB"):
        assert "a multiple of 512" in fails(node, "volume", "create", "y", "--size", size, "--pool", "main")
        assert "a multiple of 512" in fails(node, "volume", "resize", "x", size)
    assert "choose another name" in fails(node, "volume", "create", "x", "--size", "64MiB", "--pool", "main")
    assert "has that name already" in fails(node, "volume", "rename", "x", "x")
    assert "on 20 different disks; there are 6: add disks" in fails(node, "pool", "create", "odd", "--code", "16+4")
    assert "2 copies of a log on 2 different disks of class tape; there are 0" in fails(node, "pool", "create", "odd", "--code", "1+1", "--log-class", "tape")
    assert "--min-shards" in fails(node, "pool", "create", "odd", "--code", "2+1", "--min-shards", "7")
    empty = scratch / "unformatted"
    empty.write_bytes(bytes(64 * MIB))
    assert str(empty) in fails(node, "disk", "add", empty)
    assert str(scratch / "missing") in fails(node, "disk", "add", scratch / "missing")
    assert str(node.disk_path(0)) in fails(node, "disk", "format", node.disk_path(0), "--size", "64MiB")
    # A wrong command changes nothing.
    assert [v["name"] for v in node.volumes()] == ["x"]


def test_shrinking_is_refused(node):
    node.cli("volume", "create", "x", "--size", "64MiB", "--pool", "main")
    node.cli("volume", "resize", "x", "96MiB")
    assert "shrink" in fails(node, "volume", "resize", "x", "32MiB").lower()
    assert node.json("volume", "info", "x")["size_bytes"] == 96 * MIB


def test_import_and_export_round_trip(node, scratch):
    image = scratch / "image"
    with open(image, "wb") as f:
        f.truncate(48 * MIB)
        f.seek(5 * MIB)
        f.write(os.urandom(3 * MIB))
    node.cli("volume", "import", "img", image, "--pool", "main")
    assert node.json("volume", "info", "img")["size_bytes"] == 48 * MIB
    node.cli("volume", "export", "img", scratch / "back")
    run(["cmp", image, scratch / "back"])
    assert os.stat(scratch / "back").st_blocks * 512 < 10 * MIB, "the export is not sparse"
    assert str(scratch / "none") in fails(node, "volume", "import", "other", scratch / "none", "--pool", "main")
    assert "other" not in [v["name"] for v in node.volumes()]


def test_settings_survive_a_restart_and_a_kill(node):
    node.cli("volume", "create", "x", "--size", "64MiB", "--pool", "main")
    before = [node.json(*what) for what in (("pool", "list"), ("volume", "list"))]
    node.restart()
    node.kill9()
    node.start()
    after = [node.json(*what) for what in (("pool", "list"), ("volume", "list"))]
    assert [v["name"] for v in after[1]["volumes"]] == [v["name"] for v in before[1]["volumes"]]
    assert [p["name"] for p in after[0]["pools"]] == [p["name"] for p in before[0]["pools"]]
    assert len(node.disks()) == 6


def test_garbage_on_the_admin_socket_costs_only_its_connection(node):
    import socket

    rubbish = [b"\n", b"{\n", b"[]\n", b"null\n", b'{"id":1}\n', b'{"id":1,"method":5}\n', b'{"id":{},"method":"status"}\n']
    rubbish += [b'{"id":1,"method":"status","params":[]}\n', b'{"id":1,"method":"no.such"}\n', os.urandom(5000), b"a" * 3 * MIB]
    rubbish += [b'{"id":1,"method":"volume.create","params":{"name":7,"size_bytes":"x","pool":null}}\n', b"[" * 100000 + b"\n"]
    rubbish += [b'{"id":1,"method":"volume.create","params":{"name":"x","size_bytes":-1,"pool":"main"}}\n', b"\xff\xfe\n"]
    for data in rubbish:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(node.admin_socket))
            s.settimeout(60)
            try:
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
                while s.recv(65536):
                    pass
            except (ConnectionError, BrokenPipeError):
                pass
    assert node.alive() and node.json("status")["health"] == "ok"
    assert node.volumes() == []


def test_two_daemons_on_one_state_are_refused(node):
    done = run([BUILD / "blockd/holdfast-blockd", "--config", node.config_file], check=False, timeout_s=20)
    assert done.returncode != 0 and done.stderr.strip()
    assert node.json("status")["health"] == "ok"


def test_bash_completion_is_there():
    found = [path for path in (ROOT / "cli").rglob("*") if "completion" in path.name or "bash" in path.name]
    assert found
