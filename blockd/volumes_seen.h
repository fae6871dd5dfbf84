/* SPDX-License-Identifier: Apache-2.0
 *
 * What this node has last seen of volumes' records, for the time that the store does not answer:
 * names can then be looked up, and volumes that another node serves be attached to there. It decides nothing:
 * whoever serves a volume says so himself, by its epoch (S19), and takes none over without the
 * store (S10).
 */
#pragma once

#include "blockd/volumes.h"

struct volumes_seen;

struct volumes_seen *volumes_seen_new(void);
void volumes_seen_free(struct volumes_seen *seen);
/* One record as it was just now; the volume's older one goes (it alone, when it is being deleted). Bounded: beyond 4096 volumes those that
 * were noted longest ago go. */
void volumes_seen_note(struct volumes_seen *seen, const struct volumes_name *name);
/* All that there are: others are not there any more. */
void volumes_seen_note_all(
    struct volumes_seen *seen, const struct volumes_name *names, unsigned count);
/* The volume is deleted, or has got another name. */
void volumes_seen_forget(struct volumes_seen *seen, uint64_t id);
/* NULL: none of that name was seen. Valid until the next call. */
const struct volumes_name *volumes_seen_find(const struct volumes_seen *seen, const char *name);
/* By name. mem_free. */
void volumes_seen_list(
    const struct volumes_seen *seen, struct volumes_name **ret_names, unsigned *ret_count);
