/* SPDX-License-Identifier: Apache-2.0
 *
 * An owner whose store was set back under it (restored from a snapshot): the root is gone or an older one, which names
 * a manifest that is no more, perhaps an earlier epoch. Nobody else can open the volume then. The owner writes its root again.
 *
 *  X10 Only while it is certain that nobody has taken the volume over: whoever does so by what the owner has written, also in the
 *      history that the store has lost, has fenced at least one copy of the manifest, and then of the log that is appended
 *      to, before it changes anything. So after the root was read, all copies of that log must answer that they are not fenced
 *      (or those of the manifest, unless another one may have become current: S13), and the CAS compares the root
 *      that was read. A session asks them also where the root is as the owner left it: that may be of before somebody
 *      took the volume over, and would give the right to read, as would the session itself, which the snapshot may have brought
 *      back. Until they have answered nothing is read by lease (X3). Whoever took the volume over by an older manifest
 *      meanwhile has less than its owner, and its changes of the root are refused from then on.
 *      Epochs are used once (X1): where others have come further in the root than the owner is, the root keeps their
 *      epoch, and the owner ends and opens the volume anew.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blockd/volume/volume_impl.h"
#include "common/log.h"

/* 0: none of the copies is fenced. -ESTALE: one is, or all are gone: somebody has removed them who had fenced one.
 * -EHOSTUNREACH: they do not say. */
static int copies_unfenced(struct volume *v, uint64_t chunk, const struct shard_place *places,
    unsigned count, uint32_t length_blocks)
{
    unsigned unfenced = 0, gone = 0;
    for (unsigned i = 0; i < count; i++) {
        struct shard_key key = {.volume = v->root.id, .chunk = chunk, .index = (uint8_t)i};
        struct disk *disk = volume_disk(v, places[i].disk);
        int r =
            disk_usable(disk) ? shard_sync(disk, key, v->root.epoch, length_blocks) : -EHOSTUNREACH;
        if (r == -ESTALE)
            return r;
        unfenced += r == 0;
        gone += r == -ENOENT;
    }
    if (count > 0 && unfenced == count)
        return 0;
    return count > 0 && gone == count ? -ESTALE : -EHOSTUNREACH;
}

static int manifest_unfenced(struct volume *v)
{
    struct copies_ref ref = v->manifest.ref;
    return copies_unfenced(v, ref.chunk, ref.places, ref.count, v->manifest.length_blocks);
}

static int log_unfenced(struct volume *v)
{
    struct shard_place places[CODE_M_MAX + 1] = {0};
    if (!v->wal_open)
        return -EHOSTUNREACH;
    unsigned copies = v->wal_open->copies;
    uint64_t chunk = v->wal_open->chunk;
    bool whole = true;
    for (unsigned i = 0; i < copies; i++) {
        places[i] = v->wal_open->shards[i].place;
        whole = whole && v->wal_open->shards[i].state == CHUNK_SHARD_OK;
    }
    int r = copies_unfenced(v, chunk, places, copies, 0);
    if (r == -ESTALE && (!v->wal_open || v->wal_open->chunk != chunk))
        return -EHOSTUNREACH; /* rolled, and let go */
    return r == 0 && !whole ? -EHOSTUNREACH : r;
}

int ownership_unfenced(struct volume *v, bool manifest_counts)
{
    if (!volume_host_session(v->host))
        return -EHOSTUNREACH; /* the root would be anybody's */
    int log = log_unfenced(v);
    int manifest = manifest_unfenced(v);
    if (log == -ESTALE || manifest == -ESTALE)
        return -ESTALE;
    return log == 0 || (manifest == 0 && manifest_counts) ? 0 : -EHOSTUNREACH;
}

bool ownership_store_was_set_back(const struct volume *v)
{
    return v->serving && !v->halted && store_histories(v->host->store) != v->store_histories;
}

/* Its epoch only rises and its revision, too, and nobody else writes one of ours. */
bool ownership_root_was_set_back(const struct volume *v, const struct volume_root *root, bool ours)
{
    return v->serving && !v->halted && root->state != VOLUME_DELETING &&
           root->manifest.chunk != v->root.manifest.chunk &&
           (ours || root->epoch < v->root.epoch || root->revision < v->root.revision ||
               ownership_store_was_set_back(v));
}

void ownership_take_back(struct volume *v, struct volume_root *root)
{
    bool ahead = root->epoch > v->root.epoch;
    log_warn("volume %s: the store has been set back (restored from a backup?): its root named "
             "epoch %u and "
             "metadata of then; it is written again as of epoch %u, which its disks know%s",
        v->root.name, root->epoch, v->root.epoch, ahead ? ", and the volume is opened anew" : "");
    root->state = VOLUME_OWNED;
    root->epoch = ahead ? root->epoch : v->root.epoch;
    root->successor[0] = 0;
    snprintf(root->owner, sizeof(root->owner), "%s", v->host->node_name);
    root->owner_session = volume_host_session(v->host);
    root->manifest = v->root.manifest;
    root->size_bytes = v->root.size_bytes;
    root->tail_log = v->root.tail_log;
    root->tail_blocks = v->root.tail_blocks;
    root->loss_epoch = v->root.loss_epoch;
    root->loss_time_s = v->root.loss_time_s;
}
