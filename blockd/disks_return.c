/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk that hangs comes back by itself (N7): storage that stalls, as in the failover of a SAN, stalls for all nodes at once, and
 * goes on. One that does so again and again stays out, so that its volumes do not stall with it each time.
 */
#include <errno.h>
#include <inttypes.h>

#include "blockd/disks_impl.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull
#define HOUR_NS (3600 * SECOND_NS)
/* An open() that hangs keeps one of the env's few threads (R2). Were it all of them, the store would hang as well. */
#define AT_ONCE_MAX 2

/* How long it stays out at least, by how often it has come back within the hour. */
static const uint64_t pauses_ns[DISKS_RETURNS_MAX] = {
    1 * SECOND_NS, 10 * SECOND_NS, 30 * SECOND_NS, 120 * SECOND_NS};

static void drop_old_returns(struct disks_entry *entry)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < entry->returns; i++)
        if (env_now_ns() - entry->returns_ns[i] < HOUR_NS)
            entry->returns_ns[kept++] = entry->returns_ns[i];
    entry->returns = kept;
}

static bool may_return(const struct disks_entry *entry)
{
    return !entry->disks->closing && !entry->leaving && !entry->forgotten &&
           entry->disk->state == DISK_MISSING;
}

static void say_out(struct disks_entry *entry, const char *why)
{
    disks_entry_set(entry, DISK_MISSING,
        mem_printf("disk %" PRIu32 " (%s) hangs: %s. It comes back by itself as soon as all its "
                   "I/O has; what is on it is rebuilt on "
                   "the others if that takes longer than [repair] wait. To give it up: 'holdfast "
                   "disk remove %" PRIu32 " --force'",
            entry->record.number, entry->record.path, why, entry->record.number));
}

static void give_up(struct disks_entry *entry)
{
    log_error(
        "disk %" PRIu32
        " (%s) hangs again and again, or cannot be opened (%u tries to bring it back within an "
        "hour): it stays out until blockd is started anew",
        entry->record.number, entry->record.path, entry->returns);
    local_disk_fail(entry->disk, -ETIMEDOUT); /* tells, by disk_failed() */
}

static void is_back(struct disks_entry *entry)
{
    entry->disk->state = entry->record.state;
    disks_entry_set(entry, entry->record.state, NULL);
    log_info("disk %" PRIu32 " (%s) has come back: all its I/O has, and it was opened anew",
        entry->record.number, entry->record.path);
    disks_tell_changed(entry->disks);
}

MAY_SUSPEND static void try_return(struct disks_entry *entry)
{
    struct disks *disks = entry->disks;
    CLEANUP_FREE char *error = NULL;
    disks->reopening++;
    int r = local_disk_reopen(entry->disk, &error);
    disks->reopening--;
    if (r == -EAGAIN)
        return;
    fiber_queue_wake_all(&disks->returning); /* the next ones */
    drop_old_returns(entry);
    CHECK(entry->returns < DISKS_RETURNS_MAX);
    entry->returns_ns[entry->returns++] = env_now_ns();
    if (r == 0) {
        is_back(entry);
        return;
    }
    if (error)
        log_error("disk %" PRIu32 " does not come back: %s", entry->record.number, error);
    if (entry->disk->state != DISK_MISSING)
        return; /* failed for good, and told */
    if (r == -EIO) {
        local_disk_fail(entry->disk, r);
    } else if (entry->returns == DISKS_RETURNS_MAX) {
        give_up(entry);
    } else {
        entry->return_due_ns = env_now_ns() + pauses_ns[entry->returns];
        say_out(entry, error ? error : "it could not be opened anew");
    }
}

static void wait_for_return(void *arg)
{
    struct disks_entry *entry = arg;
    struct disks *disks = entry->disks;
    while (may_return(entry)) {
        (void)fiber_queue_wait_until(&disks->returning, env_now_ns() + SECOND_NS);
        bool due = env_now_ns() >= entry->return_due_ns && !entry->taking;
        if (may_return(entry) && due && disks->reopening < AT_ONCE_MAX)
            try_return(entry);
    }
    entry->returning = false;
    disks->returns--;
    disks_release(entry);
}

void disks_entry_hangs(struct disks_entry *entry)
{
    drop_old_returns(entry);
    if (entry->returns == DISKS_RETURNS_MAX) {
        give_up(entry);
        return;
    }
    entry->return_due_ns = env_now_ns() + pauses_ns[entry->returns];
    say_out(entry, local_disk_strerror(-ETIMEDOUT));
    if (!entry->returning) {
        entry->returning = true;
        entry->holds++;
        entry->disks->returns++;
        fiber_spawn("disk return", wait_for_return, entry);
    }
    disks_tell_changed(entry->disks);
}
