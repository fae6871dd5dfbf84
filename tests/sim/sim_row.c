/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows on real shard stores, under power cuts, lost disks and rot. A round writes rows of a random
 * code to a chunk, durably, and is cut off anywhere. After the restart every row that was answered is
 * read back (R1); then up to m disks are lost or rot, everything is still there (R3) and nothing
 * false is returned (R2); the lost shards are rebuilt on spares, and once more everything is there
 * with up to m others lost.
 */
#include <errno.h>
#include <string.h>

#include "blockd/disk/local_disk.h"
#include "blockd/volume/row.h"
#include "common/crc32c.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/sim/sim_check.h"

enum {
    DISKS_MAX = CODE_SHARDS_MAX + CODE_M_MAX,
    ROWS = 6,
    BLOCKS_MAX = ROWS * CODE_K_MAX * 24,
    DISK_BYTES = 64 << 20,
};

/* What the world outside the node knows: it survives the node. */
static struct world {
    struct rng rng;
    struct uuid cluster;
    struct chunk_place place;
    unsigned disk_count; /* spares included */
    bool missing[DISKS_MAX];
    bool created;
    uint32_t linear_count;
    uint64_t addresses[BLOCKS_MAX], seqs[BLOCKS_MAX];
    struct rebuilt {
        unsigned shard, spare;
    } rebuilt[CODE_M_MAX];
    unsigned rebuilt_count;
} world;

/* On the node, made anew after each start. */
static struct {
    struct disk_list disks;
    struct disk *opened[DISKS_MAX];
    struct volume_host host;
    struct row_io io;
} node;

static const char *disk_path(unsigned i, char *ret_path)
{
    snprintf(ret_path, 32, "/disk%u", i);
    return ret_path;
}

static void fill(uint64_t address, uint8_t *ret_block)
{
    uint64_t x = rng_mix(address + 1);
    for (size_t i = 0; i < BLOCK_BYTES; i += 8) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        memcpy(ret_block + i, &x, 8);
    }
}

static void format_disk(void *arg)
{
    char *error = NULL;
    struct uuid uuid;
    int r = local_disk_format(arg, 0, world.cluster, world.cluster, "ssd", false, &uuid, &error);
    CHECK_MSG(r == 0, "format %s: %s", (char *)arg, error ? error : "");
}

/* Formatted disks cost their whole length in simulated writes: made once, the same for all seeds. */
static struct sim_image *formatted[DISKS_MAX];

static void make_formatted(void)
{
    for (unsigned i = 0; i < DISKS_MAX && !formatted[i]; i++) {
        struct sim *sim = sim_new(&(struct sim_options){.seed = i + 1});
        struct env *env = sim_node_new(sim, "a");
        char path[32];
        struct sim_disk *disk = sim_disk_new(env, disk_path(i, path), DISK_BYTES);
        CHECK(sim_do(env, "format", format_disk, path));
        formatted[i] = sim_disk_snapshot(disk);
        sim_free(sim);
    }
}

static void open_disks(void)
{
    char path[32];
    memset(&node, 0, sizeof(node));
    disk_list_init(&node.disks);
    for (unsigned i = 0; i < world.disk_count; i++) {
        if (world.missing[i])
            continue;
        struct local_disk_options options = {.trailer_cache_bytes = 1 << 16};
        char *error = NULL;
        int r =
            local_disk_open(disk_path(i, path), world.cluster, &options, &node.opened[i], &error);
        CHECK_MSG(r == 0, "open %s: %s", path, error ? error : "");
        node.opened[i]->number = i + 1;
        disk_list_add(&node.disks, node.opened[i]);
    }
    node.host.disks = &node.disks;
    node.io.host = &node.host;
    node.io.buffers = bufpool_new(8 << 20);
    node.io.codes = row_codes_new();
}

static void close_disks(void)
{
    for (unsigned i = 0; i < world.disk_count; i++) {
        if (!node.opened[i])
            continue;
        disk_list_remove(&node.disks, node.opened[i]);
        local_disk_close(node.opened[i]);
    }
    bufpool_free(node.io.buffers);
    row_codes_free(node.io.codes);
}

/* --- Before the cut ------------------------------------------------------------------------------- */

static MAY_SUSPEND void write_one_row(void)
{
    struct chunk_place *place = &world.place;
    uint32_t count = 1 + rng_below(&world.rng, place->code.k * 20);
    struct row_block *blocks = mem_zalloc(count, sizeof(*blocks));
    uint8_t *data = mem_alloc_pages((size_t)count * BLOCK_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *block = data + (size_t)i * BLOCK_BYTES;
        blocks[i] = (struct row_block){.address = rng_u64(&world.rng) >> 20, .data = block};
        blocks[i].seq = 500 + rng_below(&world.rng, 1000);
        fill(blocks[i].address, block);
        blocks[i].crc = crc32c(0, block, BLOCK_BYTES);
    }
    int r = row_write(&node.io, place, 0, blocks, count, true, NULL, NULL);
    CHECK_MSG(r == 0, "row_write: %d", r);
    uint32_t len = row_len_for(place->code, count);
    for (uint32_t i = 0; i < len * place->code.k; i++) {
        world.addresses[world.linear_count] = i < count ? blocks[i].address : ROW_PAD;
        world.seqs[world.linear_count++] = i < count ? blocks[i].seq : 0;
    }
    place->row_len[place->row_count++] = (uint16_t)len;
    place->length_blocks += 1 + len;
    mem_free(blocks);
    mem_free_pages(data, (size_t)count * BLOCK_BYTES);
}

static void workload(void *arg)
{
    open_disks();
    struct disk *disks[CODE_SHARDS_MAX];
    uint64_t instances[CODE_SHARDS_MAX];
    unsigned shards = world.place.code.k + world.place.code.m;
    for (unsigned i = 0; i < shards; i++) {
        disks[i] = node.opened[i];
        instances[i] = 100 + i;
    }
    int r =
        chunk_create(&node.io, &world.place, disks, instances, 256, ROWS * 21, SHARD_PRIORITY_USER);
    CHECK_MSG(r == 0, "chunk_create: %d", r);
    world.created = true;
    for (unsigned i = 0; i < ROWS; i++)
        write_one_row();
    close_disks();
}

/* --- Afterwards ----------------------------------------------------------------------------------- */

static MAY_SUSPEND void read_range(uint32_t linear, uint32_t count)
{
    uint8_t *buf = mem_alloc_pages((size_t)count * BLOCK_BYTES), expected[BLOCK_BYTES];
    uint64_t address = count == 1 ? world.addresses[linear] : UINT64_MAX;
    int r = row_read(&node.io, &world.place, linear, count, address, buf);
    CHECK_MSG(r == 0, "row_read of %u blocks from %u: %d", count, linear, r);
    for (uint32_t i = 0; i < count; i++) {
        memset(expected, 0, sizeof(expected));
        if (world.addresses[linear + i] != ROW_PAD)
            fill(world.addresses[linear + i], expected);
        CHECK_MSG(memcmp(buf + (size_t)i * BLOCK_BYTES, expected, BLOCK_BYTES) == 0,
            "wrong bytes in block %u", linear + i);
    }
    mem_free_pages(buf, (size_t)count * BLOCK_BYTES);
}

static MAY_SUSPEND void read_everything(void)
{
    if (world.linear_count == 0)
        return;
    read_range(0, world.linear_count);
    for (unsigned i = 0; i < 20; i++)
        read_range(rng_below(&world.rng, world.linear_count), 1);
    for (unsigned row = 0; row < world.place.row_count; row++) {
        struct row_directory *directory;
        int r = row_read_directory(&node.io, &world.place, row, &directory);
        CHECK_MSG(r == 0, "row_read_directory of row %u: %d", row, r);
        uint32_t start = chunk_row_linear_start(&world.place, row);
        for (uint32_t i = 0; i < directory->count; i++) {
            CHECK(directory->entries[i].address == world.addresses[start + i]);
            CHECK(directory->entries[i].address == ROW_PAD ||
                  directory->entries[i].seq == world.seqs[start + i]);
        }
        mem_free(directory);
    }
}

static void verify(void *arg)
{
    open_disks();
    read_everything();
    close_disks();
}

/* As a taker-over does: the chunk ends with its last committed row. */
static void seal(void *arg)
{
    open_disks();
    int r = chunk_seal(&node.io, &world.place, world.place.epoch + 1);
    CHECK_MSG(r == 0, "chunk_seal: %d", r);
    world.place.sealed = true;
    read_everything();
    close_disks();
}

static void rot(struct env *env, unsigned disk)
{
    char path[32];
    struct sim_fault fault = {.ops = SIM_OP_READ, .kind = SIM_FAULT_FLIP, .ppm = 300000};
    sim_disk_fault(sim_disk_find(env, disk_path(disk, path)), &fault);
}

static void verify_rotten(void *arg)
{
    struct env *env = arg;
    open_disks();
    for (unsigned i = 0; i < world.place.code.m; i++)
        rot(env, world.place.shards[i].place.disk - 1);
    read_everything();
    char path[32];
    for (unsigned i = 0; i < world.disk_count; i++)
        sim_disk_clear_faults(sim_disk_find(env, disk_path(i, path)));
    close_disks();
}

static void rebuild(void *arg)
{
    open_disks();
    for (unsigned i = 0; i < world.rebuilt_count; i++) {
        const struct rebuilt *rebuilt = &world.rebuilt[i];
        int r = row_rebuild_shard(&node.io, &world.place, rebuilt->shard,
            node.opened[rebuilt->spare], 900 + i, world.place.epoch + 1, SHARD_PRIORITY_CLEAN);
        CHECK_MSG(r == 0, "rebuild of shard %u: %d", rebuilt->shard, r);
        world.place.shards[rebuilt->shard] = (struct chunk_shard){
            .place = {.disk = rebuilt->spare + 1, .instance = 900 + i}, .state = CHUNK_SHARD_OK};
    }
    read_everything();
    close_disks();
}

/* Up to m shards' disks go, known or not. */
static void lose_disks(bool rebuilt)
{
    unsigned shards = world.place.code.k + world.place.code.m;
    unsigned count = rng_below(&world.rng, world.place.code.m + 1u);
    for (unsigned i = 0; i < count; i++) {
        unsigned shard = rng_below(&world.rng, shards);
        unsigned disk = world.place.shards[shard].place.disk - 1;
        if (world.missing[disk])
            continue;
        world.missing[disk] = true;
        if (rebuilt || rng_below(&world.rng, 2))
            world.place.shards[shard].state = CHUNK_SHARD_LOST;
        if (rebuilt)
            world.rebuilt[world.rebuilt_count] = (struct rebuilt){shard, shards + i};
        world.rebuilt_count += rebuilt;
    }
}

static void round_of(uint64_t seed)
{
    static const struct shard_code codes[] = {
        {1, 0}, {1, 1}, {1, 2}, {2, 1}, {4, 2}, {4, 2}, {8, 3}, {16, 4}};
    memset(&world, 0, sizeof(world));
    world.rng = rng_fork(seed, "row");
    memset(&world.cluster, 0x77, sizeof(world.cluster));
    world.place = (struct chunk_place){
        .volume = 7,
        .chunk = 3ull << 32 | 5,
        .kind = SHARD_DATA,
        .epoch = 3,
        .code = codes[rng_below(&world.rng, ARRAY_SIZE(codes))],
    };
    world.disk_count = world.place.code.k + 2u * world.place.code.m;

    make_formatted();
    struct sim *sim = sim_new(&(struct sim_options){.seed = seed, .trace = sim_check_trace()});
    struct env *env = sim_node_new(sim, "a");
    char path[32];
    for (unsigned i = 0; i < world.disk_count; i++)
        sim_disk_restore(sim_disk_new(env, disk_path(i, path), DISK_BYTES), formatted[i]);

    struct sim_crash crash = {.scope = SIM_SCOPE_MACHINE,
        .mode = SIM_CUT_RANDOM,
        .first = 1 + rng_below(&world.rng, 150)};
    CHECK(sim_crash_next(&crash));
    sim_crash_arm(sim, &crash);
    sim_do(env, "workload", workload, NULL);
    sim_crash_disarm(sim);
    if (world.created) {
        CHECK(sim_do(env, "verify", verify, NULL));
        CHECK(sim_do(env, "seal", seal, NULL));
        CHECK(sim_do(env, "verify rotten", verify_rotten, env));
        lose_disks(true);
        CHECK(sim_do(env, "verify degraded", verify, NULL));
        CHECK(sim_do(env, "rebuild", rebuild, NULL));
        lose_disks(false);
        CHECK(sim_do(env, "verify rebuilt", verify, NULL));
    }
    sim_free(sim);
}

static void no_log(void *ctx, enum log_level level, const char *line)
{
}

int main(int argc, char **argv)
{
    const struct sim_check check = {.round = round_of, .rounds = 60};
    log_set_output(no_log, NULL); /* disks come and go by the dozen, and rot */
    return sim_check_main(argc, argv, &check);
}
