/* SPDX-License-Identifier: Apache-2.0
 *
 * Volumes that could not be opened here lately, and why: an open that waits for disks fails, and is tried
 * again (docs/adr/0007-recovery-waits.md), so nothing else can tell what it waits for. For people: it decides nothing.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct volumes_refused;

struct volumes_refused *volumes_refused_new(void);
void volumes_refused_free(struct volumes_refused *refused);
/* `why` is copied; the volume's older one goes. Bounded: of more than 256 those go that were noted longest ago. */
void volumes_refused_note(struct volumes_refused *refused, uint64_t id, const char *why);
/* It is open, here or elsewhere, or deleted. */
void volumes_refused_forget(struct volumes_refused *refused, uint64_t id);
/* NULL: it was not tried in the last minute, or was opened since. Valid until the next note or forget. */
const char *volumes_refused_why(const struct volumes_refused *refused, uint64_t id);
/* Of the last minute, the last 16. */
void volumes_refused_each(
    const struct volumes_refused *refused, void (*fn)(void *ctx, const char *why), void *ctx);
