/* SPDX-License-Identifier: Apache-2.0
 *
 * Manifests as bytes on disks in memory, made by hand: what manifest.c would write, and what it never
 * would. Two copies, on disks 1 and 2 of `host`.
 */
#pragma once

#include "blockd/volume/volume_impl.h"
#include "tests/lib/fake_disk.h"

#define MANIFEST_IMAGE_VOLUME 7
#define MANIFEST_IMAGE_EPOCH 3

struct manifest_image {
    struct fake_disk *fakes[2];
    struct disk_list disks;
    struct volume_host host;
    struct memory_budget budget;
    struct volume_root root; /* of an owner with the next epoch */
    uint64_t chunk;          /* the one being written */
    uint32_t length_blocks;
};

void manifest_image_init(struct manifest_image *image);
void manifest_image_fini(struct manifest_image *image);
/* Begins chunk `chunk` on both disks, with instances 100 and 101. */
MAY_SUSPEND void manifest_image_chunk(struct manifest_image *image, uint64_t chunk);
struct copies_ref manifest_image_ref(uint64_t chunk);
struct shard_key manifest_image_key(uint64_t chunk, unsigned copy);
/* One append to both copies: prefix as given, bytes inline if they fit and `payload` is not set. Returns false when the
 * chunk is full. */
MAY_SUSPEND bool manifest_image_append(struct manifest_image *image, uint16_t version,
    uint16_t flags, uint32_t claimed_len, const void *bytes, size_t len_bytes, bool payload);
