/* SPDX-License-Identifier: Apache-2.0
 *
 * Who owns a volume: the only file that changes its root.
 *
 *   released, new ----------------- take: epoch + 1 ----------------> owned by this session
 *   owned, and its session's key
 *   is absent (compared in the
 *   same transaction) -------------/
 *   owned by this very process ---/     owned, the node has a new session: renew, same epoch
 *                                       owned: release, for a successor or for anybody
 *
 * Invariants
 *  X1 Every open takes epoch + 1, also after this process itself, by one transaction that compares
 *     the root's revision and, unless the owner is gone by its own word (released) or is this very
 *     process, that the owner's session key is absent. All waiting comes before it (S10).
 *  X2 All changes of the root by its owner are serialised (root_mutex) and compare the revision that
 *     was last read. One whose outcome is unknown is repeated until one is known; the root is read
 *     again only to learn of a revision to compare with (S13).
 *  X3 Reads rely on the lease only while the root names the session that the node has now (S16), and the store has not been
 *     set back since it said so: that session may be of then, too (X10).
 *     Else a read, a block status and a flush (which speaks for all connections) wait for a record
 *     that was sent after they came and that all copies of the newest log took (S17), or until the
 *     lease is back: the log may have nowhere to go. An answer that was looked up before the volume
 *     halted is not given after it.
 *  X4 Once a release was sent nothing is served any more, whatever became of it (S13, S20).
 *  X8 An epoch is taken only while the disk of some copy of the manifest is up: its fence is left there. Else opens
 *     that fail would lift the root over the fences that tell a store that was set back (X5).
 *  X7 What was found on some copies alone of the log that was open is read only once it is on enough of them, on
 *     record: it may never have been acknowledged, and the next owner may find a shorter copy. Nor is anything read
 *     before while a copy of that log is away: the next owner may find a longer one.
 *  X9 With too few disks for a manifest the end that was found is put on record in the root (tail_log), by CAS: then
 *     what is found is read. Later owners wait for a copy that long, as for one that a manifest has sealed, and
 *     cut longer ones. Not after a loss of power.
 *  X6 Whoever took a volume and cannot open it releases it: else it would stand in the way of those who
 *     can for as long as its session lives.
 *  X10 (own_again.c) An owner whose store was set back under it writes its root again, while nobody has taken it over.
 *  X5 A fence that is refused although the root names no later epoch, or that finds the very epoch there before it is
 *     set for the first time (X1: epochs are used once): the store has been set back. The root is marked as halted, and no open comes near that volume any more (S15).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/planted.h"

#define RETRY_NS_MIN 20000000ull
#define RETRY_NS_MAX 1000000000ull
#define TAKE_TRIES 8
#define RELEASE_WAIT_NS 5000000000ull
#define RENEW_WAIT_NS 5000000000ull
#define LEASE_LOOK_NS 50000000ull /* how often who waits for a record looks at the lease */

/* --- Taking ------------------------------------------------------------------------------------ */

static int refuse(const struct volume_root *root, const char *node, uint64_t session,
    struct volume_owner *ret_owner, char **ret_error)
{
    if (ret_owner) {
        *ret_owner = (struct volume_owner){.session = session, .epoch = root->epoch};
        snprintf(ret_owner->node, sizeof(ret_owner->node), "%s", node);
    }
    *ret_error = session ? mem_printf("volume '%s' is served by node '%s'", root->name, node)
                         : mem_printf("volume '%s' is being handed to node '%s'", root->name, node);
    return -EBUSY;
}

/* Whether the root can be taken at all; *ret_unless: the session whose key must be absent (X1). */
static int may_take(const struct volume_host *host, const struct volume_root *root, unsigned flags,
    uint64_t *ret_unless, struct volume_owner *ret_owner, char **ret_error)
{
    uint64_t session = volume_host_session(host);
    if (root->state == VOLUME_DELETING) {
        *ret_error = mem_printf("volume '%s' is being deleted", root->name);
        return -ENOENT;
    }
    if (root->state == VOLUME_HALTED) {
        *ret_error = mem_printf("volume '%s' is halted: its disks have served a later epoch than "
                                "the store's %u; restore a newer copy of the store",
            root->name, root->epoch);
        return -EUCLEAN;
    }
    if (session == 0 || !volume_host_lease_valid(host)) { /* others might take it at once */
        *ret_error = mem_printf("this node has no session in the store; see 'holdfast node list'");
        return -EHOSTUNREACH;
    }
    if (root->state == VOLUME_RELEASED && root->successor[0] &&
        strcmp(root->successor, host->node_name) != 0 && !(flags & VOLUME_ACQUIRE_FROM_SUCCESSOR))
        return refuse(root, root->successor, 0, ret_owner, ret_error);
    *ret_unless =
        root->state == VOLUME_OWNED && root->owner_session != session ? root->owner_session : 0;
    return 0;
}

/* X8. The session's key is asked for, since who lives is to be forwarded to, whatever disks we reach. */
static int no_disk(const struct volume_host *host, const struct volume_root *root, uint64_t session,
    struct volume_owner *ret_owner, char **ret_error)
{
    char key[KEY_BYTES_MAX];
    struct store_value value;
    int r = session ? store_get(host->store, key_session(session, key), &value) : -ENOENT;
    if (r == 0) {
        store_value_fini(&value);
        return refuse(root, root->owner, session, ret_owner, ret_error);
    }
    if (r != -ENOENT) {
        *ret_error = mem_printf("the owner's session cannot be read: %s", store_strerror(r));
        return r;
    }
    *ret_error =
        mem_printf("volume '%s': none of the %u copies of its manifest can be reached: bring "
                   "back the disks that hold them (see 'holdfast disk list')",
            root->name, root->manifest.count);
    return -EHOSTUNREACH;
}

static bool manifest_reachable(const struct volume_host *host, const struct volume_root *root)
{
    bool reachable = root->manifest.chunk == 0;
    for (unsigned i = 0; i < root->manifest.count; i++)
        reachable = reachable || disk_usable(volume_host_disk(host, root->manifest.places[i].disk));
    return reachable;
}

int ownership_take(struct volume_host *host, struct volume_root *root, char **text, unsigned flags,
    struct volume_owner *ret_owner, char **ret_error)
{
    uint64_t delay_ns = RETRY_NS_MIN;
    int r = -ETIMEDOUT;
    for (unsigned tries = 0; tries < TAKE_TRIES; tries++) {
        uint64_t unless = 0, revision = root->revision;
        r = may_take(host, root, flags, &unless, ret_owner, ret_error);
        if (r < 0)
            return r;
        if (!manifest_reachable(host, root))
            return no_disk(host, root, unless, ret_owner, ret_error);
        struct volume_root mine = *root;
        mine.epoch++;
        if (root->state != VOLUME_RELEASED || !PLANTED(release_not_cleared))
            mine.state = VOLUME_OWNED;
        mine.successor[0] = 0;
        snprintf(mine.owner, sizeof(mine.owner), "%s", host->node_name);
        mine.owner_session = volume_host_session(host);
        r = volume_root_save_unless(host->store, &mine, PLANTED(takeover_blind) ? 0 : unless, text);
        if (r == 0) {
            *root = mine;
            return 0;
        }
        if (r ==
            -ETIMEDOUT) { /* known after the next one that succeeds: it compares what is there */
            env_sleep_ns(delay_ns);
            delay_ns = MIN(delay_ns * 2, RETRY_NS_MAX);
        } else if (r != -ECANCELED) {
            break;
        }
        int loaded = volume_root_load_text(host->store, root->id, root, text);
        if (loaded < 0) {
            *ret_error = mem_printf("the volume's root cannot be read: %s", store_strerror(loaded));
            return loaded;
        }
        if (r == -ECANCELED && unless && root->revision == revision)
            return refuse(root, root->owner, root->owner_session, ret_owner, ret_error);
    }
    *ret_error = mem_printf("the store did not take the new owner: %s", store_strerror(r));
    return r;
}

/* X5. Not ours to decide where the root has gone on meanwhile: deposed during recovery. */
int ownership_set_back(struct volume_host *host, const struct volume_root *root, char **ret_error)
{
    struct volume_root now;
    int r = volume_root_load(host->store, root->id, &now);
    if (r < 0 || now.epoch != root->epoch || now.state != VOLUME_OWNED) {
        *ret_error = mem_printf("another node took it over meanwhile");
        return -EAGAIN;
    }
    now.state = VOLUME_HALTED;
    r = volume_root_save(host->store, &now);
    *ret_error =
        mem_printf("its disks have seen epoch %u, or a later one: the store has been set back "
                   "(restored from an old backup?). The volume is halted%s; restore a "
                   "newer copy of the store",
            root->epoch, r < 0 ? " on this node" : "");
    log_error("ALARM: volume %s: %s", root->name, *ret_error);
    return -EUCLEAN;
}

/* --- Changing what is ours ---------------------------------------------------------------------- */

static void set_released(struct volume_root *root, const void *arg)
{
    root->state = VOLUME_RELEASED;
    snprintf(root->successor, sizeof(root->successor), "%s", (const char *)arg);
}

/* The node counts too: in a store that was set back (S15) another node may have come to the very epoch
 * that we have from before. */
static bool is_ours(const struct volume *v, const struct volume_root *root)
{
    return root->state == VOLUME_OWNED && root->epoch == v->root.epoch &&
           strcmp(root->owner, v->host->node_name) == 0;
}

/* A change was refused: somebody renamed the volume, an earlier attempt got through, the store was set back (X10), or the
 * volume is not ours. 0: `root` is what is there now, to be changed; -ESTALE, -EALREADY: not ours any more; others:
 * to be asked again. `sent`: the manifest that was to be there. */
static int look_again(struct volume *v, struct volume_root *root, uint64_t sent)
{
    int r = volume_root_load_text(v->host->store, v->root.id, root, &v->root_text);
    if (r < 0 && r != -ENOENT)
        return r;
    bool known = sent == v->root.manifest.chunk;
    if (r == -ENOENT && !ownership_store_was_set_back(v))
        return -ESTALE; /* deleted */
    if (r == -ENOENT)   /* or made after what the store knows now */
        return ownership_unfenced(v, known) == -ESTALE ? -ESTALE : -EHOSTUNREACH;
    bool ours = is_ours(v, root);
    if (!ownership_root_was_set_back(v, root, ours) || (ours && root->manifest.chunk == sent)) {
        bool released = root->epoch == v->root.epoch && root->state == VOLUME_RELEASED;
        return ours ? 0 : released ? -EALREADY : -ESTALE;
    }
    r = PLANTED(taken_back_blind) ? 0 : ownership_unfenced(v, known);
    if (r == 0)
        ownership_take_back(v, root);
    return r;
}

static void set_session(struct volume_root *root, const void *arg)
{
    root->owner_session = volume_host_session(arg);
}

/* X10: a store that was set back may name us as it did before somebody took the volume over. Reads are what it would give
 * rights to: all that is written is refused by the fences. */
static int may_change(struct volume *v, root_change_fn *change)
{
    bool ask = change == set_session && ownership_store_was_set_back(v);
    return ask && !PLANTED(taken_back_blind) ? ownership_unfenced(v, true) : 0;
}

static int change_locked(
    struct volume *v, root_change_fn *change, const void *arg, uint64_t deadline_ns)
{
    uint64_t delay_ns = RETRY_NS_MIN;
    struct volume_root root = v->root;
    for (;;) {
        uint64_t histories = store_histories(v->host->store);
        change(&root, arg);
        uint64_t sent = root.manifest.chunk;
        int r = may_change(v, change);
        if (r == -ESTALE)
            return r;
        if (r == 0)
            r = volume_root_save_unless(v->host->store, &root, 0, &v->root_text);
        if (r == 0 && root.epoch != v->root.epoch && change != set_released) { /* X10 */
            volume_halt(v, -ESTALE, "the store was set back: it is opened anew");
            return -ESHUTDOWN;
        }
        if (r == 0 || (PLANTED(unknown_is_success) && r == -ETIMEDOUT)) {
            v->root = root;
            if (change == set_session) /* others have not asked for fences */
                v->store_histories = histories;
            return 0;
        }
        if (r == -ECANCELED) {
            r = look_again(v, &root, sent);
            if (r == -EALREADY || r == -ESTALE)
                return r;
            if (r == 0)
                continue;
            root = v->root; /* its revision is old: this asks again */
        }
        v->trouble_ns = env_now_ns();
        log_warn_limited(
            "volume %s: the store did not take a change of the root (%s): trying again",
            v->root.name, store_strerror(r));
        if (env_now_ns() >= deadline_ns)
            return r;
        env_sleep_ns(delay_ns);
        delay_ns = MIN(delay_ns * 2, RETRY_NS_MAX);
        if (v->halted && change != set_released)
            return -ESHUTDOWN;
    }
}

static int change_until(
    struct volume *v, root_change_fn *change, const void *arg, uint64_t deadline_ns)
{
    fiber_mutex_lock(&v->root_mutex);
    int r = v->halted ? -ESHUTDOWN : change_locked(v, change, arg, deadline_ns);
    fiber_mutex_unlock(&v->root_mutex);
    if (r == -ESTALE || r == -EALREADY) {
        volume_deposed(v);
        return -ESHUTDOWN;
    }
    return r;
}

int root_change(struct volume *v, root_change_fn *change, const void *arg)
{
    return change_until(v, change, arg, UINT64_MAX);
}

int volume_session_renewed(struct volume *v)
{
    int r = change_until(v, set_session, v->host, env_now_ns() + RENEW_WAIT_NS);
    return r == 0 || r == -ESHUTDOWN ? r : -EAGAIN;
}

static void set_tail(struct volume_root *root, const void *arg)
{
    const struct volume *v = arg;
    root->tail_log = v->tail_log;
    root->tail_blocks = v->tail_blocks;
}

void ownership_record_tail(struct volume *v)
{
    CHECK(!v->serving);
    if (!v->tail_unsure || !v->tail_log ||
        change_until(v, set_tail, v, env_now_ns() + RENEW_WAIT_NS) < 0)
        return;
    v->tail_unsure = false;
    fiber_queue_wake_all(&v->sync_waiters);
}

int ownership_release(struct volume *v, const char *successor)
{
    CHECK(v->closed_to_io); /* X4 */
    fiber_mutex_lock(&v->root_mutex);
    int r = change_locked(v, set_released, successor, env_now_ns() + RELEASE_WAIT_NS);
    fiber_mutex_unlock(&v->root_mutex);
    return r == -EALREADY ? 0 : r;
}

/* It was taken and never served: another node may reach what this one cannot. Without an answer it stays
 * ours, which is as before. */
void ownership_give_up(struct volume *v)
{
    struct volume_root root = v->root;
    set_released(&root, "");
    int r = volume_root_save(v->host->store, &root);
    if (r < 0 && r != -ECANCELED)
        log_warn_limited("volume %s: could not be opened, and the store was not told so: %s",
            v->root.name, store_strerror(r));
}

/* --- Reading ------------------------------------------------------------------------------------ */

bool ownership_by_lease(const struct volume *v)
{
    if (PLANTED(read_on_stale_lease))
        return true;
    if (!v->serving && v->tail_unsure) /* X7 */
        return false;
    return v->root.owner_session == volume_host_session(v->host) &&
           volume_host_lease_valid(v->host) && !ownership_store_was_set_back(v); /* X10 */
}

/* The record that a read waits for (S17): 0, 1: by lease it may read before there is a log, or -ESHUTDOWN. */
static int place_noop(struct volume *v, uint64_t *ret_seq)
{
    while (!v->serving && !v->halted && !v->closed_to_io) { /* there is no log yet */
        fiber_queue_wait(&v->sync_waiters);
        if (!v->serving && !v->halted && ownership_by_lease(v)) /* X9 */
            return 1;
    }
    if (v->halted || !v->serving)
        return -ESHUTDOWN;
    if (PLANTED(read_without_noop)) {
        *ret_seq = 0;
    } else if (PLANTED(confirm_by_earlier_append)) {
        *ret_seq = v->sent_seq;
    } else if (v->sent_seq + 1 < v->next_seq) {
        *ret_seq = v->sent_seq + 1; /* whatever waits to be sent serves all who came before it is */
    } else {
        *ret_seq = v->next_seq;
        v->stats.read_noops++;
        log_enqueue_noop(v);
    }
    return 0;
}

int ownership_confirm(struct volume *v)
{
    uint64_t seq;
    int r = place_noop(v, &seq);
    return r == 0 ? log_wait_acked(v, seq) : MIN(r, 0);
}

int ownership_wait(struct volume *v)
{
    uint64_t seq;
    if (ownership_by_lease(v))
        return 0;
    int r = place_noop(v, &seq);
    if (r != 0)
        return MIN(r, 0);
    while (v->acked_seq < seq && !ownership_by_lease(v)) {
        if (v->halted)
            return -ESHUTDOWN;
        fiber_queue_wait_until(&v->ack_waiters, env_now_ns() + LEASE_LOOK_NS);
    }
    return 0;
}
