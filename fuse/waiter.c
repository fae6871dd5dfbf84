/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/waiter.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/check.h"

#define CHECK_INTERVAL_MS 500

/* include/linux/sched.h: killed by a signal, and on the way out. */
#define PF_SIGNALED 0x00000400u

enum life { LIFE_GOES_ON, LIFE_ENDS, LIFE_IS_OVER };

static size_t read_proc(pid_t pid, const char *name, char *text, size_t size)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    FILE *file = fopen(path, "re");
    size_t len = file != NULL ? fread(text, 1, size - 1, file) : 0;
    if (file != NULL)
        fclose(file);
    text[len] = 0;
    return len;
}

/* Whether SIGKILL pends for a thread (a fatal signal of any number pends as that in every thread of
 * its process) or has been taken. proc(5), stat: fields 9 (flags) and 31 (signal). */
static enum life life_of(pid_t pid)
{
    char line[1024];
    if (read_proc(pid, "stat", line, sizeof(line)) == 0)
        return LIFE_IS_OVER;
    const char *fields = strrchr(line, ')'); /* the name may have any character */
    unsigned flags;
    unsigned long pending;
    if (fields == NULL ||
        sscanf(fields,
            ") %*c %*d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %*u %*u "
            "%*d %*u %*u %*u %*u %*u %*u %lu",
            &flags, &pending) != 2)
        return LIFE_GOES_ON;
    bool killed = (flags & PF_SIGNALED) != 0 || (pending >> (SIGKILL - 1) & 1) != 0;
    return killed ? LIFE_ENDS : LIFE_GOES_ON;
}

static pid_t process_of(pid_t thread)
{
    char text[1024];
    int process = 0;
    read_proc(thread, "status", text, sizeof(text));
    const char *line = strstr(text, "\nTgid:");
    if (line != NULL)
        sscanf(line, "\nTgid: %d", &process);
    return process;
}

bool caller_is_dying(struct caller *caller, fuse_req_t fuse)
{
    pid_t thread = fuse_req_ctx(fuse)->pid;
    if (caller->process == 0)
        caller->process = process_of(thread);
    if (caller->process == 0) /* of another pid namespace: not held for ever; or ended meanwhile */
        return fuse_req_interrupted(fuse);
    return life_of(thread) == LIFE_ENDS || life_of(caller->process) != LIFE_GOES_ON;
}

static void check_waiters(struct loop_timer *timer)
{
    struct mount *mount = container_of(timer, struct mount, waiters_timer);
    struct list all;
    list_init(&all);
    list_splice_back(&all, &mount->waiters);
    for (struct list *it; (it = list_pop_front(&all)) != NULL;) {
        struct waiter *waiter = list_entry(it, struct waiter, link);
        if (caller_is_dying(&waiter->caller, waiter->fuse))
            waiter->cancel(waiter);
        else
            list_push_back(&mount->waiters, &waiter->link);
    }
    if (!list_empty(&mount->waiters))
        loop_timer_set(mount->loop, &mount->waiters_timer, CHECK_INTERVAL_MS);
}

void waiter_add(struct mount *mount, struct waiter *waiter, fuse_req_t fuse,
    void (*cancel)(struct waiter *waiter))
{
    waiter->fuse = fuse;
    waiter->caller = (struct caller){0};
    waiter->cancel = cancel;
    list_push_back(&mount->waiters, &waiter->link);
    if (mount->waiters_timer.fire == NULL)
        loop_timer_init(&mount->waiters_timer, check_waiters);
    if (list_empty(&mount->waiters_timer.link))
        loop_timer_set(mount->loop, &mount->waiters_timer, CHECK_INTERVAL_MS);
}

void waiter_remove(struct waiter *waiter)
{
    list_remove(&waiter->link);
}
