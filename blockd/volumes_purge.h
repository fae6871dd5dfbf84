/* SPDX-License-Identifier: Apache-2.0
 *
 * The background work of the registry: frees what deleted volumes have left on disks (V4).
 */
#pragma once

#include "blockd/volume/volume.h"

struct volumes_purge;

/* Looks for roots in VOLUME_DELETING (on a cluster those that are ours, volume_cluster) and purges them one after the other; tries again after
 * retry_ns (0 = 60 s) where that fails, a disk being away for instance. */
struct volumes_purge *volumes_purge_start(struct volume_host *host, uint64_t retry_ns);
/* Another one, deleted just now. */
void volumes_purge_add(struct volumes_purge *purge, uint64_t id);
/* Others may have left some, or a disk that was waited for is back or forgotten. */
void volumes_purge_look(struct volumes_purge *purge);
/* Waits for the purge under way, not for those to come (the next start does them). */
MAY_SUSPEND void volumes_purge_stop(struct volumes_purge *purge);
/* Nothing is left to do. */
bool volumes_purge_idle(const struct volumes_purge *purge);
