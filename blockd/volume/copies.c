/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "blockd/volume/fanout.h"
#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/planted.h"

static struct shard_key copy_key(const struct copies_set *set, unsigned copy)
{
    return (struct shard_key){.volume = set->volume, .chunk = set->chunk, .index = (uint8_t)copy};
}

/* Takes the copies in that are there and are recorded as LOST, or those that are not. */
static void use_copies(
    struct copies_set *set, struct volume_host *host, const struct chunk_shard *shards, bool lost)
{
    for (unsigned i = 0; i < set->count; i++) {
        if (set->errors[i] < 0 || (shards[i].state == CHUNK_SHARD_LOST) != lost)
            continue;
        set->disks[i] = volume_host_disk(host, shards[i].place.disk);
        if (!set->disks[i])
            continue;
        set->length_max = MAX(set->length_max, set->infos[i].length_blocks);
        set->usable++;
        set->suspect += lost || set->infos[i].suspect;
    }
}

bool copies_away(
    const struct copies_set *set, const struct volume_host *host, const struct chunk_shard *shards)
{
    for (unsigned i = 0; i < set->count; i++) {
        bool counts = shards[i].state != CHUNK_SHARD_LOST || set->lost_only;
        if (counts && set->errors[i] < 0 && set->errors[i] != -ENOENT &&
            disk_may_come(host, shards[i].place.disk))
            return !PLANTED(unreachable_is_absent);
    }
    return false;
}

struct fencing {
    struct copies_set *set;
    struct volume_host *host;
    const struct chunk_shard *shards;
    uint32_t epoch;
};

/* First what fence is there: -EHOSTUNREACH, -EIO: nothing can be said, and nothing was done. */
static int look_and_fence(
    const struct fencing *fencing, struct disk *disk, unsigned i, struct shard_info *ret_info)
{
    struct copies_set *set = fencing->set;
    const struct shard_place *place = &fencing->shards[i].place;
    int r = shard_stat(disk, copy_key(set, i), ret_info);
    if (r == 0 && ret_info->instance == place->instance)
        set->fenced_before[i] = ret_info->fence_epoch;
    if (r == -EHOSTUNREACH || r == -EIO || PLANTED(skip_fencing))
        return r;
    disk = volume_host_disk(fencing->host, place->disk);
    return disk_usable(disk) ? shard_fence(disk, copy_key(set, i), fencing->epoch, ret_info)
                             : -EHOSTUNREACH;
}

static void fence_one(void *ctx, unsigned i)
{
    const struct fencing *fencing = ctx;
    struct copies_set *set = fencing->set;
    uint32_t number = fencing->shards[i].place.disk;
    struct disk *disk = volume_host_disk(fencing->host, number);
    set->errors[i] = -EHOSTUNREACH;
    if (disk_usable(disk))
        set->errors[i] = look_and_fence(fencing, disk, i, &set->infos[i]);
    disk = volume_host_disk(fencing->host, number);
    if (disk_usable(disk))
        disk_answered(disk, set->errors[i]);
}

bool copies_set_back(const struct copies_set *set, uint32_t epoch)
{
    for (unsigned i = 0; i < set->count; i++) {
        if (set->fenced_before[i] >= epoch && !PLANTED(ignore_higher_fence))
            return true;
    }
    return false;
}

int copies_fence(struct copies_set *set, struct volume_host *host, uint64_t volume, uint64_t chunk,
    const struct chunk_shard *shards, unsigned count, uint32_t epoch)
{
    *set = (struct copies_set){.volume = volume, .chunk = chunk, .count = count};
    bool all_gone = true;
    struct fencing fencing = {.set = set, .host = host, .shards = shards, .epoch = epoch};
    fanout_run("fence copies", count, MAX(count, 1u), fence_one, &fencing);
    for (unsigned i = 0; i < count; i++) {
        if (set->errors[i] == -ESTALE && !PLANTED(ignore_higher_fence))
            return -ESTALE;
        /* Another instance is not the shard that was named (S9). */
        if (set->errors[i] == 0 && set->infos[i].instance != shards[i].place.instance)
            set->errors[i] = -ENOENT;
        all_gone &= set->errors[i] == -ENOENT;
    }
    use_copies(set, host, shards, false);
    if (set->usable == 0 && !copies_away(set, host, shards)) {
        use_copies(set, host, shards, true);
        set->lost_only = set->usable > 0;
    }
    if (set->usable > 0)
        return 0;
    return all_gone ? -ENOENT : -EHOSTUNREACH;
}

/* -EBADMSG: no copy can give it. -EHOSTUNREACH: none can now, and of one nothing is known (S14). A copy that did
 * not answer is not asked again: `silent`. */
static int read_any(const struct copies_set *set, uint32_t off, uint32_t count, uint8_t *buf,
    bool silent[CODE_M_MAX + 1])
{
    int result = -EBADMSG;
    for (unsigned i = 0; i < set->count; i++) {
        if (!set->disks[i] || set->infos[i].length_blocks < off + count)
            continue;
        int r = silent[i] ? -EHOSTUNREACH
                          : shard_read(set->disks[i], copy_key(set, i), off, count, buf, NULL);
        if (r == 0)
            return 0;
        silent[i] = shard_error_says_nothing(r);
        if (silent[i] && !PLANTED(unreachable_is_absent))
            result = -EHOSTUNREACH;
    }
    return result;
}

int copies_read(
    const struct copies_set *set, uint32_t off, uint32_t count, uint8_t *buf, uint32_t *ret_bad)
{
    bool silent[CODE_M_MAX + 1] = {false};
    if (read_any(set, off, count, buf, silent) == 0)
        return 0;
    for (uint32_t b = 0; b < count; b++) {
        int r = read_any(set, off + b, 1, buf + (size_t)b * BLOCK_BYTES, silent);
        if (r < 0) {
            *ret_bad = off + b;
            return r;
        }
    }
    return 0;
}
