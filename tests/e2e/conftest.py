# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the end-to-end tests: real daemons, real clients, real files.

Everything a test starts lives in a directory under /var/tmp (HOLDFAST_TEST_DIR) and dies with it; on a failure the end of
blockd's log is part of the report, and HOLDFAST_TEST_KEEP=1 keeps the directory.
"""

import os
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from hftest.guardian import Guardian, Scratch  # noqa: E402
from hftest.node import FuseMount, Node  # noqa: E402
from hftest.process import private_mounts, run, tail  # noqa: E402
from hftest.vm import LIB, Libvirt  # noqa: E402

private_mounts()
LONG = os.environ.get("HOLDFAST_TEST_LONG") == "1"
TEST_LIMIT_S = 3600 if LONG else int(os.environ.get("HOLDFAST_TEST_LIMIT_S", "900"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.when == "call" and report.failed:
        if getattr(item, "holdfast_hung", False):
            report.sections.append(("hung", f"for {TEST_LIMIT_S} s; what its fibers waited for is in blockd's log"))
        for node in getattr(item, "holdfast_nodes", []):
            report.sections.append((f"blockd log of {node.dir}", tail(node.log, 150)))


def end_of_a_hang(item, nodes):
    """What a test hangs on is in C, out of reach of a signal handler: so the daemons go, which ends their clients' waits."""
    item.holdfast_hung = True
    for node in nodes:
        node.dump_fibers()
        if node.alive():
            node.process.kill()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    nodes = getattr(item, "holdfast_nodes", None)
    if nodes is None:
        nodes = item.holdfast_nodes = []
    watchdog = threading.Timer(TEST_LIMIT_S, end_of_a_hang, (item, nodes))
    watchdog.daemon = True
    watchdog.start()
    yield
    watchdog.cancel()


@pytest.fixture
def make_node(request):
    """Makes nodes with options of the test's own; see hftest.node.Node."""
    nodes = request.node.holdfast_nodes = getattr(request.node, "holdfast_nodes", [])

    def make(**options):
        node = Node(**options)
        nodes.append(node)
        return node.create()

    yield make
    for node in nodes:
        node.close(keep=os.environ.get("HOLDFAST_TEST_KEEP") == "1")


@pytest.fixture
def node(make_node):
    """A fresh node with six disks and a 4+2 pool."""
    return make_node()


@pytest.fixture(scope="module")
def shared_node(request):
    """One node for the tests of a module that only read and write volumes of their own."""
    node = Node()
    try:
        yield node.create()
    finally:
        node.close(keep=os.environ.get("HOLDFAST_TEST_KEEP") == "1")


@pytest.fixture
def fuse(node):
    return FuseMount(node)


@pytest.fixture
def scratch():
    """A directory on a real file system."""
    directory = Scratch("hfs.")
    yield directory.path
    directory.remove()


@pytest.fixture(scope="session")
def vm_image():
    """A bootable image that counts with fsync; built once a session (a second or two once the kernel is cached)."""
    directory = Scratch("hfi.")
    try:
        run([LIB / "vmimage", directory.path / "vm.img"], timeout_s=300)
        yield directory.path / "vm.img"
    finally:
        directory.remove()


@pytest.fixture(scope="session")
def libvirt():
    directory = Scratch("hfl.")
    number = Guardian.told("run", LIB / "private-libvirt", "stop", directory.path)
    try:
        instance = Libvirt(directory.path)
        yield instance
        instance.close()
    finally:
        Guardian.done(number)
        directory.remove()
