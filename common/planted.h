/* SPDX-License-Identifier: Apache-2.0
 *
 * Planted bugs: proof that the simulations bite. Where a rule is enforced, `if (PLANTED(bug))` breaks it.
 * Without the meson option planted_bugs that is constant false and leaves nothing in the program. With
 * it one bug is chosen when a program starts: HOLDFAST_PLANTED=bug in the environment, or
 * --planted bug of a simulation. tests/sim/planted asserts that each is found.
 */
#pragma once

#include <stdbool.h>

/* The bug, the rule of safety.md (or the invariant) that it breaks, what it does. */
#define PLANTED_BUGS(BUG)                                                                          \
    BUG(unsynced_manifest, "S1", "a manifest record counts before it is synced")                   \
    BUG(free_before_record, "S1", "logs go before the record that commits their rows")             \
    BUG(ack_before_all_copies, "S2", "a write is acknowledged when the copies' appends are sent")  \
    BUG(break_cumulative_acks, "S2", "after a roll, later writes go before those not yet acked")   \
    BUG(roll_unrecorded, "S2", "the roll to the next log is not in the manifest")                  \
    BUG(lost_copy_is_fine, "S3", "a log goes on with the copies it has left")                      \
    BUG(flush_ignores_others, "S4", "a flush leaves out the last write, of another connection")    \
    BUG(flush_open_log_only, "S4", "a flush syncs the open log and not the sealed ones")           \
    BUG(flush_without_rows, "S4", "a flush leaves out the rows of large writes")                   \
    BUG(join_running_flush, "S4", "a sync joins the device flush that is under way")               \
    BUG(drop_a_sync, "S4", "the first copy of a log is not synced")                                \
    BUG(sync_after_reboot, "S5", "a shard whose boot changed takes appends and syncs again")       \
    BUG(trust_suspect, "S6", "a shard is not suspect after a power loss")                          \
    BUG(wash_suspect, "S6", "suspect is forgotten by a restart of the daemon")                     \
    BUG(create_undurable, "S7", "a shard counts as created before the table says so")              \
    BUG(fence_without_tombstone, "S7", "fencing an absent shard leaves nothing")                   \
    BUG(retry_unchecked, "S8", "an append where there is one succeeds whatever it brings")         \
    BUG(append_ignores_fence, "S8", "appends of a fenced epoch are taken")                         \
    BUG(fenced_is_failure, "S8", "a copy that answers 'fenced' is left out, the owner goes on")    \
    BUG(remove_any_instance, "S9", "a delete does not look at the instance")                       \
    BUG(takeover_blind, "S10", "a volume is taken though its owner's session lives")               \
    BUG(skip_fencing, "S11", "a taker-over reads the copies without fencing them")                 \
    BUG(append_to_old_log, "S11", "recovery leaves the earlier epoch's logs unsealed")             \
    BUG(log_left_short, "S12", "a log found on too few copies is not completed")                   \
    BUG(replay_over_gap, "S12", "replay goes on behind a gap in the sequence")                     \
    BUG(off_by_one_sealed_length, "S12", "a log is recorded as sealed one block short")            \
    BUG(unknown_is_success, "S13", "a CAS of the root without an answer counts as done")           \
    BUG(row_record_early, "S14", "a large write's record does not wait for its row")               \
    BUG(unreachable_is_absent, "S14", "a log copy on a disk that is away counts as lost")          \
    BUG(damage_is_absence, "S14", "damage in an open shard counts as its end")                     \
    BUG(ignore_higher_fence, "S15", "a shard fenced by a higher epoch is just another copy")       \
    BUG(read_on_stale_lease, "S16", "reads do not look at the lease")                              \
    BUG(read_without_noop, "S17", "without a lease a read waits for nothing")                      \
    BUG(confirm_by_earlier_append, "S17",                                                          \
        "it waits for an append that was sent before it arrived")                                  \
    BUG(outage_stops_io, "S18", "a volume waits for the store when its lease has run out")         \
    BUG(outage_skips_record, "S18", "a manifest that lacks a copy takes records while it is away") \
    BUG(resend_not_replayed, "S19", "replay does not remember whose request a record was")         \
    BUG(resend_not_recorded, "S19", "the manifest's list of requests is not read at recovery")     \
    BUG(given_up_is_placed, "S19", "a request gets its place when its connection is over")         \
    BUG(serves_after_release, "S20", "a volume that was handed over goes on serving")              \
    BUG(release_not_cleared, "S20", "the next owner leaves the root released")                     \
    BUG(lost_trim, "S21", "a trim is not replayed")                                                \
    BUG(stale_version_wins, "S21", "recovery takes the first version of a block it meets")         \
    BUG(directory_forgotten, "S21", "the last row's directory is not read at recovery")            \
    BUG(row_before_sync, "S21", "large writes' rows are committed unsynced")                       \
    BUG(missed_row_not_recorded, "S23", "a shard that lacks rows after a power loss counts whole") \
    BUG(row_without_a_shard, "S23", "a row counts though a shard of it has failed")                \
    BUG(reconcile_own_epoch, "S24", "reconciliation removes shards of the serving epoch")          \
    BUG(early_reuse, "D5", "a removed shard's space is reused before the table says so")           \
    BUG(retry_failed_flush, "D2", "a disk goes on after a failed flush")                           \
    BUG(unchecked_read, "D3", "a read does not look at the CRCs")                                  \
    BUG(hang_is_waited_for, "D19", "an I/O that does not come back is waited for without end")     \
    BUG(taken_back_blind, "X10", "a root is written again without a look at the fences")           \
    BUG(read_unacked, "I2", "a read returns a write that is not acknowledged")                     \
    BUG(lost_update, "I3", "a partial write does not start again when its block was touched")      \
    BUG(cleaned_too_much, "K1", "cleaning leaves out a block that is live")

enum {
    PLANTED_NONE,
#define PLANTED_NUMBER(bug, rule, what) PLANTED_##bug,
    PLANTED_BUGS(PLANTED_NUMBER)
#undef PLANTED_NUMBER
        PLANTED_COUNT,
};

#ifdef HOLDFAST_PLANTED_BUGS
extern int planted_chosen;
/* NULL or "": none. Ends the program when there is no such bug. */
void planted_choose(const char *name);
#define PLANTED(bug) __builtin_expect(planted_chosen == PLANTED_##bug, 0)
#else
#define PLANTED(bug) (PLANTED_##bug == PLANTED_NONE) /* false, and no misspelling passes */
#endif
