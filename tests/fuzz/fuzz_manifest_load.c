/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole manifests: the input says which appends stand on two disks in memory (prefix, claimed length,
 * bytes; inline or in payload blocks; over several chunks), all with good checksums, and what is then
 * damaged. Loading must end, with a sentence or a state whose snapshot is accepted.
 *
 *   byte 0: bits 0..1 lose a copy, bits 2..4 how many blocks are damaged
 *   then appends: u8 {bits 0..1 flags, 2 payload, 3 bad version, 4 next chunk first, 5 wrong length},
 *   u16 length, the bytes
 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/lib/manifest_image.h"
#include "tests/unit/fake_env.h"

static struct fake_env fake;
static const uint8_t *input;
static size_t left;

static bool build_append(struct manifest_image *image)
{
    unsigned how = input[0];
    size_t len = get_le16(input + 1);
    input += 3;
    left -= 3;
    len = MIN(len, left);
    if (how & 16)
        manifest_image_chunk(image, image->chunk + 1);
    uint32_t claimed = (uint32_t)len + (how & 32 ? (how >> 6) * 1000 + 1 : 0);
    bool fits = manifest_image_append(
        image, how & 8 ? 2 : 1, (uint16_t)(how & 3), claimed, input, len, how & 4);
    input += len;
    left -= len;
    return fits && image->chunk < 8;
}

static void build(struct manifest_image *image)
{
    unsigned faults = *input++;
    left--;
    manifest_image_init(image);
    manifest_image_chunk(image, 1);
    while (left >= 3 && build_append(image))
        ;
    for (unsigned n = faults >> 2 & 7; n > 0; n--) {
        uint32_t block = (faults * 7 + n * 3) % MAX(image->length_blocks, 1u);
        if (block < image->length_blocks)
            fake_disk_damage_block(
                image->fakes[n % 2], manifest_image_key(image->chunk, n % 2), block);
    }
    if (faults & 1)
        fake_disk_lose_shard(image->fakes[0], manifest_image_key(1, 0));
    if (faults & 2)
        image->fakes[1]->error = -EHOSTUNREACH;
}

static void run(void *arg)
{
    struct manifest_image image;
    struct state state, again;
    struct copies_ref *chain = NULL;
    struct records snapshot = {0};
    unsigned count = 0;
    char *error = NULL, text[256];
    build(&image);
    state_init(&state, MANIFEST_IMAGE_VOLUME);
    int r = manifest_load(&image.host, &image.root, &state, &chain, &count, &error);
    CHECK((r == 0 && !error && count >= 1 && state.size_bytes > 0) || (r < 0 && error && error[0]));
    if (r == 0) {
        state_init(&again, MANIFEST_IMAGE_VOLUME);
        state_snapshot(&state, &snapshot);
        CHECK(state_apply(&again, snapshot.bytes, snapshot.len_bytes, text) == 0);
        state_fini(&again);
        records_fini(&snapshot);
        mem_free(chain);
    }
    mem_free(error);
    state_fini(&state);
    manifest_image_fini(&image);
    fiber_yield(); /* a helper of a fan-out lets go of what they share when it runs */
    CHECK(mem_used_bytes(&fake.env) == 0);
}

static void no_log(void *ctx, enum log_level log_level, const char *line)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    static bool initialised;
    if (len_bytes == 0)
        return 0;
    if (!initialised) {
        fiber_sched_init(16);
        fake_env_init(&fake);
        log_set_output(no_log, NULL);
        initialised = true;
    }
    input = data;
    left = len_bytes;
    fake_env_run(&fake, run, NULL);
    return 0;
}
