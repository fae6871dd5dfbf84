/* SPDX-License-Identifier: Apache-2.0
 *
 * A row's directory: the entries of its data shards, from the headers on any k shards.
 */
#include <errno.h>
#include <string.h>

#include "blockd/disk/append_header.h"
#include "blockd/volume/row_impl.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

struct header_read {
    struct shard_read read;
    struct iovec iov;
    struct fiber_group *group;
};

struct header_reader {
    const struct row_io *io;
    const struct chunk_place *place;
    unsigned row;
    uint32_t off_blocks;
    struct fiber_group group;
    struct header_read reads[CODE_K_MAX];
    uint8_t *blocks; /* k of them */
    bool absent_seen, damage_seen, unreachable_seen;
    unsigned good;
};

static void header_done(struct shard_read *read)
{
    fiber_group_done(container_of(read, struct header_read, read)->group, 0);
}

static bool header_submit(struct header_reader *hr, unsigned slot, unsigned shard)
{
    struct header_read *read = &hr->reads[slot];
    int error;
    struct disk *disk = row_disk_even_lost(hr->io, hr->place, shard, &error);
    if (!disk) {
        hr->unreachable_seen |= error == -EHOSTUNREACH;
        row_trouble(hr->io, hr->place, shard, error, hr->off_blocks);
        return false;
    }
    read->group = &hr->group;
    read->iov =
        (struct iovec){.iov_base = hr->blocks + (size_t)slot * BLOCK_BYTES, .iov_len = BLOCK_BYTES};
    read->read = (struct shard_read){
        .disk = disk,
        .key = chunk_shard_key(hr->place, shard),
        .off_blocks = hr->off_blocks,
        .count = 1,
        .iov = &read->iov,
        .iov_count = 1,
        .done = header_done,
    };
    fiber_group_add(&hr->group, 1);
    shard_read_submit(&read->read);
    return true;
}

/* What the header says must be what the place says; base_seq and inline bytes what the row's other
 * headers say. */
static int header_check(const struct header_reader *hr, const void *block,
    const struct append_header *header, const struct row_headers *headers, unsigned shard)
{
    const struct chunk_place *place = hr->place;
    if (header->key.volume != place->volume || header->key.chunk != place->chunk ||
        header->key.index != shard || header->kind != place->kind ||
        header->code.k != place->code.k || header->code.m != place->code.m ||
        header->off_blocks != hr->off_blocks || header->entry_count != place->row_len[hr->row])
        return -EBADMSG;
    if (hr->good > 0 && (header->base_seq != headers->base_seq ||
                            header->inline_len_bytes != headers->inline_len_bytes ||
                            memcmp(append_header_inline(block, header), headers->inline_bytes,
                                header->inline_len_bytes) != 0))
        return -EBADMSG;
    return 0;
}

/* Takes what a header that was read says into `headers`. */
static int header_take(
    struct header_reader *hr, const struct header_read *read, struct row_headers *headers)
{
    int r = read->read.result;
    if (r < 0)
        return r;
    const void *block = read->iov.iov_base;
    struct append_header header;
    unsigned shard = read->read.key.index;
    r = append_header_parse(block, &header);
    if (r == 0)
        r = header_check(hr, block, &header, headers, shard);
    if (r < 0) {
        log_error_limited("volume %016llx chunk %llx: the header of row %u on shard %u is not the "
                          "one that was written there",
            (unsigned long long)hr->place->volume, (unsigned long long)hr->place->chunk, hr->row,
            shard);
        return r;
    }
    if (hr->good == 0) {
        headers->base_seq = header.base_seq;
        headers->inline_len_bytes = header.inline_len_bytes;
        headers->inline_bytes = mem_alloc(header.inline_len_bytes);
        memcpy(
            headers->inline_bytes, append_header_inline(block, &header), header.inline_len_bytes);
    }
    headers->shards[hr->good] = shard;
    struct shard_entry *entries = headers->entries[hr->good] =
        mem_alloc(header.entry_count * sizeof(*entries));
    for (unsigned i = 0; i < header.entry_count; i++)
        entries[i] = append_header_entry(block, i);
    hr->good++;
    return 0;
}

static MAY_SUSPEND int headers_gather(struct header_reader *hr, struct row_headers *headers)
{
    unsigned k = hr->place->code.k, shards = k + hr->place->code.m, next = 0;
    while (hr->good < k) {
        unsigned asked = 0;
        for (; hr->good + asked < k && next < 2 * shards; next++) {
            if (row_shard_lost(hr->place, next % shards) == (next >= shards)) /* LOST ones last */
                asked += header_submit(hr, asked, next % shards);
        }
        if (asked == 0)
            return hr->damage_seen        ? -EIO
                   : hr->absent_seen      ? -ENOENT
                   : hr->unreachable_seen ? -EHOSTUNREACH
                                          : -EIO;
        fiber_group_wait(&hr->group);
        for (unsigned i = 0; i < asked; i++) {
            int r = header_take(hr, &hr->reads[i], headers);
            bool lost = row_shard_lost(hr->place, hr->reads[i].read.key.index);
            hr->absent_seen |= r == -ENOENT && !lost;
            hr->unreachable_seen |= r == -EHOSTUNREACH;
            hr->damage_seen |= r == -EBADMSG || r == -ERANGE;
            if (r < 0)
                row_trouble(hr->io, hr->place, hr->reads[i].read.key.index, r, hr->off_blocks);
        }
    }
    return 0;
}

int row_headers_read(const struct row_io *io, const struct chunk_place *place, unsigned row,
    struct row_headers *ret_headers)
{
    CHECK(row < place->row_count && place->row_len[row] <= APPEND_ENTRIES_MAX);
    struct header_reader *hr = NEW(struct header_reader);
    hr->io = io;
    hr->place = place;
    hr->row = row;
    hr->off_blocks = chunk_row_off_blocks(place, row);
    size_t blocks_bytes = (size_t)place->code.k * BLOCK_BYTES;
    hr->blocks = mem_alloc_pages(blocks_bytes);
    fiber_group_init(&hr->group);

    struct row_headers headers = {0};
    int r = headers_gather(hr, &headers);
    if (r == 0)
        *ret_headers = headers;
    else
        row_headers_fini(&headers);
    mem_free_pages(hr->blocks, blocks_bytes);
    mem_free(hr);
    return r;
}

void row_headers_fini(struct row_headers *headers)
{
    for (unsigned i = 0; i < CODE_K_MAX; i++)
        mem_free(headers->entries[i]);
    mem_free(headers->inline_bytes);
}

/* Entries of data shard `shard`, decoded if it is not among the headers. */
static void shard_directory(const struct row_headers *headers, struct ec *ec,
    struct shard_code code, unsigned shard, uint32_t len, struct shard_entry *ret_entries)
{
    const void *sources[CODE_K_MAX];
    unsigned have[CODE_K_MAX];
    void *dest = ret_entries;
    for (unsigned i = 0; i < code.k; i++) {
        if (headers->shards[i] == shard || code.k == 1) {
            memcpy(ret_entries, headers->entries[i], len * sizeof(*ret_entries));
            return;
        }
        sources[i] = headers->entries[i];
        have[i] = headers->shards[i];
    }
    ec_decode(ec, len * sizeof(*ret_entries), have, sources, &shard, 1, &dest);
}

int row_read_directory(const struct row_io *io, const struct chunk_place *place, unsigned row,
    struct row_directory **ret_directory)
{
    struct shard_code code = place->code;
    uint32_t len = place->row_len[row];
    struct row_headers headers;
    int r = row_headers_read(io, place, row, &headers);
    if (r < 0)
        return r;

    struct row_directory *directory =
        mem_alloc(sizeof(*directory) + (size_t)code.k * len * sizeof(directory->entries[0]));
    directory->base_seq = headers.base_seq;
    directory->count = code.k * len;
    struct shard_entry entries[APPEND_ENTRIES_MAX];
    struct ec *ec = row_ec_get(io, code);
    for (unsigned shard = 0; shard < code.k; shard++) {
        shard_directory(&headers, ec, code, shard, len, entries);
        for (uint32_t i = 0; i < len; i++) {
            directory->entries[shard * len + i].address = entries[i].address;
            directory->entries[shard * len + i].seq = headers.base_seq + entries[i].aux;
        }
    }
    row_ec_put(io, ec);
    row_headers_fini(&headers);
    *ret_directory = directory;
    return 0;
}
