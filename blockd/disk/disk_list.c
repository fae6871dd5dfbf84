/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/disk/disk_list.h"

#include "common/check.h"

void disk_list_init(struct disk_list *list)
{
    *list = (struct disk_list){0};
    list_init(&list->all);
}

static struct disk **chain_of(struct disk_list *list, uint32_t number)
{
    return &list->by_number[number % DISK_LIST_BUCKETS];
}

/* Behind those that are there: the first one that has a number keeps being found by it. */
static void chain_add(struct disk_list *list, struct disk *disk)
{
    struct disk **at = chain_of(list, disk->number);
    while (*at)
        at = &(*at)->number_next;
    disk->number_next = NULL;
    *at = disk;
}

static void chain_remove(struct disk_list *list, struct disk *disk)
{
    struct disk **at = chain_of(list, disk->number);
    while (*at && *at != disk)
        at = &(*at)->number_next;
    CHECK_MSG(*at, "disk %u got its number behind the list's back", disk->number);
    *at = disk->number_next;
    disk->number_next = NULL;
}

void disk_list_add(struct disk_list *list, struct disk *disk)
{
    list_push_back(&list->all, &disk->link);
    chain_add(list, disk);
}

void disk_list_remove(struct disk_list *list, struct disk *disk)
{
    chain_remove(list, disk);
    list_remove(&disk->link);
}

void disk_list_set_number(struct disk_list *list, struct disk *disk, uint32_t number)
{
    chain_remove(list, disk);
    disk->number = number;
    chain_add(list, disk);
}

struct disk *disk_list_find(const struct disk_list *list, uint32_t number)
{
    if (number == 0)
        return NULL;
    struct disk *disk = list->by_number[number % DISK_LIST_BUCKETS];
    while (disk && disk->number != number)
        disk = disk->number_next;
    return disk;
}
