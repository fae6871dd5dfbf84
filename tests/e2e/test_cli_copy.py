# SPDX-License-Identifier: Apache-2.0
"""holdfast volume import and export: what is moved, what is refused, what a failure leaves; and the command's terminal side."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import threading
import time

import pytest
from hftest.node import BUILD, MIB, ROOT
from hftest.process import run, wait_until


CLI = BUILD / "cli/holdfast"


@pytest.fixture
def node(shared_node):
    """One node for all tests here, empty for each."""
    yield shared_node
    for name in names(shared_node):
        shared_node.cli("volume", "delete", name, "--force")


def environment(node):
    return {**os.environ, "HOLDFAST_SOCKET": str(node.admin_socket)}


def names(node):
    return [volume["name"] for volume in node.volumes()]


def sparse_image(path, size=32 * MIB + 777):
    """Data at odd places: at the start, across blocks, a single byte at the end."""
    with open(path, "wb") as f:
        f.truncate(size)
        f.write(os.urandom(5000))
        f.seek(9 * MIB + 100)
        f.write(os.urandom(2 * MIB))
        f.seek(20 * MIB)
        f.write(os.urandom(4096) + bytes(8192) + os.urandom(100) + bytes(MIB))
        f.seek(size - 1)
        f.write(b"x")
    return path


def export(node, volume):
    return subprocess.run([CLI, "volume", "export", volume, "-"], env=environment(node), stdout=subprocess.PIPE, check=True).stdout


def dirty_volume(node, name, size_mib):
    node.volume(name, size_mib)
    run(["qemu-io", "-f", "raw", "-c", f"write -P 0xaa 0 {size_mib}M", node.uri(name)])


def test_import_replaces_all_that_was_there(node, scratch):
    image = sparse_image(scratch / "image")
    dirty_volume(node, "v", 48)
    for connections in (1, 4):
        node.cli("volume", "import", "v", image, "--connections", connections)
        data = export(node, "v")
        assert data == image.read_bytes() + bytes(48 * MIB - image.stat().st_size)


def test_import_moves_no_zeros(node, scratch):
    (scratch / "zeros").write_bytes(bytes(64 * MIB))  # no holes, but nothing in it
    done = node.json("volume", "import", "z", scratch / "zeros", "--create")
    assert done["data_bytes"] == 0 and done["bytes"] == 64 * MIB
    assert node.json("volume", "info", "z")["allocated_bytes"] == 0
    image = sparse_image(scratch / "image")
    done = node.json("volume", "import", "s", image, "--create", "--pool", "main", "--size", "40MiB")
    assert 2 * MIB < done["data_bytes"] < 3 * MIB
    assert node.json("volume", "info", "s")["size_bytes"] == 40 * MIB


def test_pipes_both_ways(node, scratch):
    image = sparse_image(scratch / "image")
    dirty_volume(node, "v", 33)
    with open(image, "rb") as f:
        cat = subprocess.Popen(["cat"], stdin=f, stdout=subprocess.PIPE)
        subprocess.run([CLI, "volume", "import", "v", "-"], env=environment(node), stdin=cat.stdout, check=True, capture_output=True)
        cat.wait()
    assert export(node, "v") == image.read_bytes() + bytes(33 * MIB - image.stat().st_size)
    # More than fits is an error that says what is there now.
    done = subprocess.run(
        [CLI, "volume", "import", "v", "-"], env=environment(node), input=b"y" * (34 * MIB), capture_output=True, check=False
    )
    assert done.returncode == 1 and str(33 * MIB).encode() in done.stderr and b"now has the first" in done.stderr
    before = export(node, "v")
    done = subprocess.run([CLI, "volume", "import", "v", "-"], env=environment(node), input=b"", capture_output=True, check=False)
    assert done.returncode == 1 and b"empty" in done.stderr and export(node, "v") == before
    # A reader that goes away is told, not fatal.
    head = subprocess.run(
        f"{CLI} volume export v - | head -c 1000 | wc -c", shell=True, env=environment(node), capture_output=True, text=True, check=True
    )
    assert head.stdout.strip() == "1000" and "Broken pipe" in head.stderr


def test_refusals_change_nothing(node, scratch):
    image = sparse_image(scratch / "image")
    dirty_volume(node, "small", 16)
    before = export(node, "small")

    def refused(*args, code=1):
        done = node.cli_run("volume", *args)
        assert done.returncode == code and not done.stdout, done
        return done.stderr

    text = refused("import", "small", image)
    assert str(image.stat().st_size) in text and str(16 * MIB) in text and "resize" in text
    assert str(scratch / "none") in refused("import", "small", scratch / "none")
    turned = subprocess.run([CLI, "volume", "import", "image", "small"], cwd=scratch, capture_output=True, text=True, check=False)
    assert turned.returncode == 1 and "volume import small image" in turned.stderr
    assert "directory" in refused("import", "small", scratch)
    assert "--size" in refused("import", "new", image, "--create", "--size", "1MiB")
    assert "--create" in refused("import", "small", image, "--size", "64MiB", code=2)
    assert "small" in refused("import", "small", image, "--create")
    run(["qemu-img", "create", "-q", "-f", "qcow2", scratch / "q", "1M"])
    assert "qcow2" in refused("import", "small", scratch / "q")
    assert "nobody" in refused("import", "nobody", image)
    assert "nobody" in refused("export", "nobody", scratch / "out") and not (scratch / "out").exists()
    assert "--force" in refused("export", "small", image)
    assert "nopool" in refused("import", "new", image, "--pool", "nopool")
    refused("import", "small", image, "--connections", "0", code=2)
    assert names(node) == ["small"] and export(node, "small") == before


def test_a_volume_in_use_is_not_overwritten(node, scratch):
    image = sparse_image(scratch / "image")
    node.volume("v", 64)
    holder = subprocess.Popen(
        ["qemu-io", "-f", "raw", node.uri("v")], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: node.json("volume", "info", "v").get("connections", 0) > 0, 10, "qemu-io")
        done = node.cli_run("volume", "import", "v", image)
        assert done.returncode == 1 and "in use" in done.stderr and "--force" in done.stderr
        node.cli("volume", "import", "v", image, "--force")
        done = node.cli_run("volume", "export", "v", scratch / "out")
        assert done.returncode == 0 and "in use" in done.stderr
    finally:
        holder.communicate(b"quit\n")


@pytest.mark.parametrize("what", ["interrupt", "kill"])
def test_a_failed_import_says_what_there_is(node, scratch, what):
    fifo = scratch / "fifo"
    os.mkfifo(fifo)
    dirty_volume(node, "v", 64)
    importer = subprocess.Popen([CLI, "volume", "import", "v", fifo], env=environment(node), stderr=subprocess.PIPE, text=True)
    with open(fifo, "wb") as f:
        data = os.urandom(8 * MIB)
        f.write(data)
        f.flush()
        time.sleep(0.5)
        if what == "interrupt":
            importer.send_signal(signal.SIGINT)
        else:
            node.kill9()
            try:
                f.write(bytes(40 * MIB) + os.urandom(8 * MIB))
            except BrokenPipeError:
                pass
    error = importer.communicate(timeout=300)[1]
    assert importer.returncode == 1 and "'v'" in error, error
    if what == "kill":
        node.start()
    told = int(re.search(r"now has the first (\d+) bytes", error)[1])
    assert export(node, "v")[:told] == (data + bytes(56 * MIB))[:told]


def test_a_volume_made_for_a_failed_import_goes_again(node, scratch):
    importer = subprocess.Popen(
        [CLI, "volume", "import", "v", "-", "--create", "--size", "64MiB"],
        env=environment(node),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: names(node) == ["v"] and node.json("volume", "info", "v").get("connections", 0) > 0, 10, "the volume")
    time.sleep(0.5)  # it waits for its standard input then
    importer.send_signal(signal.SIGTERM)
    assert "deleted again" in importer.communicate(timeout=300)[1] and importer.returncode == 1
    assert names(node) == []


def test_a_failed_export_leaves_no_file(node, scratch):
    dirty_volume(node, "v", 64)
    limited = f"ulimit -f 10240; trap '' XFSZ; exec {CLI} volume export v {scratch}/out"
    done = subprocess.run(["bash", "-c", limited], env=environment(node), capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"{scratch}/out" in done.stderr
    assert not (scratch / "out").exists()


# The terminal


@contextlib.contextmanager
def halting(node):
    """blockd stands still most of the time."""
    pid, ended = node.process.pid, threading.Event()

    def halt():
        while not ended.is_set():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.2)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.01)

    thread = threading.Thread(target=halt)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def on_terminal(node, *args, answer=b""):
    """Runs the command on a terminal of its own and returns its exit code and all it showed."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(CLI, ["holdfast", *[str(arg) for arg in args]], environment(node))
    os.write(fd, answer)
    shown = b""
    while True:
        try:
            data = os.read(fd, 65536)
        except OSError:
            break
        if not data:
            break
        shown += data
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


def test_delete_asks_on_a_terminal(node):
    node.volume("v", 64)
    code, shown = on_terminal(node, "volume", "delete", "v", answer=b"n\n")
    assert code == 1 and "64 MiB" in shown and "[y/N]" in shown and names(node) == ["v"]
    code, shown = on_terminal(node, "volume", "delete", "v", answer=b"y\n")
    assert code == 0 and names(node) == []
    node.volume("v", 64)
    code, shown = on_terminal(node, "volume", "delete", "v", "--yes")
    assert code == 0 and "[y/N]" not in shown


def test_progress_is_shown_on_a_terminal_only(node, scratch):
    image = scratch / "image"
    image.write_bytes(os.urandom(160 * MIB))
    node.volume("v", 160)
    with halting(node):  # a machine may be too fast for anything to show
        code, shown = on_terminal(node, "volume", "import", "v", image)
    assert code == 0, shown
    assert re.search(r"v: .*%  \d.* of 160 MiB  .*/s  ETA", shown), shown
    done = node.cli_run("volume", "export", "v", scratch / "back")
    assert done.returncode == 0 and not done.stderr and "\r" not in done.stdout
    run(["cmp", image, scratch / "back"])


def test_top_shows_the_load(node):
    uri = node.volume("v", 64)
    load = subprocess.Popen(["qemu-img", "bench", "-f", "raw", "-w", "-c", "200000", "-d", "8", uri], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: [1 for volume in node.json("top")["volumes"] if volume["writes"] > 0], 10, "the first write")
        rows = node.cli("top", "--once", "--interval", "1s").splitlines()
        row = next(row.split() for row in rows if row.startswith("v "))
        assert rows[0].startswith("VOLUME") and float(row[5]) > 3 and row[7].endswith("s")
    finally:
        load.kill()
        load.wait()


# Completion, man page


def complete(node, line):
    """What bash would offer for the last word of the line."""
    script = f"""
        source {ROOT}/cli/holdfast.bash-completion
        COMP_LINE={line!r} COMP_POINT={len(line)}
        read -ra COMP_WORDS <<< "$COMP_LINE"
        [[ $COMP_LINE == *' ' ]] && COMP_WORDS+=('')
        COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _holdfast
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    env = {**environment(node), "PATH": f"{CLI.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)
    assert not done.stderr, done.stderr
    return sorted(done.stdout.split())


def test_bash_completion(node):
    node.volume("vm1", 64)
    node.volume("vm2", 64)
    assert complete(node, "holdfast ") == ["cluster", "disk", "node", "pool", "status", "top", "version", "volume"]
    assert complete(node, "holdfast vo") == ["volume"]
    assert complete(node, "holdfast disk ") == ["add", "format", "list", "remove", "scrub"]
    assert complete(node, "holdfast volume info ") == ["vm1", "vm2"]
    assert complete(node, "holdfast --json volume resize vm") == ["vm1", "vm2"]
    assert complete(node, f"holdfast --socket {node.admin_socket} volume delete ") == ["vm1", "vm2"]
    assert complete(node, "holdfast volume resize vm1 ") == []
    assert complete(node, "holdfast volume create x --po") == ["--pool"]
    assert complete(node, "holdfast volume create x --pool ") == ["main"]
    assert complete(node, "holdfast volume create x --size 1G --") == ["--help", "--json", "--pool", "--size", "--socket", "--version"]
    assert complete(node, "holdfast pool delete ") == ["main"]
    assert complete(node, f"holdfast disk add {node.dir}/disk") == [str(node.disk_path(n)) for n in range(6)]
    assert complete(node, "holdfast --socket /none volume info ") == []


def test_the_man_page_has_every_command_and_option():
    page = (ROOT / "docs/man/holdfast.8.scd").read_text()
    overview = run([CLI, "--help"]).stdout.split("Commands:\n")[1].split("\n\n")[0]
    commands = [re.match(r"  ([a-z]+(?: [a-z]+)?) ", line)[1] for line in overview.splitlines()]
    assert len(commands) > 15
    for command in commands:
        assert f"*{command}*" in page, command
        for option in re.findall(r"^  (--[a-z-]+)", run([CLI, *command.split(), "--help"]).stdout, re.M):
            assert f"*{option}*" in page, (command, option)


def test_json_is_of_the_daemon_and_errors_are_on_stderr(shared_node):
    status = shared_node.json("status")
    assert status["version"] == shared_node.json("version")["daemon"]
    done = shared_node.cli_run("volume", "info", "none", "--json")
    assert done.returncode == 1 and not done.stdout
    assert json.loads(shared_node.cli("--json", "pool", "list"))["pools"][0]["code"] == "4+2"


def test_exit_codes(shared_node, scratch):
    def code(*args, **env):
        return subprocess.run([CLI, *args], env={**environment(shared_node), **env}, capture_output=True, check=False).returncode

    assert code("status") == 0
    assert code("volume", "info", "none") == 1
    assert code("volume", "frobnicate") == code() == code("volume") == code("volume", "resize", "v", "many") == 2
    assert code("top", "--interval", "1ms") == 2
    assert code("status", HOLDFAST_SOCKET=str(scratch / "none")) == 3
    assert code("volume", "export", "v", scratch / "x", HOLDFAST_SOCKET=str(scratch / "none")) == 3
    full = subprocess.run(f"{CLI} status > /dev/full", shell=True, env=environment(shared_node), capture_output=True, check=False)
    assert full.returncode == 1 and full.stderr
