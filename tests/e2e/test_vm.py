# SPDX-License-Identifier: Apache-2.0
"""A guest boots from a volume through libvirt and loses no fsynced line to any crash."""

import re

from hftest.process import run
from hftest.vm import Vm

ROOT_OFFSET_MIB = 41  # the image's second partition, see tests/lib/vmimage
POWER_CUT = {"HOLDFAST_TEST_POWER_CUT": "1"}


def import_image(node, image, volume="vm"):
    uri = node.volume(volume, 192)
    run(["nbdcopy", "--flush", image, uri])
    return uri


def counter_in_volume(uri, scratch):
    """Takes the volume out, checks its root file system and returns the numbers in /counter."""
    image, root = scratch / "out.img", scratch / "root.img"
    run(["nbdcopy", uri, image])
    run(["dd", f"if={image}", f"of={root}", "bs=1M", f"skip={ROOT_OFFSET_MIB}", "conv=sparse"])
    # e2fsck replays the journal (exit code 1: it corrected something, which a second pass must not find again).
    first = run(["e2fsck", "-f", "-p", root], check=False)
    assert first.returncode in (0, 1), first.stdout + first.stderr
    run(["e2fsck", "-f", "-n", root])
    lines = run(["debugfs", "-R", "cat /counter", root]).stdout.splitlines()
    return [int(line.split()[0]) for line in lines if re.match(r"\d+ \d+\.\d{9}$", line)]


def crash_and_verify(node, libvirt, image, scratch, crashes, env=None):
    uri = import_image(node, image)
    if env:
        node.restart(env)
    vm = Vm(libvirt, f"vm-{node.dir.name}", node.nbd_socket, "vm", node.dir / "console.log")
    acked = 0
    try:
        for crash in range(crashes):
            offset = vm.start()
            last = int(vm.wait_for(r"^VMCOUNTER START last=(\d+)$", offset).group(1))
            assert last >= acked, f"the console acked {acked}, the file ends at {last}"
            vm.wait_for(rf"^ACK {last + 60 + 40 * crash}$", offset)
            # Together: blockd first in one round, the guest first in the next.
            first, second = (node, vm) if crash % 2 else (vm, node)
            first.kill9()
            second.kill9()
            acked = vm.acks()[-1]
            node.start(env)
        numbers = counter_in_volume(uri, scratch)
        assert numbers == list(range(1, len(numbers) + 1)), "holes in /counter"
        assert len(numbers) >= acked, f"the console acked {acked}, the file ends at {len(numbers)}"
    finally:
        vm.destroy()


def test_guest_killed_with_blockd_keeps_every_fsynced_line(node, libvirt, vm_image, scratch):
    crash_and_verify(node, libvirt, vm_image, scratch, crashes=2)


def test_guest_and_power_cut_keeps_every_fsynced_line(node, libvirt, vm_image, scratch):
    crash_and_verify(node, libvirt, vm_image, scratch, crashes=2, env=POWER_CUT)


def test_guest_goes_on_when_blockd_is_killed_under_it(node, libvirt, vm_image, scratch):
    """error_policy=stop pauses the guest; resumed after the restart (a few tries while QEMU reconnects) it lost nothing."""
    uri = import_image(node, vm_image)
    vm = Vm(libvirt, f"vm-{node.dir.name}", node.nbd_socket, "vm", node.dir / "console.log")
    try:
        vm.start()
        vm.wait_for(r"^ACK 50$")
        node.kill9()
        from hftest.process import wait_until

        wait_until(lambda: vm.state() == "paused", 30, "the guest to be paused")
        acked = vm.acks()[-1]
        node.start()

        def runs_on():
            libvirt.virsh("resume", vm.name, check=False)
            return vm.acks()[-1] > acked + 5

        wait_until(runs_on, 60, "the guest to run on", interval_s=0.7)
        vm.kill9()
        acked = vm.acks()[-1]
        numbers = counter_in_volume(uri, scratch)
        assert numbers == list(range(1, len(numbers) + 1)), "holes in /counter"
        assert len(numbers) >= acked
    finally:
        vm.destroy()
