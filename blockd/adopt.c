/* SPDX-License-Identifier: Apache-2.0
 *
 * One fiber works on a short queue of damage reports and, when due, on the list of all volumes, one
 * at a time. What does not fit into the queue is found again by the next read or scrub. A report stays in the queue
 * until somebody has taken it, for the owner's session may have ended just now; one of a volume that cannot be opened
 * goes, since who opens it finds the same damage again.
 */
#include "blockd/adopt.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull
#define REPORTS_MAX 256
/* Between looks at all volumes: while a disk has failed, each change of the cluster asks for one. */
#define LOOK_EVERY_NS (5 * SECOND_NS)
#define REPORT_RETRY_NS (5 * SECOND_NS)
#define HALT_LOOK_NS (10 * 1000000ull)
/* A repair that gets no further in this time waits for something else (a spare disk, say). */
#define STUCK_NS (60 * SECOND_NS)

struct report {
    struct shard_key key;
    uint32_t disk, block;
};

struct adopt {
    struct volumes *volumes;
    struct adopt_options options;
    struct report reports[REPORTS_MAX];
    unsigned report_count;
    uint64_t reports_at_ns; /* not before: some could not be told */
    uint64_t all_at_ns;     /* UINT64_MAX = no look at all volumes is due */
    uint64_t looked_ns;     /* when the last one began; 0 = none has */
    char current[NAME_BYTES_MAX];
    struct fiber_queue wake;
    bool stopping, ended;
};

static bool same_shard(const struct report *a, const struct report *b)
{
    return a->disk == b->disk && a->key.volume == b->key.volume && a->key.chunk == b->key.chunk &&
           a->key.index == b->key.index;
}

/* A volume that halts waits for its holders before it can be opened anew, here or elsewhere (V3): a
 * handover must not wait for us. */
static void pause_unless_halted(struct adopt *adopt, const struct volume *volume)
{
    uint64_t until_ns = env_now_ns() + SECOND_NS;
    while (!adopt->stopping && !volume_halted(volume) && env_now_ns() < until_ns)
        (void)fiber_queue_wait_until(&adopt->wake, env_now_ns() + HALT_LOOK_NS);
}

/* Holds the open volume until it needs no repair, gets no further, or the node stops. */
static void hold_until_whole(struct adopt *adopt, const struct volume *volume)
{
    uint64_t best = UINT64_MAX, since_ns = env_now_ns();
    while (!adopt->stopping && !volume_halted(volume)) {
        struct volume_info info;
        /* Not before the repair fiber has looked. */
        pause_unless_halted(adopt, volume);
        volume_get_info(volume, &info);
        if (strcmp(info.health, "degraded") != 0 || info.repair_is_idle)
            return;
        uint64_t left = info.chunks_degraded + info.chunks_crowded;
        if (left < best) {
            best = left;
            since_ns = env_now_ns();
        }
        if (env_now_ns() - since_ns > STUCK_NS)
            return;
    }
}

/* `report` may be NULL. -EAGAIN: another node has it, or will. */
static int adopt_volume(struct adopt *adopt, uint64_t id, const struct report *report)
{
    struct volume *volume;
    CLEANUP_FREE char *error = NULL;
    int r = volumes_get_by_id(adopt->volumes, id, &volume, &error);
    if (r < 0) {
        if (r != -ENOENT && r != -ESHUTDOWN && r != -EBUSY) /* another node has it: its affair */
            log_warn_limited("repair: a volume cannot be opened: %s", error);
        return r == -EBUSY || r == -ESHUTDOWN ? -EAGAIN : r;
    }
    snprintf(adopt->current, sizeof(adopt->current), "%s", volume_name(volume));
    if (report)
        volume_shard_damaged(volume, report->key, report->disk, report->block);
    hold_until_whole(adopt, volume);
    adopt->current[0] = 0;
    volumes_put(adopt->volumes, volume);
    return 0;
}

/* The first in the queue, where it stays meanwhile: what is found again is no news. What nobody has taken goes to
 * its end, and the next one waits a while too, as after an open that failed. */
static void look_at_report(struct adopt *adopt)
{
    struct report report = adopt->reports[0];
    int r = adopt->options.may_damaged ? adopt->options.may_damaged(adopt->options.ctx, report.key,
                                             report.disk, report.block)
                                       : 1;
    if (r == 1)
        r = adopt_volume(adopt, report.key.volume, &report);
    adopt->report_count--;
    memmove(adopt->reports, adopt->reports + 1, adopt->report_count * sizeof(report));
    if (r < 0)
        adopt->reports_at_ns = env_now_ns() + REPORT_RETRY_NS;
    if (r == -EAGAIN)
        adopt->reports[adopt->report_count++] = report;
}

static void look_at_some(struct adopt *adopt, const struct volumes_name *names, unsigned count)
{
    for (unsigned i = 0; i < count && !adopt->stopping; i++)
        if (names[i].state != VOLUME_NEW && !volumes_peek(adopt->volumes, names[i].id, NULL) &&
            (!adopt->options.may || adopt->options.may(adopt->options.ctx, &names[i])))
            (void)adopt_volume(adopt, names[i].id, NULL);
}

/* Page by page: there may be very many, and repairing those of a page takes its time. */
static void look_at_all(struct adopt *adopt)
{
    struct volumes_cursor cursor = {0};
    adopt->all_at_ns = UINT64_MAX;
    adopt->looked_ns = env_now_ns();
    while (!cursor.done && !adopt->stopping) {
        struct volumes_name *names;
        unsigned count;
        int r = volumes_list_page(adopt->volumes, &cursor, &names, &count);
        if (r < 0) {
            log_warn_limited("repair: the store does not list the volumes: %s", store_strerror(r));
            adopt_all(adopt, 60 * SECOND_NS);
            return;
        }
        look_at_some(adopt, names, count);
        mem_free(names);
    }
}

static void run(void *arg)
{
    struct adopt *adopt = arg;
    while (!adopt->stopping) {
        uint64_t reports_at_ns = adopt->report_count > 0 ? adopt->reports_at_ns : UINT64_MAX;
        if (env_now_ns() >= reports_at_ns) {
            look_at_report(adopt);
        } else if (env_now_ns() >= adopt->all_at_ns) {
            look_at_all(adopt);
        } else {
            (void)fiber_queue_wait_until(&adopt->wake, MIN(adopt->all_at_ns, reports_at_ns));
        }
    }
    adopt->ended = true;
    fiber_queue_wake_all(&adopt->wake);
}

struct adopt *adopt_start(struct volumes *volumes, const struct adopt_options *options)
{
    struct adopt *adopt = NEW(struct adopt);
    if (options)
        adopt->options = *options;
    adopt->volumes = volumes;
    adopt->all_at_ns = UINT64_MAX;
    fiber_queue_init(&adopt->wake);
    fiber_spawn("adopt", run, adopt);
    return adopt;
}

void adopt_all(struct adopt *adopt, uint64_t delay_ns)
{
    uint64_t at_ns = env_now_ns() + delay_ns;
    if (adopt->looked_ns)
        at_ns = MAX(at_ns, adopt->looked_ns + LOOK_EVERY_NS);
    if (at_ns >= adopt->all_at_ns)
        return;
    adopt->all_at_ns = at_ns;
    fiber_queue_wake_all(&adopt->wake);
}

void adopt_damaged(struct adopt *adopt, struct shard_key key, uint32_t disk_number, uint32_t block)
{
    struct report report = {key, disk_number, block};
    struct volume *volume = volumes_peek(adopt->volumes, key.volume, NULL);
    if (volume) {
        volume_shard_damaged(volume, key, disk_number, block);
        return;
    }
    for (unsigned i = 0; i < adopt->report_count; i++)
        if (same_shard(&adopt->reports[i], &report))
            return;
    if (adopt->report_count == REPORTS_MAX)
        return;
    adopt->reports[adopt->report_count++] = report;
    fiber_queue_wake_all(&adopt->wake);
}

unsigned adopt_report_count(const struct adopt *adopt)
{
    return adopt->report_count;
}

const char *adopt_current(const struct adopt *adopt)
{
    return adopt->current[0] ? adopt->current : NULL;
}

void adopt_stop(struct adopt *adopt)
{
    adopt->stopping = true;
    fiber_queue_wake_all(&adopt->wake);
    while (!adopt->ended)
        fiber_queue_wait(&adopt->wake);
    mem_free(adopt);
}
