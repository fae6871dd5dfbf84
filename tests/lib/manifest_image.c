/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/manifest_image.h"

#include <string.h>

#include "common/bytes.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/mem.h"

#define CAPACITY_BLOCKS 300

void manifest_image_init(struct manifest_image *image)
{
    *image = (struct manifest_image){.root = {.id = MANIFEST_IMAGE_VOLUME,
                                         .epoch = MANIFEST_IMAGE_EPOCH + 1,
                                         .manifest = manifest_image_ref(1)}};
    disk_list_init(&image->disks);
    for (unsigned i = 0; i < 2; i++) {
        image->fakes[i] = fake_disk_new(i + 1, 4 * CAPACITY_BLOCKS);
        disk_list_add(&image->disks, &image->fakes[i]->disk);
    }
    memory_budget_init(&image->budget, MEMORY_BLOCKS_MIN, MEMORY_IO_MIN);
    image->host.disks = &image->disks;
    image->host.budget = &image->budget;
}

void manifest_image_fini(struct manifest_image *image)
{
    for (unsigned i = 0; i < 2; i++)
        fake_disk_free(image->fakes[i]);
    memory_budget_fini(&image->budget);
}

struct shard_key manifest_image_key(uint64_t chunk, unsigned copy)
{
    return (struct shard_key){
        .volume = MANIFEST_IMAGE_VOLUME, .chunk = chunk, .index = (uint8_t)copy};
}

struct copies_ref manifest_image_ref(uint64_t chunk)
{
    return (struct copies_ref){.chunk = chunk, .count = 2, .places = {{1, 100}, {2, 101}}};
}

void manifest_image_chunk(struct manifest_image *image, uint64_t chunk)
{
    for (unsigned i = 0; i < 2; i++) {
        struct shard_create create = {.key = manifest_image_key(chunk, i),
            .kind = SHARD_MANIFEST,
            .code = {1, 1},
            .instance = 100 + i,
            .epoch = MANIFEST_IMAGE_EPOCH,
            .capacity_blocks = CAPACITY_BLOCKS,
            .capacity_blocks_min = CAPACITY_BLOCKS,
            .priority = SHARD_PRIORITY_SYSTEM};
        CHECK(shard_create(&image->fakes[i]->disk, &create, NULL) == 0);
    }
    image->chunk = chunk;
    image->length_blocks = 0;
}

bool manifest_image_append(struct manifest_image *image, uint16_t version, uint16_t flags,
    uint32_t claimed_len, const void *bytes, size_t len_bytes, bool payload)
{
    uint8_t body[APPEND_BODY_BYTES];
    struct shard_entry entries[APPEND_ENTRIES_MAX];
    unsigned blocks = 0, inline_len = 8;
    struct iovec iov = {0};
    put_le16(body, version);
    put_le16(body + 2, flags);
    put_le32(body + 4, claimed_len);
    if (payload || len_bytes > sizeof(body) - 8) {
        blocks = (unsigned)MIN(DIV_ROUND_UP(len_bytes, (size_t)BLOCK_BYTES), (size_t)240);
        blocks = MAX(blocks, 1u);
        iov.iov_len = (size_t)blocks * BLOCK_BYTES;
        iov.iov_base = mem_alloc_pages(iov.iov_len);
        memset(iov.iov_base, 0, iov.iov_len);
        memcpy(iov.iov_base, bytes, MIN(len_bytes, iov.iov_len));
        for (unsigned i = 0; i < blocks; i++)
            entries[i] = (struct shard_entry){.address = i,
                .crc = crc32c(0, (char *)iov.iov_base + (size_t)i * BLOCK_BYTES, BLOCK_BYTES)};
    } else {
        memcpy(body + 8, bytes, len_bytes);
        inline_len += (unsigned)len_bytes;
    }
    bool fits = image->length_blocks + 1 + blocks <= CAPACITY_BLOCKS;
    for (unsigned i = 0; i < 2 && fits; i++) {
        struct shard_append append = {.disk = &image->fakes[i]->disk,
            .key = manifest_image_key(image->chunk, i),
            .epoch = MANIFEST_IMAGE_EPOCH,
            .off_blocks = image->length_blocks,
            .entries = entries,
            .entry_count = blocks,
            .inline_bytes = body,
            .inline_len_bytes = inline_len,
            .payload = &iov,
            .payload_count = blocks > 0};
        CHECK(shard_append(&append) == 0);
    }
    if (fits)
        image->length_blocks += 1 + blocks;
    if (iov.iov_base)
        mem_free_pages(iov.iov_base, iov.iov_len);
    return fits;
}
