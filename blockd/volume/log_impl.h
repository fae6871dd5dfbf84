/* SPDX-License-Identifier: Apache-2.0
 *
 * Shared by log.c (appends, rolls) and log_sync.c (durability) only.
 */
#pragma once

#include "blockd/volume/volume_impl.h"

struct shard_key log_wal_key(const struct volume *v, const struct wal *wal, unsigned copy);
bool log_any_beyond_sync(const struct volume *v);
bool log_roll_unrecorded(const struct volume *v);
void log_note_synced(struct volume *v, uint64_t seq);
