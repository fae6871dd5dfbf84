/* SPDX-License-Identifier: Apache-2.0
 *
 * Scratch directories and ports that a test leaves to nobody, however it ends.
 */
#pragma once

#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/close_range.h>

#include "common/check.h"

/* Waits until nobody has the other end of its pipe any more, and removes the directory. */
static inline void scratch_guardian(const char *dir, int pipe_fd)
{
    char byte;
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    setsid();
    /* Whoever reads this test's output waits for all who could write to it. */
    if (dup2(pipe_fd, 0) != 0 || close_range(1, ~0u, 0) < 0)
        _exit(1);
    while (read(0, &byte, 1) > 0)
        ;
    execlp("rm", "rm", "-rf", "--one-file-system", "--", dir, (char *)NULL);
    _exit(127);
}

/* A new directory by the template, as mkdtemp() makes it. The test removes it at its end; a failed CHECK, a signal or a timeout
 * leave that to a child of its own, which outlives them. Before the env is started. */
static inline char *scratch_make(char *template)
{
    int ends[2];
    if (!mkdtemp(template))
        return NULL;
    CHECK(pipe2(ends, O_CLOEXEC) == 0); /* the write end stays open as long as the process lives */
    pid_t guardian = fork();
    CHECK(guardian >= 0);
    if (guardian == 0)
        scratch_guardian(template, ends[0]);
    close(ends[0]);
    return template;
}

/* A port of 127.0.0.1 that nobody else is given while this process lives: it stays bound, without listening, so that only who
 * asks for this very port, with SO_REUSEADDR as servers do, gets it. */
static inline unsigned free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0);
    CHECK(bind(fd, (struct sockaddr *)&address, len) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&address, &len) == 0);
    return ntohs(address.sin_port);
}
