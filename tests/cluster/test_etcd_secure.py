# SPDX-License-Identifier: Apache-2.0
"""Etcd with TLS both ways and passwords: a cluster lives on it, also over etcd's restarts, and says what is wrong with a login."""

import time

from hftest.cluster import ClusterNode
from hftest.load import Load
from hftest.process import tail, wait_until
from hftest.secure_etcd import SecureEtcd, make_authority
from test_failover import TTL_S, settle


def test_a_cluster_on_etcd_with_tls_and_passwords(make_cluster):
    cluster = make_cluster(nodes=3, disks=1, session_ttl=f"{TTL_S}s", etcd_class=SecureEtcd)
    cluster.n1.volume("v", 128)
    with Load([cluster.n2.uri("v")]) as load:
        settle(load)
        # Its tokens are in its memory: all who were logged in have to log in again.
        cluster.etcd.kill9("e1")
        cluster.etcd.start("e1")
        settle(load, 2 * TTL_S)
        cluster.n3.cli("volume", "create", "w", "--size", "64MiB", "--pool", cluster.pool)
        # Sessions are under the same login: an owner's ends with it, and another node takes over.
        owner = cluster.n3.owner_of("v")
        if owner != "n2":
            begin = time.monotonic()
            cluster.nodes[owner].kill9()
            settle(load, 2 * TTL_S)
            assert load.gap_since(begin) < 10 * (TTL_S + 1)
        load.stop()
    load.verify(cluster.n3.uri("v"))


def refused(cluster, wait_for, **store):
    """What the log of a node with this [store] says once it has `wait_for` in it."""
    node = ClusterNode(cluster, f"n{len(cluster.nodes) + 1}", disks=0, disk_mib=0, config={"store": store})
    cluster.nodes[node.name] = node
    node.write_config()
    node.start_process()
    wait_until(lambda: wait_for in node.log.read_text(), 30, f"'{wait_for}' in the log of {node.name}:\n{tail(node.log)}")
    assert node.process.poll() is None or node.process.returncode == 1
    return node


def test_what_is_wrong_with_a_login_is_said(make_cluster):
    cluster = make_cluster(nodes=1, disks=1, code="1+0", etcd_class=SecureEtcd)
    (cluster.dir / "wrong").write_text("not it\n")
    refused(cluster, "etcd refuses user holdfast", password_file=cluster.dir / "wrong")
    refused(cluster, "check user, password", user=None, password_file=None)
    refused(cluster, "certificate", cert=None, key=None)
    # Signed by somebody else.
    other = cluster.dir / "other"
    other.mkdir()
    make_authority(other)
    refused(cluster, "certificate", ca=other / "ca.pem")
