/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/cluster/wire_volume.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"

#define IO_FLAGS ((uint32_t)(VOLUME_FUA | VOLUME_NO_HOLE))
#define STATE_FLAGS ((uint32_t)(WIRE_VOLUME_REMOVED | WIRE_VOLUME_HALTED))
/* Extents are never longer than a volume, which leaves the top bit free. */
#define EXTENT_HOLE (1ull << 63)

_Static_assert(WIRE_VOLUME_EXTENT_BYTES <= sizeof(struct volume_extent), "");

/* --- Attach: number, name (NUL-padded) -------------------------------------------------------- */

void wire_volume_attach_encode(const struct wire_volume_attach *attach, uint8_t *ret_body)
{
    size_t len = strnlen(attach->name, NAME_BYTES_MAX - 1);
    memset(ret_body, 0, WIRE_VOLUME_ATTACH_BYTES);
    put_le64(ret_body, attach->attachment);
    memcpy(ret_body + 8, attach->name, len);
}

int wire_volume_attach_decode(
    const uint8_t *body, uint32_t len_bytes, struct wire_volume_attach *ret_attach)
{
    struct wire_volume_attach attach;
    if (len_bytes != WIRE_VOLUME_ATTACH_BYTES || body[WIRE_VOLUME_ATTACH_BYTES - 1] != 0)
        return -EBADMSG;
    attach.attachment = get_le64(body);
    memcpy(attach.name, body + 8, NAME_BYTES_MAX);
    for (size_t i = strlen(attach.name); i < NAME_BYTES_MAX; i++)
        if (attach.name[i])
            return -EBADMSG;
    if (attach.attachment == 0 || !name_valid(attach.name))
        return -EBADMSG;
    *ret_attach = attach;
    return 0;
}

/* --- Requests ---------------------------------------------------------------------------------
 *   0 volume   8 attachment   16 epoch   20 flags   24 session   32 number   40 answered below
 *  48 offset  56 length       64 extents_max   68 zero */

void wire_volume_request_encode(const struct wire_volume_request *request, uint8_t *ret_body)
{
    put_le64(ret_body, request->volume_id);
    put_le64(ret_body + 8, request->attachment);
    put_le32(ret_body + 16, request->epoch);
    put_le32(ret_body + 20, request->flags & IO_FLAGS);
    put_le64(ret_body + 24, request->id.session);
    put_le64(ret_body + 32, request->id.number);
    put_le64(ret_body + 40, request->id.answered_below);
    put_le64(ret_body + 48, request->off_bytes);
    put_le64(ret_body + 56, request->len_bytes);
    put_le32(ret_body + 64, request->extents_max);
    put_le32(ret_body + 68, 0);
}

int wire_volume_request_decode(
    const uint8_t *body, uint32_t len_bytes, struct wire_volume_request *ret_request)
{
    if (len_bytes != WIRE_VOLUME_REQUEST_BYTES || get_le32(body + 68) != 0)
        return -EBADMSG;
    struct wire_volume_request request = {
        .volume_id = get_le64(body),
        .attachment = get_le64(body + 8),
        .epoch = get_le32(body + 16),
        .flags = get_le32(body + 20),
        .id = {.session = get_le64(body + 24),
            .number = get_le64(body + 32),
            .answered_below = get_le64(body + 40)},
        .off_bytes = get_le64(body + 48),
        .len_bytes = get_le64(body + 56),
        .extents_max = get_le32(body + 64),
    };
    if ((request.flags & ~IO_FLAGS) || request.extents_max > WIRE_VOLUME_EXTENTS_MAX)
        return -EBADMSG;
    /* No number without a session, and none that was declared answered. */
    if (!request.id.session && (request.id.number || request.id.answered_below))
        return -EBADMSG;
    if (request.id.session && request.id.answered_below > request.id.number)
        return -EBADMSG;
    *ret_request = request;
    return 0;
}

/* --- State ------------------------------------------------------------------------------------
 *   0 volume   8 size   16 epoch   20 flags   24 traffic   32 pause   40 extents   44 zero */

void wire_volume_state_encode(const struct wire_volume_state *state, uint8_t *ret_body)
{
    put_le64(ret_body, state->volume_id);
    put_le64(ret_body + 8, state->size_bytes);
    put_le32(ret_body + 16, state->epoch);
    put_le32(ret_body + 20, state->flags & STATE_FLAGS);
    put_le64(ret_body + 24, state->traffic);
    put_le64(ret_body + 32, state->pause_ns);
    put_le32(ret_body + 40, state->extents);
    put_le32(ret_body + 44, 0);
}

int wire_volume_state_decode(
    const uint8_t *body, uint32_t len_bytes, struct wire_volume_state *ret_state)
{
    if (len_bytes != WIRE_VOLUME_STATE_BYTES || get_le32(body + 44) != 0)
        return -EBADMSG;
    struct wire_volume_state state = {
        .volume_id = get_le64(body),
        .size_bytes = get_le64(body + 8),
        .epoch = get_le32(body + 16),
        .flags = get_le32(body + 20),
        .traffic = get_le64(body + 24),
        .pause_ns = get_le64(body + 32),
        .extents = get_le32(body + 40),
    };
    if ((state.flags & ~STATE_FLAGS) || state.extents > WIRE_VOLUME_EXTENTS_MAX ||
        state.size_bytes % 512 || state.size_bytes > VOLUME_SIZE_BYTES_MAX)
        return -EBADMSG;
    *ret_state = state;
    return 0;
}

/* --- Extents ----------------------------------------------------------------------------------- */

void wire_volume_extents_encode(
    const struct volume_extent *extents, unsigned count, uint8_t *ret_bytes)
{
    for (unsigned i = 0; i < count; i++) { /* shrinks, from the front: may be in place */
        struct volume_extent extent = extents[i];
        put_le64(ret_bytes + (size_t)i * WIRE_VOLUME_EXTENT_BYTES,
            extent.len_bytes | (extent.hole ? EXTENT_HOLE : 0));
    }
}

int wire_volume_extents_decode(
    const uint8_t *bytes, unsigned count, uint64_t len_bytes, struct volume_extent *ret_extents)
{
    uint64_t left_bytes = len_bytes;
    for (unsigned i = 0; i < count; i++) {
        uint64_t value = get_le64(bytes + (size_t)i * WIRE_VOLUME_EXTENT_BYTES) & ~EXTENT_HOLE;
        if (value == 0 || value > left_bytes)
            return -EBADMSG;
        left_bytes -= value;
    }
    for (unsigned i = count; i-- > 0;) { /* grows, from the back: may be in place */
        uint64_t value = get_le64(bytes + (size_t)i * WIRE_VOLUME_EXTENT_BYTES);
        ret_extents[i] =
            (struct volume_extent){.len_bytes = value & ~EXTENT_HOLE, .hole = value & EXTENT_HOLE};
    }
    return 0;
}
