/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of a volume, shared by the files of this folder only. README.md has the invariants.
 *
 *   io.c          read, write, trim, flush: the front ends' calls
 *   log.c         group commit, roll;   log_sync.c   sync
 *   destage.c     memtable generations -> rows;   large_write.c   rows before their log record
 *   checkpoint.c  delta table -> map pages
 *   manifest.c    the one place where durable state changes
 *   provision.c   chunks and logs made before they are needed
 *   open_memory.c what volumes that are being opened may hold
 *   away.c        how long recovery waits for disks
 *   slow.c        leaving disks that have become slow
 *   clean.c, repair.c, crowded.c, reconcile.c  background;   open.c, life.c  life;   own.c  the root
 */
#pragma once

#include "blockd/volume/log_record.h"
#include "blockd/volume/map.h"
#include "blockd/volume/memtable.h"
#include "blockd/volume/requests.h"
#include "blockd/volume/row.h"
#include "blockd/volume/state.h"
#include "blockd/volume/volume.h"
#include "common/env.h"

/* One log record on its way; on the stack of the fiber that waits for it. */
struct commit {
    struct list link;
    struct log_record record;
    uint64_t seq;
    unsigned block_count;              /* WRITE: payload */
    void *const *data;                 /* WRITE: block_count buffers, the memtable's */
    const struct shard_entry *entries; /* WRITE: block_count */
    bool fua;
    bool done;
    bool nobodys; /* of log_enqueue_noop: freed when done */
    struct fiber *waiter;
};

struct manifest {
    struct fiber_mutex mutex; /* one append or rewrite at a time (S13) */
    struct copies_ref ref;    /* where appends go */
    uint32_t capacity_blocks, length_blocks;
    uint64_t bytes; /* appended since the snapshot, snapshot included */
    uint64_t snapshot_bytes;
    bool broken; /* a copy failed: rewrite before the next append (S11) */
    struct copies_ref
        *chain; /* every chunk of the current manifest, to be removed by the next rewrite */
    unsigned chain_count;
};

/* An append target: a place of this epoch that takes rows. */
struct open_chunk {
    uint64_t index; /* logical; 0 = none */
};

#define SPARE_CHUNKS_MAX 64

struct volume {
    struct volume_host *host;
    struct list budget_link;
    struct volume_root root;
    char *root_text;          /* the record of root.revision (volume_root_save_unless) */
    uint64_t store_histories; /* as it was taken from (X10) */
    struct pool pool;
    struct state state;
    struct manifest manifest;
    struct row_io row_io;

    /* Limits, from the host's settings and the code. */
    unsigned row_blocks;        /* per data shard */
    unsigned gen_blocks;        /* data blocks of one generation: one row */
    uint64_t bypass_blocks_min; /* 0 = never */

    /* Order (section 6): next_seq > acked_seq >= synced_seq; acked >= committed (state). */
    uint64_t next_seq, acked_seq, synced_seq;
    uint64_t sent_seq; /* all up to here have been handed to the log's copies: >= acked_seq */
    struct memtable memtable;
    struct fiber_queue ack_waiters;

    /* Log. */
    struct list commit_queue; /* struct commit, in order of seq */
    struct fiber_queue committer_wake;
    struct wal *wal_open, *wal_next; /* in state.wals */
    bool committing;                 /* an append is in flight */
    unsigned unsynced_rows;          /* of all places */
    bool wal_next_leave;             /* wal_next is on a slow disk: make another */
    uint64_t slow_next_ns, slow_left_ns, slow_backoff_ns; /* slow.c */
    bool wal_roll; /* a copy of wal_open failed: roll before anything else is acknowledged */
    unsigned wal_capacity_blocks; /* of the next one to be made; follows the write rate */
    uint64_t wal_opened_ns;
    unsigned appends_since_flush, dsync_score;
    struct fiber_queue syncer_wake, sync_waiters;
    uint64_t sync_wanted_seq;
    uint64_t rows_synced_seq, rows_wanted_seq; /* as synced_seq, of large-write rows alone */
    uint64_t rows_lost, rows_lost_told;        /* W6 */
    uint64_t oldest_unsynced_ns;               /* 0 = nothing unsynced */

    /* Space already allocated for what is in memory (D7). */
    struct open_chunk destage_chunks[SPARE_CHUNKS_MAX]; /* [0] is the one being filled */
    unsigned destage_chunk_count;
    struct open_chunk bypass_chunk, bypass_spare, meta_chunk;
    uint64_t reserved_blocks; /* admitted and not yet in the memtable */
    int space_error;          /* of the last attempt to provision; 0 = none */
    bool bypass_active;
    bool has_written; /* the first write has come: keep chunks ready */
    unsigned space_wanted_blocks;
    uint64_t chunk_index_claimed; /* highest logical chunk index given out */
    struct open_chunk clean_chunk;
    struct fiber_queue provisioner_wake, space_waiters;

    /* Large writes: rows in flight complete in order. */
    struct list bypass_queue;
    struct fiber_mutex bypass_mutex;
    struct fiber_queue bypass_turn;

    /* Map. */
    struct extmap delta, delta_frozen;
    uint64_t unmerged_blocks; /* blocks put into the delta since the last merge */
    bool delta_merging;
    struct map *map;
    struct map_store map_store;
    struct idmap live_changes; /* chunk index -> struct live_change, while a merge runs */
    uint64_t unmerged_blocks_frozen;
    bool meta_rewrites;       /* pages are marked for rewriting: merge also without updates */
    struct list meta_pending; /* rows of pages written by the running merge, not recorded yet */

    /* Background fibers. */
    struct fiber_queue destager_wake, destaged, checkpoint_wake, checkpoint_waiters, repair_wake,
        idle_waiters, reader_waiters;
    struct fiber_mutex clean_mutex;
    struct fiber_mutex grow_mutex, hand_over_mutex;
    struct fiber_mutex
        root_mutex;   /* one change of the root at a time; inside manifest.mutex (X2) */
    bool destage_all; /* also small generations, now */
    unsigned destage_waiters;
    uint64_t checkpoint_wanted, checkpoint_done;
    int checkpoint_result;
    uint64_t reclaim_wanted, reclaim_done;        /* tickets of memory_budget.reclaim_ticket */
    unsigned space_askers;                        /* in reclaim_wait */
    uint64_t no_space_since_ns, no_space_last_ns; /* nothing could be freed (E5) */
    bool take_fragments; /* nothing better is to be had: small chunks, between others' shards */
    bool destage_stuck;  /* the destager has rows and no chunk for them */
    uint64_t repair_generation, repair_done;
    int repair_result;
    struct fiber_queue repair_waiters;
    uint32_t *reconciled; /* numbers of disks: compared with the manifest in this epoch */
    unsigned reconciled_count;
    uint64_t second_look_ns; /* when that is done once more (Q4); 0 = no more */
    unsigned fibers;         /* running background fibers */
    unsigned ios;            /* front-end calls inside */
    bool serving;            /* a log and a manifest of this epoch are there: writes are taken */
    bool stopping;           /* background fibers end when their work is done */
    bool closed_to_io;       /* -ESHUTDOWN for new calls */
    int halted;              /* 0, or why: nothing durable may change any more */
    bool released;           /* for its successor, by volume_hand_over */
    uint64_t trouble_ns; /* when last something had to be tried again for lack of disks or store */
    /* Logs that were replayed and are not needed any more, or not there: to be removed once the first
     * manifest of this epoch is current. */
    struct copies_ref *replayed;
    unsigned replayed_count;
    /* Shards of this epoch that nothing names and that may be there all the same (leftover.c). */
    struct leftover {
        uint32_t disk;
        struct shard_key key;
        uint64_t instance;
    } * leftovers;
    unsigned leftover_count, leftover_space;
    bool leftovers_go_on; /* some went just now, and there are more */
    struct close_watch {
        struct env_timer timer;
        uint64_t progress, since_ns;
    } close_watch;
    char problem[256];
    bool damaged_ranges;
    bool replaying;
    uint64_t replay_blocks; /* of budget.opens */
    bool tail_unsure;       /* X7: not all copies of the log that was open are known to end alike */
    uint64_t tail_log; /* X9: where this open found that log's end; 0 = that cannot be chosen */
    uint32_t tail_blocks;
    bool possible_loss; /* S6: found by this open, told with its first manifest */

    struct requests requests;
    struct list partials;   /* struct partial: read-modify-writes under way */
    uint32_t chunk_counter; /* low half of shard_key.chunk */
    struct volume_stats stats;
};

/* volume.c */
uint64_t volume_new_chunk_id(struct volume *volume);
/* Stops everything durable for ever: this node was deposed, or an invariant of the outside is
 * broken. */
void volume_halt(struct volume *volume, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same without a word: handed over. */
void volume_stop(struct volume *volume, int error);
/* The same for the usual reason: somebody else has a later epoch. */
void volume_deposed(struct volume *volume);
void volume_free(struct volume *volume);
void volume_start_fibers(struct volume *volume);
struct disk *volume_disk(const struct volume *volume, uint32_t number);
bool disk_usable(const struct disk *disk);
/* Buffers of the memtable's pool, all or none; waits for the budget. -ESHUTDOWN when halted; -ECANCELED when
 * given up (E4; may be NULL); -EAGAIN: none for a minute, while replaying. */
MAY_SUSPEND int volume_get_blocks(
    struct volume *volume, unsigned count, const bool *given_up, void **ret_blocks);
void volume_put_block(struct volume *volume, void *block);
void volume_put_blocks(struct volume *volume, void *const *blocks, unsigned count);
void budget_pressure(struct memory_budget *budget);
/* Runs run(volume) on a fiber that close waits for. */
void volume_spawn(struct volume *volume, const char *name, void (*run)(void *arg));

/* open_memory.c: a window may be allocated (Y1). */
MAY_SUSPEND void open_reader_begin(struct memory_budget *budget);
void open_reader_end(struct memory_budget *budget);
void open_memory_init(struct open_memory *memory);
/* Waits until the replay of so many blocks of logs may begin (Y2); more on the way: -EAGAIN (Y3). */
MAY_SUSPEND void open_replay_begin(struct volume *volume, uint64_t blocks);
int open_replay_more(struct volume *volume, uint64_t blocks);
void open_replay_end(struct volume *volume);
/* It can destage, or is no more. */
void open_memory_release(struct volume *volume);

/* slow.c: leaves disks that have become slow; cheap, for every batch. */
void slow_check(struct volume *volume);

/* own.c: takes the root (X1); -EBUSY with *ret_owner, else as volume_acquire. */
MAY_SUSPEND int ownership_take(struct volume_host *host, struct volume_root *root, char **text,
    unsigned flags, struct volume_owner *ret_owner, char **ret_error);
/* A fence was refused during recovery: -EAGAIN when somebody else took the volume over, else the
 * store was set back (X5). */
MAY_SUSPEND int ownership_set_back(
    struct volume_host *host, const struct volume_root *root, char **ret_error);
/* Changes the root by one CAS, again until its outcome is known (X2): 0, or -ESHUTDOWN: the volume
 * has halted, perhaps because the root told that it is somebody else's. `change` may run several
 * times. */
typedef void root_change_fn(struct volume_root *root, const void *arg);
MAY_SUSPEND int root_change(struct volume *volume, root_change_fn *change, const void *arg);
/* X3: whether reads that have come may rely on the lease; else they wait for that, or for a place in the log. */
bool ownership_by_lease(const struct volume *volume);
MAY_SUSPEND int ownership_wait(struct volume *volume);
/* By a place in the log, whatever the lease says. */
MAY_SUSPEND int ownership_confirm(struct volume *volume);
/* X4: closed_to_io is set. -ETIMEDOUT, -EHOSTUNREACH: perhaps released, perhaps not. */
/* X9: before the volume serves; when the store does not take it, X7 holds and this may be called again. */
MAY_SUSPEND void ownership_record_tail(struct volume *volume);
MAY_SUSPEND int ownership_release(struct volume *volume, const char *successor);
/* own_again.c (X10): whether the store was set back since the volume was opened, or the root that was read (`ours`: it says
 * that it is) is an earlier one. */
bool ownership_store_was_set_back(const struct volume *volume);
bool ownership_root_was_set_back(
    const struct volume *volume, const struct volume_root *root, bool ours);
/* 0: nobody has taken the volume over; -ESTALE: somebody has; other errors do not say. `manifest_counts`: it is known which
 * one is current. */
MAY_SUSPEND int ownership_unfenced(struct volume *volume, bool manifest_counts);
/* Makes the root that was read ours again; the caller saves it. */
void ownership_take_back(struct volume *volume, struct volume_root *root);
/* Of a volume that was taken and could not be opened (X6). */
MAY_SUSPEND void ownership_give_up(struct volume *volume);

/* log.c: the record is in the log and `commit` done when it returns 0; -ESHUTDOWN when halted. The
 * caller has put it into the memtable. */
void log_enqueue(struct volume *volume, struct commit *commit);
/* A record that says nothing; its seq is next_seq. It counts among the I/O inside until it is in the log or the volume
 * has halted, whoever still waits for it. */
void log_enqueue_noop(struct volume *volume);
MAY_SUSPEND int log_wait(struct volume *volume, struct commit *commit);
/* A flush has come: learns whether flushes follow appends so closely that appending with DSYNC is
 * cheaper. */
void log_learn_flush(struct volume *volume);
/* Waits until everything up to seq is durable. -EIO: large writes were lost before they were (W6).
 */
MAY_SUSPEND int log_sync_to(struct volume *volume, uint64_t seq);
/* Waits until the large-write rows that records up to seq refer to are durable, or known as lost;
 * not for logs. */
MAY_SUSPEND int log_sync_rows_to(struct volume *volume, uint64_t seq);
/* Waits until `seq` is acknowledged. */
MAY_SUSPEND int log_wait_acked(struct volume *volume, uint64_t seq);
void log_committer(void *arg);
void log_syncer(void *arg);
void log_copy_failed(struct volume *volume, struct wal *wal, unsigned copy, int error);
uint64_t log_bytes(const struct volume *volume);
/* More unreleased log than the volume may have: writers wait for destage (which this asks for). */
bool log_is_full(struct volume *volume);
/* Goes on in the next log if that is there and the open one has more blocks: what is then committed
 * goes with it. */
void log_roll_if_long(struct volume *volume, unsigned blocks);
/* So much that what can be committed is. */
bool log_is_long(const struct volume *volume);
/* Gives the next log's space back when it is a large one; a smaller one is made then. */
MAY_SUSPEND int log_next_shrink(struct volume *volume);
/* Logs that were made while too few disks were up, or whose copies share failure domains (Q7), are left for such as have
 * copies in `copies` domains (S3). */
MAY_SUSPEND int log_fill_up(struct volume *volume, unsigned copies);
#define WAL_BLOCKS_MIN 512
/* Frees logs whose records are all committed: appends to `records`; the shards are removed by
 * log_remove_freed. */
struct removed_wal {
    struct list link;
    struct wal wal;
};
void log_collect_freed(struct volume *volume, uint64_t committed_seq, struct records *records,
    struct list *ret_removed);
/* Everything up to committed_seq is durable in rows: flushes need not wait for its log. */
void log_committed(struct volume *volume, uint64_t committed_seq);
MAY_SUSPEND void log_remove_freed(struct volume *volume, struct list *removed);

/* Appends and syncs that tell a group when they are done. */
struct group_append {
    struct shard_append append;
    struct fiber_group *group;
};
struct group_sync {
    struct shard_sync sync;
    struct fiber_group *group;
};
void group_append_submit(struct group_append *append, struct fiber_group *group);
void group_sync_submit(struct group_sync *sync, struct fiber_group *group);

/* copies.c: reading logs and manifests of an earlier epoch, which are whole on each copy. */
struct copies_set {
    uint64_t volume, chunk;
    unsigned count;
    struct disk *disks[CODE_M_MAX + 1]; /* NULL = that copy cannot be used */
    struct shard_info infos[CODE_M_MAX + 1];
    int errors[CODE_M_MAX + 1];
    uint32_t fenced_before[CODE_M_MAX + 1]; /* the fence that was there; 0 = none, or unknown */
    uint32_t length_max;                    /* longest valid prefix */
    unsigned usable, suspect;
    bool lost_only; /* no other copy is left: what LOST ones hold is used */
};
/* Fences every copy that is there. One recorded as LOST was left behind: it is fenced and then as
 * good as gone, neither its length nor its content count. Only where every other copy is gone (not
 * merely away) are they used: as suspect content, never proof of completeness (S6). -ESTALE: a
 * higher epoch is there (S15); -ENOENT: every copy is gone; -EHOSTUNREACH: none can be used, at
 * least one cannot be reached. */
MAY_SUSPEND int copies_fence(struct copies_set *set, struct volume_host *host, uint64_t volume,
    uint64_t chunk, const struct chunk_shard *shards, unsigned count, uint32_t epoch);
/* Whether a copy was fenced by `epoch` before that fenced it for the first time: epochs are used once (X1), so the
 * store has been set back to an older one (X5). */
bool copies_set_back(const struct copies_set *set, uint32_t epoch);
/* away.c: whether a disk that is not in the list may come at all (it is on record, or news). */
bool disk_may_come(const struct volume_host *host, uint32_t number);
/* How much longer recovery waits for the disk (O5); 0 = no more. */
uint64_t disk_awaited_ns(const struct volume_host *host, uint32_t number);
/* What came of asking it. */
void disk_answered(struct disk *disk, int result);
#define DISK_TEXT_BYTES 128
void disk_describe(const struct volume_host *host, uint32_t number, char ret_text[DISK_TEXT_BYTES]);

/* Whether a copy that would count is on a disk that cannot be reached now, or is missing, or that we have
 * not heard of yet: it may have more than the others (S14). One that the operator has forgotten has
 * nothing. */
bool copies_away(
    const struct copies_set *set, const struct volume_host *host, const struct chunk_shard *shards);
/* Blocks from any copy, block by block where copies are damaged; -EBADMSG with the block that no
 * copy can give, -EHOSTUNREACH with one that a copy that does not answer may have. */
MAY_SUSPEND int copies_read(
    const struct copies_set *set, uint32_t off, uint32_t count, uint8_t *buf, uint32_t *ret_bad);

/* manifest.c */
typedef void manifest_applied_fn(void *ctx);
/* Makes the records durable and applies them to the state; then, without suspending in between,
 * calls applied(ctx) if
 * not NULL. Either all of it happened (0) or none, and the volume is halted (-ESHUTDOWN). */
MAY_SUSPEND int manifest_commit(
    struct volume *volume, const struct records *records, manifest_applied_fn *applied, void *ctx);
/* Writes the state afresh on new shards and makes it current by one CAS of the root (S11).
 * root_state: what the root becomes. */
MAY_SUSPEND int manifest_rewrite(struct volume *volume);
/* N4: whether that is likely to get through at once. */
MAY_SUSPEND bool manifest_store_answers(struct volume *volume);
/* Reads the manifest that `ref` names, fencing every copy with `epoch`, into an empty state.
 * *ret_chain as in struct manifest. */
MAY_SUSPEND int manifest_load(struct volume_host *host, const struct volume_root *root,
    struct state *ret_state, struct copies_ref **ret_chain, unsigned *ret_chain_count,
    char **ret_error);
MAY_SUSPEND void copies_remove(struct volume *volume, const struct copies_ref *ref);

/* leftover.c: removes a shard that nothing names (any more): now, or by the repairer once its disk answers. */
MAY_SUSPEND void leftover_remove(
    struct volume *volume, uint32_t disk, struct shard_key key, uint64_t instance);
/* All shards of a chunk, at once, also those that are LOST. */
MAY_SUSPEND void leftover_remove_chunk(struct volume *volume, const struct chunk_place *place);
/* Not now. */
void leftover_note(struct volume *volume, uint32_t disk, struct shard_key key, uint64_t instance);
/* Some of them, and sets leftovers_go_on. */
MAY_SUSPEND void leftovers_clear(struct volume *volume);

/* placement of copies and chunks (provision.c) */
/* On how many disks a log or manifest could be now, at most m + 1. */
unsigned copies_placeable(struct volume *volume, enum shard_kind kind);
/* A create whose answer was lost may have happened: the next try is for another chunk. */
MAY_SUSPEND int copies_create(struct volume *volume, enum shard_kind kind, unsigned copies_max,
    unsigned copies_min, uint32_t capacity_blocks, uint32_t capacity_blocks_min,
    enum shard_priority priority, uint64_t *ret_chunk, struct chunk_shard *ret_shards,
    unsigned *ret_copies, uint32_t *ret_capacity);
/* `whole`: -ENOSPC rather than a chunk of less than a slab a shard. */
MAY_SUSPEND int chunk_new(struct volume *volume, enum shard_kind kind, enum shard_priority priority,
    bool whole, uint64_t *ret_index);
MAY_SUSPEND int wal_new(struct volume *volume, struct wal *ret_wal);
/* Parts of a place have logical chunks of their own, when space may get short: cleaning then moves each where there is
 * room, and fills its targets (K5). */
#define PLACE_PARTS 4u
/* The logical chunk of the next row of `place`, whose first logical chunk is `index`. */
uint64_t row_chunk(const struct volume *volume, uint64_t index, const struct place *place);
void provisioner(void *arg);
uint64_t place_room_blocks(const struct volume *volume, const struct place *place);
uint64_t provisioned_blocks(const struct volume *volume);
MAY_SUSPEND int space_reserve(
    struct volume *volume, unsigned blocks, const struct request *request);
void space_unreserve(struct volume *volume, unsigned blocks);
/* Takes a place out of use for new rows and seals it once its rows are recorded. */
void place_retire(struct volume *volume, struct place *place);
MAY_SUSPEND int place_seal_retired(struct volume *volume);
void place_seal_retired_kick(struct volume *volume);

/* destage.c, large_write.c, checkpoint.c, clean.c, repair.c */
void destager(void *arg);
MAY_SUSPEND int destage_everything(struct volume *volume);
MAY_SUSPEND int large_write(struct volume *volume, uint64_t block, unsigned count, const void *buf,
    unsigned flags, struct request *request);
void checkpointer(void *arg);
/* The clean mutex is held: merging, freeing and cleaning exclude one another. */
MAY_SUSPEND int checkpoint_now(struct volume *volume);
/* Merges and frees, for all who have asked for a checkpoint so far. */
MAY_SUSPEND int checkpoint_and_free(struct volume *volume);
void checkpoint_ask(struct volume *volume);
/* Asks for a checkpoint and waits for it. */
MAY_SUSPEND int checkpoint_wait(struct volume *volume);
void checkpoint_init_store(struct volume *volume);
/* Rebuilds the delta table from the items (recovery). */
MAY_SUSPEND int delta_rebuild(struct volume *volume, char **ret_error);
/* row_io.trouble of a volume. */
void volume_trouble(
    void *ctx, const struct chunk_place *place, unsigned shard, int error, uint32_t block);
void repairer(void *arg);
void repair_kick(struct volume *volume);
enum clean_urge {
    CLEAN_TIDY,  /* when a good part of what is stored is garbage */
    CLEAN_SHORT, /* while space is short: all that is cheap */
    CLEAN_FULL,  /* somebody waits for space */
};
MAY_SUSPEND int clean_pass(struct volume *volume, enum clean_urge urge);
/* Rewrites all that is live in `place` elsewhere. */
MAY_SUSPEND int clean_place(struct volume *volume, uint64_t place_chunk);
/* Removes places that no chunk needs. */
MAY_SUSPEND int free_dead_chunks(struct volume *volume);
MAY_SUSPEND int free_place(struct volume *volume, uint64_t place_chunk);
/* reconcile.c: compares disks that were not in this epoch with the manifest (Q4, Q6). An error: some disk did not
 * answer, again later. */
MAY_SUSPEND int reconcile_disks(struct volume *volume);
/* Moves the pages of one metadata chunk by marking and merging them. */
MAY_SUSPEND int clean_meta_chunk(struct volume *volume, uint64_t index);
/* The place is no longer one that rows are written to. */
void volume_forget_target(struct volume *volume, const struct place *place);

/* crowded.c (Q7): the shards that share a failure domain with an earlier one of the place, a bit each. */
uint32_t place_crowded(const struct volume *volume, const struct place *place);
/* How many domains have disks for data, as far as that matters to a place; whether there are more than it is in. */
unsigned data_domains_up(const struct volume *volume);
bool place_can_spread(const struct volume *volume, const struct place *place, unsigned domains_up);
/* In how many domains the copies are, as far as they are up; others count as one each. */
unsigned wal_domains(const struct volume *volume, const struct wal *wal);
unsigned copies_domains(const struct volume *volume, const struct copies_ref *ref);

/* reclaim.c */
bool space_is_short(const struct volume *volume);
bool space_may_get_short(const struct volume *volume);
MAY_SUSPEND void clean_if_due(struct volume *volume);
/* Somebody needs space that cannot be had: asks all volumes of the node for a round of reclaim_round. */
void reclaim_kick(struct volume *volume);
/* Likewise, and waits: 0 once something was freed, -ENOSPC when such a round freed nothing (E1). */
MAY_SUSPEND int reclaim_wait(struct volume *volume);
/* The checkpointer's part of it, for this volume. */
bool reclaim_is_wanted(const struct volume *volume);
MAY_SUSPEND void reclaim_round(struct volume *volume);
/* No round of this volume will come any more. */
void reclaim_end(struct volume *volume);

/* io.c */
/* A front-end call is over. */
void io_leave(struct volume *volume);
void partials_touch(struct volume *volume, uint64_t block, uint64_t count);
/* What the newest committed state (delta, map; not the memtable) says of `block`. */
MAY_SUSPEND int lookup_committed(
    struct volume *volume, uint64_t block, uint64_t len_max, struct map_run *ret_run);
/* Reads a run that a map entry names. -ENOENT: freed meanwhile, look up again. */
MAY_SUSPEND int read_mapped(
    struct volume *volume, uint64_t entry, uint32_t count, uint64_t block, void *buf, bool leave);
