/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/waiter.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/check.h"

#define CHECK_INTERVAL_MS 500

bool caller_is_dying(fuse_req_t fuse)
{
    /* The kernel tells of the first signal only, so what is asked each time is whether one of those
     * pending is SIGKILL: a fatal signal of any number pends as that in every thread. */
    if (!fuse_req_interrupted(fuse))
        return false;
    char path[64], line[128];
    snprintf(path, sizeof(path), "/proc/%d/status", (int)fuse_req_ctx(fuse)->pid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return true; /* in another pid namespace: kill it rather than hold it for ever */
    bool dying = false;
    while (fgets(line, sizeof(line), file) != NULL) {
        unsigned long long pending;
        if ((sscanf(line, "SigPnd: %llx", &pending) == 1 ||
                sscanf(line, "ShdPnd: %llx", &pending) == 1) &&
            (pending >> (SIGKILL - 1) & 1))
            dying = true;
    }
    fclose(file);
    return dying;
}

static void check_waiters(struct loop_timer *timer)
{
    struct mount *mount = container_of(timer, struct mount, waiters_timer);
    struct list all;
    list_init(&all);
    list_splice_back(&all, &mount->waiters);
    for (struct list *it; (it = list_pop_front(&all)) != NULL;) {
        struct waiter *waiter = list_entry(it, struct waiter, link);
        if (caller_is_dying(waiter->fuse))
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
