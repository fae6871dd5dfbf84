/* SPDX-License-Identifier: Apache-2.0
 *
 * Bodies between blockds about volumes: the first byte chooses the decoder. What is let through
 * encodes to the same bytes.
 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>

#include "blockd/cluster/wire_volume.h"
#include "common/check.h"

static void attach(const uint8_t *body, uint32_t len_bytes)
{
    struct wire_volume_attach attach;
    uint8_t again[WIRE_VOLUME_ATTACH_BYTES];
    int r = wire_volume_attach_decode(body, len_bytes, &attach);
    CHECK(r == 0 || r == -EBADMSG);
    if (r < 0)
        return;
    wire_volume_attach_encode(&attach, again);
    CHECK(len_bytes == sizeof(again) && memcmp(again, body, sizeof(again)) == 0);
}

static void request(const uint8_t *body, uint32_t len_bytes)
{
    struct wire_volume_request request;
    uint8_t again[WIRE_VOLUME_REQUEST_BYTES];
    int r = wire_volume_request_decode(body, len_bytes, &request);
    CHECK(r == 0 || r == -EBADMSG);
    if (r < 0)
        return;
    wire_volume_request_encode(&request, again);
    CHECK(len_bytes == sizeof(again) && memcmp(again, body, sizeof(again)) == 0);
}

static void state(const uint8_t *body, uint32_t len_bytes)
{
    struct wire_volume_state state;
    uint8_t again[WIRE_VOLUME_STATE_BYTES];
    int r = wire_volume_state_decode(body, len_bytes, &state);
    CHECK(r == 0 || r == -EBADMSG);
    if (r < 0)
        return;
    wire_volume_state_encode(&state, again);
    CHECK(len_bytes == sizeof(again) && memcmp(again, body, sizeof(again)) == 0);
}

/* In place, as the client does it. */
static void extents(const uint8_t *body, uint32_t len_bytes)
{
    struct volume_extent extents[64];
    unsigned count = len_bytes / WIRE_VOLUME_EXTENT_BYTES;
    if (count > 64)
        count = 64;
    memcpy(extents, body, (size_t)count * WIRE_VOLUME_EXTENT_BYTES);
    if (wire_volume_extents_decode((uint8_t *)extents, count, 1ull << 40, extents) < 0)
        return;
    uint64_t sum = 0;
    for (unsigned i = 0; i < count; i++) {
        CHECK(extents[i].len_bytes > 0);
        sum += extents[i].len_bytes;
    }
    CHECK(sum <= 1ull << 40);
    wire_volume_extents_encode(extents, count, (uint8_t *)extents);
    CHECK(memcmp(extents, body, (size_t)count * WIRE_VOLUME_EXTENT_BYTES) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    static void (*const decoders[])(const uint8_t *, uint32_t) = {attach, request, state, extents};
    if (len_bytes == 0)
        return 0;
    decoders[data[0] % 4](data + 1, (uint32_t)(len_bytes - 1));
    return 0;
}
