# SPDX-License-Identifier: Apache-2.0
"""A cluster on one machine: each node in a network namespace of its own on one bridge, etcd in others.

Unix sockets are files, so clients outside the namespaces use a node's NBD and admin sockets as they are. Links are cut without
a reset: the bridge's end of a pair leaves the bridge.
"""

import ipaddress
import json
import os
import signal
import socket
import time

from .guardian import Guardian, Scratch, remove_network
from .node import Node
from .process import run, spawn, tail, wait_until

PORT = 7700
ETCD_CLIENT, ETCD_PEER = 2379, 2380


def ip(*words, check=True):
    return run(["ip", *words], timeout_s=20, check=check)


class Network:
    """A bridge and the namespaces on it; 10.X.Y.0/24 with X and Y of this process, so that many run side by side."""

    def __init__(self):
        for attempt in range(100):
            number = (os.getpid() * 7 + attempt * 131) % 16384
            self.tag = f"hf{number:x}"
            self.net = ipaddress.ip_network(f"10.{192 + number // 256}.{number % 256}.0/24")
            if ip("link", "add", f"{self.tag}br", "type", "bridge", check=False).returncode == 0:
                break
        else:
            raise AssertionError("no bridge can be made: these tests need root and CAP_NET_ADMIN")
        self.number = Guardian.told("remove_network", self.tag)
        ip("link", "set", f"{self.tag}br", "up")
        self.names = []

    def add(self, name):
        """A namespace with a link to the bridge; returns its address."""
        namespace, outer = self.namespace(name), self.outer(name)
        address = str(self.net[len(self.names) + 1])
        self.names.append(name)
        ip("netns", "add", namespace)
        ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        ip("link", "set", outer, "master", f"{self.tag}br", "up")
        ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", namespace, "link", "set", "lo", "up")
        ip("-n", namespace, "link", "set", "eth0", "up")
        return address

    def port(self, wanted):
        return wanted

    def namespace(self, name):
        return f"{self.tag}-{name}"

    def outer(self, name):
        return f"{self.tag}{name}"

    def enter(self, name):
        """The words before a command that is to run in the namespace."""
        return ["ip", "netns", "exec", self.namespace(name)]

    def cut(self, name):
        """Nothing goes to or from the node any more, and nobody is told."""
        ip("link", "set", self.outer(name), "nomaster")

    def heal(self, name):
        ip("link", "set", self.outer(name), "master", f"{self.tag}br")

    def close(self):
        remove_network(self.tag)
        Guardian.done(self.number)


class Loopback:
    """The same without namespaces: everybody on 127.0.0.1, ports from the kernel. Links cannot be cut.

    A port stays bound here, without listening: so nobody else is given it while the one whom it is for is not up, and who asks for it by
    its number, with SO_REUSEADDR as servers do, gets it."""

    def __init__(self):
        self.held = []

    def add(self, name):
        return "127.0.0.1"

    def enter(self, name):
        return []

    def port(self, wanted):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        self.held.append(sock)
        return sock.getsockname()[1]

    def close(self):
        for sock in self.held:
            sock.close()


class Etcd:
    """`count` members, each in its namespace, to be started with start_all(). Subclasses say how it is secured."""

    scheme = "http"

    def __init__(self, network, base, count=1):
        self.network, self.base = network, base
        names = [f"e{i}" for i in range(1, count + 1)]
        self.clients, self.peers = {}, {}
        for name in names:
            address = network.add(name)
            self.clients[name] = f"{self.scheme}://{address}:{network.port(ETCD_CLIENT)}"
            self.peers[name] = f"{self.scheme}://{address}:{network.port(ETCD_PEER)}"
            self.prepare(name, address)
        self.processes = {}

    def start_all(self):
        for name in self.clients:
            self.start(name)
        wait_until(lambda: self.healthy("e1"), 30, "etcd")

    def prepare(self, name, address):
        pass

    def server_options(self, name):
        return []

    def client_options(self):
        return []

    def store_config(self):
        """What [store] of blockd.conf needs besides the endpoints."""
        return {}

    @property
    def endpoints(self):
        return ", ".join(self.clients.values())

    def log(self, name):
        return self.base / f"{name}.log"

    def start(self, name):
        initial = ",".join(f"{member}={url}" for member, url in self.peers.items())
        self.processes[name] = spawn(
            [
                *self.network.enter(name),
                "etcd",
                f"--name={name}",
                f"--data-dir={self.base / name}",
                f"--listen-client-urls={self.clients[name]}",
                f"--advertise-client-urls={self.clients[name]}",
                f"--listen-peer-urls={self.peers[name]}",
                f"--initial-advertise-peer-urls={self.peers[name]}",
                f"--initial-cluster={initial}",
                "--logger=zap",
                "--log-level=warn",
                "--unsafe-no-fsync",  # processes die here, machines do not, and the disk is everybody's
                *self.server_options(name),
            ],
            self.log(name),
        )

    def ctl(self, name, *words, check=False):
        return run(
            # What must succeed may take its time; who asks again and again has his answer soon.
            [*self.network.enter(name), "etcdctl", f"--endpoints={self.clients[name]}", *(["--command-timeout=60s"] if check else []), *self.client_options(), *words],
            timeout_s=20,
            check=check,
            env={**os.environ, "ETCDCTL_API": "3"},
        )

    def healthy(self, name):
        return self.ctl(name, "endpoint", "health").returncode == 0

    def leader(self):
        for name, process in self.processes.items():
            if process.poll() is None:
                done = self.ctl(name, "endpoint", "status", "-w", "json")
                if done.returncode == 0:
                    status = json.loads(done.stdout)[0]["Status"]
                    if status["leader"] == status["header"]["member_id"]:
                        return name
        return None

    def kill9(self, name):
        self.processes[name].kill()
        self.processes[name].wait()

    def signal_all(self, number):
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(number)

    def close(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()


class ClusterNode(Node):
    """A node whose blockd runs in its namespace and uses the cluster's etcd."""

    def __init__(self, cluster, name, disks, disk_mib, config=None, env=None):
        super().__init__(base=cluster.dir, disks=disks, disk_mib=disk_mib, code=None, pool=cluster.pool, config=config, env=env)
        self.cluster, self.name = cluster, name
        self.address = f"tcp:{cluster.network.add(name)}:{cluster.network.port(PORT)}"
        self.prefix = cluster.network.enter(name)

    def write_config(self):
        self.config = {
            **self.config,
            "node": {"name": self.name, **self.config.get("node", {})},
            "store": {"type": "etcd", "endpoints": self.cluster.etcd.endpoints, "path": None, **self.cluster.etcd.store_config(), **self.config.get("store", {})},
            "cluster": {
                "address": self.address,
                "session_ttl": self.cluster.session_ttl,
                **self.config.get("cluster", {}),
            },
        }
        super().write_config()

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def owner_of(self, volume):
        return self.json("volume", "info", volume)["owner"]


class Cluster:
    """Starts etcd and nodes n1..nN with their disks and one pool. Use as a context manager, or call close()."""

    def __init__(self, nodes=3, disks=2, disk_mib=256, code="1+2", domain="node", etcd=1, session_ttl="3s", config=None, env=None, base=None, loopback=False, etcd_class=Etcd):
        self.scratch = Scratch("hfc.", base)
        self.dir = self.scratch.path
        self.loopback = loopback
        self.pool, self.code, self.domain, self.session_ttl = "main", code, domain, session_ttl
        self.network, self.etcd, self.nodes = None, None, {}
        self.options = {"disks": disks, "disk_mib": disk_mib, "config": config, "env": env}
        self.count, self.etcd_count, self.etcd_class = nodes, etcd, etcd_class

    def create(self):
        self.network = Loopback() if self.loopback else Network()
        self.etcd = self.etcd_class(self.network, self.dir, self.etcd_count)
        self.etcd.start_all()
        for number in range(1, self.count + 1):
            self.add_node(f"n{number}")
        first = self.nodes["n1"]
        wait_until(lambda: len(self.up_disks(first)) == self.count * self.options["disks"], 30, "all disks")
        first.cli("pool", "create", self.pool, "--code", self.code, "--domain", self.domain)
        return self

    def add_node(self, name):
        node = ClusterNode(self, name, **self.options)
        self.nodes[name] = node
        node.write_config()
        (node.dir / "state").mkdir(exist_ok=True)
        node.start_process()
        wait_until(lambda: node.cli_run("status").returncode == 0, 30, f"{name}'s admin socket:\n{tail(node.log)}")
        node.cli("cluster", "init" if len(self.nodes) == 1 else "join")
        node.wait_ready()
        for number in range(node.disk_count):
            node.add_disk(number)
        return node

    def up_disks(self, node):
        return [disk for disk in node.disks() if disk["state"] == "in"]

    def __getattr__(self, name):
        nodes = self.__dict__.get("nodes", {})
        if name in nodes:
            return nodes[name]
        raise AttributeError(name)

    def close(self, keep=False):
        for node in self.nodes.values():
            if node.process and node.process.poll() is None:
                node.process.send_signal(signal.SIGCONT)
            node.close(keep=True)
        if self.etcd:
            self.etcd.close()
        if self.network:
            self.network.close()
        if not keep:
            self.scratch.remove()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def sleep_until(moment):
    time.sleep(max(0, moment - time.monotonic()))
