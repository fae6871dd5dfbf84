/* SPDX-License-Identifier: Apache-2.0
 *
 * The disks that a node's volumes see, and the one way to find one by its number: that is done for each shard of
 * each I/O, so it does not go through the list.
 *
 * A disk's number changes only by disk_list_set_number() while it is in a list. Two disks have the same number for a
 * moment when one was carried to another node (members_disks.c): the one that has had it longer is found. 0 is the
 * number of a disk that is on its way out: it is in the list and never found.
 */
#pragma once

#include "blockd/disk/shard.h"

#define DISK_LIST_BUCKETS 1024u /* numbers are given in order: as many disks are a step each */

struct disk_list {
    struct list all; /* struct disk.link, in the order in which they were added */
    struct disk *by_number[DISK_LIST_BUCKETS]; /* chains of struct disk.number_next */
};

void disk_list_init(struct disk_list *list);
/* At the end. The disk is in no list. */
void disk_list_add(struct disk_list *list, struct disk *disk);
void disk_list_remove(struct disk_list *list, struct disk *disk);
/* The disk is in the list. */
void disk_list_set_number(struct disk_list *list, struct disk *disk, uint32_t number);
/* NULL: none has it. */
struct disk *disk_list_find(const struct disk_list *list, uint32_t number);
