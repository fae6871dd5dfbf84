/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/range_lock.h"

#include <stddef.h>

void range_locks_init(struct range_locks *locks)
{
    list_init(&locks->all);
}

static bool is_free(const struct range_locks *locks, const struct range_lock *lock)
{
    for (const struct list *it = locks->all.next; it != &lock->link; it = it->next) {
        const struct range_lock *before = list_entry(it, struct range_lock, link);
        if (before->start_bytes < lock->end_bytes && lock->start_bytes < before->end_bytes)
            return false;
    }
    return true;
}

void range_lock(struct range_locks *locks, struct range_lock *lock)
{
    lock->held = false;
    list_push_back(&locks->all, &lock->link);
    if (is_free(locks, lock)) {
        lock->held = true;
        lock->granted(lock);
    }
}

void range_unlock(struct range_locks *locks, struct range_lock *lock)
{
    if (list_empty(&lock->link))
        return;
    list_remove(&lock->link);
    /* `granted` may unlock in turn, so the walk starts again after each grant. */
    for (struct list *it = locks->all.next; it != &locks->all;) {
        struct range_lock *next = list_entry(it, struct range_lock, link);
        it = it->next;
        if (!next->held && is_free(locks, next)) {
            next->held = true;
            next->granted(next);
            it = locks->all.next;
        }
    }
}
