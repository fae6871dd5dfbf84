/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of an open share: open.c (ownership, manifest, places left open), replay.c (logs),
 * replay_rows.c (large-write rows that log records name).
 */
#pragma once

#include "blockd/volume/volume_impl.h"

/* What is known of the shards of one open place: how far each goes. */
struct probe {
    uint64_t chunk;
    struct shard_info infos[CODE_SHARDS_MAX];
    int errors[CODE_SHARDS_MAX];
    bool taken_back[CODE_SHARDS_MAX]; /* the manifest calls it LOST, and rows of it were needed */
};

enum recovery_phase {
    RECOVERY_ROOT,
    RECOVERY_MANIFEST,
    RECOVERY_LOGS,
    RECOVERY_PLACES,
    RECOVERY_DELTA,
    RECOVERY_BEGIN,
    RECOVERY_PHASES
};

struct recovery {
    struct volume *volume;
    char **ret_error;
    uint64_t expected_seq; /* of the next record */
    bool stopped;          /* O2: nothing behind this point counts */
    bool power_loss;       /* only suspect copies had something */
    bool tail_lost;        /* and a log was found shorter than it was: a gap is to be expected */
    bool open_seen;        /* the log that was appended to: in those behind it nothing was */
    uint32_t given_up; /* a disk that may have had more and was waited for long enough; 0 = none */
    struct idmap probes; /* by place */
    uint64_t
        phase_ns[RECOVERY_PHASES + 1]; /* when each began, and the end: the pause of a handover */
};

/* A block for the memtable. */
MAY_SUSPEND int recovery_block(struct recovery *rec, void **ret_data);
/* Of disk `number`, which may have more of `what` than was found: -EHOSTUNREACH, with the reason and the way out,
 * while it is waited for (O5). 0: it is not any more; that is remembered. */
int recovery_await(struct recovery *rec, uint32_t number, const char *what);
/* Gives the row that a LOG_ROW record names its place in the geometry (*ret_added: it was new
 * there). 1: all shards
 * that can be reached have it, 2: enough do, 0: not enough, and only a power loss explains it, or
 * an error. */
MAY_SUSPEND int recovery_stage_row(
    struct recovery *rec, const struct log_record *record, uint64_t seq, bool *ret_added);
/* Puts a staged row into the memtable, as a reference (presence 1) or as data (2). */
MAY_SUSPEND int recovery_replay_row(
    struct recovery *rec, const struct log_record *record, uint64_t seq, int presence);
/* Fences, replays and seals every log of the manifest, in order. */
MAY_SUSPEND int recovery_logs(struct recovery *rec);
/* Appends each replayed log that is not on enough disks again to a new one, durably (S12). The first
 * error for which there are too few of them; later ones are tried again by the next call. */
MAY_SUSPEND int recovery_copy_logs(struct volume *volume);
/* The log's shards go once the first manifest of this epoch is current. */
void recovery_remove_later(struct volume *volume, const struct wal *wal);
