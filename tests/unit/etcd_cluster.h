/* SPDX-License-Identifier: Apache-2.0
 *
 * Real etcd members on random loopback ports with data in a scratch directory. They die with the
 * test (PR_SET_PDEATHSIG), however that ends.
 */
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/check.h"
#include "scratch.h"

#define MEMBERS_MAX 3

struct etcd_member {
    pid_t pid; /* 0 = not running */
    unsigned client_port, peer_port;
    char client_url[64], peer_url[64];
};

struct etcd_cluster {
    struct etcd_member members[MEMBERS_MAX];
    unsigned count;
    bool tls; /* one self-signed certificate, dir/cert.pem and dir/key.pem, is everybody's */
    char dir[64];
};

static inline void member_set_client_port(struct etcd_member *member, unsigned port)
{
    member->client_port = port;
    snprintf(member->client_url, sizeof(member->client_url), "http://127.0.0.1:%u", port);
}

static inline void member_set_peer_port(struct etcd_member *member, unsigned port)
{
    member->peer_port = port;
    snprintf(member->peer_url, sizeof(member->peer_url), "http://127.0.0.1:%u", port);
}

static inline void member_start(struct etcd_cluster *cluster, unsigned i)
{
    struct etcd_member *member = &cluster->members[i];
    char name[16], dir[96], log[104], all[320] = "";
    snprintf(name, sizeof(name), "m%u", i);
    snprintf(dir, sizeof(dir), "%s/%s", cluster->dir, name);
    snprintf(log, sizeof(log), "%s.log", dir);
    for (unsigned j = 0; j < cluster->count; j++)
        snprintf(all + strlen(all), sizeof(all) - strlen(all), "%sm%u=%s", j ? "," : "", j,
            cluster->members[j].peer_url);
    pid_t parent = getpid();
    member->pid = fork();
    CHECK(member->pid >= 0);
    if (member->pid > 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    if (cluster->tls) {
        snprintf(log, sizeof(log), "%s/cert.pem", cluster->dir);
        setenv("ETCD_CERT_FILE", log, 1);
        setenv("ETCD_TRUSTED_CA_FILE", log, 1);
        setenv("ETCD_CLIENT_CERT_AUTH", "true", 1);
        snprintf(log, sizeof(log), "%s/key.pem", cluster->dir);
        setenv("ETCD_KEY_FILE", log, 1);
    }
    execlp("etcd", "etcd", "--name", name, "--data-dir", dir, "--listen-client-urls",
        member->client_url, "--advertise-client-urls", member->client_url, "--listen-peer-urls",
        member->peer_url, "--initial-advertise-peer-urls", member->peer_url, "--initial-cluster",
        all, "--heartbeat-interval", "100", "--election-timeout", "500", "--logger", "zap",
        "--unsafe-no-fsync", (char *)NULL);
    _exit(127);
}

static inline void member_kill(struct etcd_member *member)
{
    if (member->pid == 0)
        return;
    kill(member->pid, SIGKILL);
    waitpid(member->pid, NULL, 0);
    member->pid = 0;
}

static inline void cluster_start(struct etcd_cluster *cluster, unsigned count)
{
    *cluster = (struct etcd_cluster){.count = count};
    strcpy(cluster->dir, "/var/tmp/holdfast-test-etcd-XXXXXX");
    CHECK(scratch_make(cluster->dir));
    for (unsigned i = 0; i < count; i++) {
        struct etcd_member *member = &cluster->members[i];
        member_set_client_port(member, free_port());
        member_set_peer_port(member, free_port());
    }
    for (unsigned i = 0; i < count; i++)
        member_start(cluster, i);
}

/* Stops one member's threads, as a machine that hangs; its connections stay. */
static inline void member_hang(struct etcd_member *member, bool hang)
{
    CHECK(kill(member->pid, hang ? SIGSTOP : SIGCONT) == 0);
}

static inline void cluster_start_tls(struct etcd_cluster *cluster)
{
    cluster_start(cluster, 1);
    member_kill(&cluster->members[0]);
    char command[512];
    snprintf(command, sizeof(command),
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "
        "/CN=etcd -addext subjectAltName=IP:127.0.0.1 -keyout %s/key.pem -out %s/cert.pem "
        "2> /dev/null",
        cluster->dir, cluster->dir);
    CHECK(system(command) == 0);
    cluster->tls = true;
    snprintf(cluster->members[0].client_url, sizeof(cluster->members[0].client_url),
        "https://127.0.0.1:%u", cluster->members[0].client_port);
    member_start(cluster, 0);
}

static inline void cluster_stop(struct etcd_cluster *cluster)
{
    for (unsigned i = 0; i < cluster->count; i++)
        member_kill(&cluster->members[i]);
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", cluster->dir);
    CHECK(system(command) == 0);
}
