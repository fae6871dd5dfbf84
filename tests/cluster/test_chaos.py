# SPDX-License-Identifier: Apache-2.0
"""Everything at random, several things at once, for as long as one likes: what the simulation does, on real processes and a real network.

HOLDFAST_TEST_SEED repeats the order of what is done (not its timing)."""

import os
import random
import signal
import time

import pytest
from conftest import LONG
from hftest.load import Load
from hftest.process import wait_until
from test_failover import TTL_S, settle

# Clients are at n1 and n2: these two are paused and cut off, but not killed.
CLIENTS, OTHERS = ("n1", "n2"), ("n3", "n4", "n5")


class Chaos:
    """Begins and ends disturbances; a node has one at a time, not more than two are disturbed, and etcd keeps a majority or none."""

    def __init__(self, cluster, rng):
        self.cluster, self.random = cluster, rng
        self.ends = {}  # victim -> (when, how)
        self.counts = {}

    def begin(self, victim, kind, end, seconds):
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.ends[victim] = (time.monotonic() + seconds, end)

    def end_due(self, all_of_them=False):
        for victim, (when, end) in list(self.ends.items()):
            if all_of_them or time.monotonic() >= when:
                del self.ends[victim]
                end()

    def end_all(self):
        self.end_due(all_of_them=True)
        return not self.ends

    def start_again(self, node):
        """After a clean stop, which may take as long as etcd is away."""
        if node.process.poll() is None:
            self.ends[node.name] = (time.monotonic() + 0.2, lambda: self.start_again(node))
        else:
            # -SIGTERM: it was killed and started just before, and had no handler yet.
            assert node.process.returncode in (0, -signal.SIGTERM), f"{node.name} ended with {node.process.returncode} on SIGTERM"
            node.process = None
            node.start_process()

    def disturb(self):
        cluster, rng = self.cluster, self.random
        victim = rng.choice([*CLIENTS, *OTHERS, "etcd", "volume"])
        if victim in self.ends or len(self.ends) >= 2:
            return
        seconds = rng.uniform(0.2, 2.5 * TTL_S)
        if victim == "volume":
            # It may fail, or be late; it is a wish.
            to, asked = rng.choice([*CLIENTS, *OTHERS]), rng.choice(CLIENTS)
            if to not in self.ends and asked not in self.ends:
                cluster.nodes[asked].cli_run("volume", "move", "v", "--to", to, timeout_s=60)
                self.counts["move"] = self.counts.get("move", 0) + 1
            return
        if victim == "etcd":
            member = rng.choice(list(cluster.etcd.processes))
            if rng.random() < 0.5:
                cluster.etcd.kill9(member)
                self.begin(victim, "etcd member killed", lambda: cluster.etcd.start(member), seconds)
            else:
                cluster.etcd.signal_all(signal.SIGSTOP)
                self.begin(victim, "etcd stopped", lambda: cluster.etcd.signal_all(signal.SIGCONT), seconds)
            return
        node = cluster.nodes[victim]
        kind = rng.choice(["pause", "cut"] if victim in CLIENTS else ["pause", "cut", "kill", "kill", "restart"])
        if kind == "pause":
            node.pause()
            self.begin(victim, kind, node.resume, seconds)
        elif kind == "cut":
            cluster.network.cut(victim)
            self.begin(victim, kind, lambda: cluster.network.heal(victim), seconds)
        elif kind == "kill":
            node.kill9()
            self.begin(victim, kind, node.start_process, seconds)
        else:
            node.process.send_signal(signal.SIGTERM)
            self.begin(victim, kind, lambda: self.start_again(node), 0)


@pytest.mark.parametrize("code", ["1+2", "2+2"])
def test_everything_at_random(make_cluster, code, capsys):
    seed = int(os.environ.get("HOLDFAST_TEST_SEED", random.randrange(1 << 32)))
    cluster = make_cluster(nodes=5, disks=1, code=code, etcd=3, session_ttl=f"{TTL_S}s")
    chaos = Chaos(cluster, random.Random(seed))
    uris = [cluster.n1.volume("v", 128), cluster.n2.uri("v"), cluster.n2.volume("w", 64)]
    end = time.monotonic() + (600 if LONG else 15)
    with Load(uris[:2], seed=seed % 1000) as load, Load(uris[2:], seed=seed % 1000 + 1) as other:
        settle(load)
        begin = time.monotonic()
        while time.monotonic() < end:
            chaos.end_due()
            if chaos.random.random() < 0.5:
                chaos.disturb()
            assert not load.failures() and not other.failures(), (seed, load.failures(), other.failures())
            time.sleep(chaos.random.uniform(0.05, 0.8))
        wait_until(chaos.end_all, 60, "everything's end")
        for node in cluster.nodes.values():
            node.wait_ready(60)  # a socket's file may be of the process that was killed
            wait_until(lambda node=node: node.cli_run("disk", "list").returncode == 0, 60, f"{node.name} to be there again")
        for each in load, other:
            each.progress(100, timeout_s=120)
            each.stop()
        gap = load.gap_since(begin)
    load.verify(cluster.n4.uri("v"))
    other.verify(cluster.n3.uri("w"))
    wait_until(lambda: "ok" in cluster.n3.cli("status").split("Health:")[1].splitlines()[0], 120, f"health (seed {seed})")
    with capsys.disabled():
        done = ", ".join(f"{count} {kind}" for kind, count in sorted(chaos.counts.items()))
        print(f"\n{code}, seed {seed}: {done}; longest answer {gap:.1f} s")
