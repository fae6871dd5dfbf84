# SPDX-License-Identifier: Apache-2.0
"""A private libvirt and guests on NBD volumes."""

import os
import re
import signal
from pathlib import Path

from .process import run, wait_until

LIB = Path(__file__).resolve().parents[1]

DOMAIN = """<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>
  <features><acpi/></features>
  <on_reboot>destroy</on_reboot>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw' cache='none' discard='unmap' detect_zeroes='off' error_policy='stop' rerror_policy='stop'/>
      <source protocol='nbd' name='{volume}'><host transport='unix' socket='{socket}'/></source>
      <target dev='vda' bus='virtio'/>
      <serial>{volume}</serial>
    </disk>
    <serial type='file'><source path='{console}' append='on'/></serial>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""


class Libvirt:
    def __init__(self, directory):
        self.dir = Path(directory)
        run([LIB / "private-libvirt", "start", self.dir])
        self.uri = run([LIB / "private-libvirt", "uri", self.dir]).stdout.strip()

    def virsh(self, *args, check=True):
        return run(["virsh", "-q", "-c", self.uri, *args], check=check).stdout.strip()

    def close(self):
        run([LIB / "private-libvirt", "stop", self.dir], check=False)


class Vm:
    """A transient guest that boots from a volume, its console appended to a file."""

    def __init__(self, libvirt, name, socket, volume, console, memory_mib=96):
        self.libvirt, self.name, self.console = libvirt, name, Path(console)
        self.xml = self.console.with_suffix(".xml")
        self.xml.write_text(
            DOMAIN.format(name=name, memory_mib=memory_mib, volume=volume, socket=socket, console=self.console)
        )

    def start(self):
        """Creates the guest; console output of this boot begins at the returned offset."""
        offset = self.console.stat().st_size if self.console.exists() else 0
        self.libvirt.virsh("create", self.xml)
        return offset

    def pid(self):
        """QEMU's pid as seen from outside libvirt's pid namespace."""
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                try:
                    command = Path(entry.path, "cmdline").read_bytes()
                except OSError:
                    continue
                if f"guest={self.name},".encode() in command:
                    return int(entry.name)
        return None

    def kill9(self):
        os.kill(self.pid(), signal.SIGKILL)
        wait_until(lambda: not self.pid(), 10, "QEMU to be gone")
        wait_until(lambda: self.state() is None, 20, "libvirt to notice")

    def state(self):
        """What virsh domstate says, or None where there is no such guest."""
        return self.libvirt.virsh("domstate", self.name, check=False) or None

    def destroy(self):
        self.libvirt.virsh("destroy", self.name, check=False)

    def output(self, offset=0):
        data = self.console.read_bytes() if self.console.exists() else b""
        return data[offset:].decode(errors="replace").replace("\r", "")

    def wait_for(self, pattern, offset=0, timeout_s=60):
        """Waits for a regular expression on the console (from `offset`) and returns the match."""
        regex = re.compile(pattern, re.MULTILINE)

        def found():
            text = self.output(offset)
            trouble = re.search(r"^(VMCOUNTER (ERROR|HOLE)|VMINIT ERROR).*|.*(I/O error|Kernel panic|EXT4-fs error).*", text, re.MULTILINE)
            if trouble:
                raise AssertionError(f"the guest says: {trouble.group(0)}")
            return regex.search(text)

        try:
            return wait_until(found, timeout_s, f"{pattern!r} on the console", interval_s=0.1)
        except TimeoutError as error:
            raise AssertionError(f"{error}; state {self.state()}, console ends:\n{self.output(offset)[-1500:]}") from error

    def acks(self, offset=0):
        return [int(number) for number in re.findall(r"^ACK (\d+)$", self.output(offset), re.MULTILINE)]
