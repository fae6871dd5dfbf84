/* SPDX-License-Identifier: Apache-2.0
 *
 * Bodies of METHOD_VOLUME_*: values to bytes and back (docs/PROTOCOL.md has the layouts). Pure.
 *
 * Every body has one length; padding is zero. Decoders refuse (-EBADMSG, nothing is set) another
 * length, padding that is not zero, unknown flags and values that no sender of ours gives; what
 * they let through still names anything: volumes, attachments and offsets are the reader's to check.
 */
#pragma once

#include "blockd/volume/volume.h"

/* Of one read or write: fits a frame with room to spare. Trims are not bounded. */
#define WIRE_VOLUME_DATA_BYTES_MAX (32u << 20)
#define WIRE_VOLUME_EXTENTS_MAX 4096u
#define WIRE_VOLUME_EXTENT_BYTES 8u

/* METHOD_VOLUME_ATTACH. The attachment's number is the client's choice, once a session. */
#define WIRE_VOLUME_ATTACH_BYTES (8u + NAME_BYTES_MAX)
struct wire_volume_attach {
    uint64_t attachment;
    char name[NAME_BYTES_MAX];
};

/* READ, WRITE, TRIM, WRITE_ZEROES, FLUSH, BLOCK_STATUS, and what needs only the first three members:
 * DETACH, HANDOFF, STATUS. */
#define WIRE_VOLUME_REQUEST_BYTES 72u
struct wire_volume_request {
    uint64_t volume_id;
    uint64_t attachment;
    uint32_t epoch;
    uint32_t flags;       /* VOLUME_FUA, VOLUME_NO_HOLE */
    uint32_t extents_max; /* BLOCK_STATUS: 1 to WIRE_VOLUME_EXTENTS_MAX; else 0 */
    struct request_id id;
    uint64_t off_bytes, len_bytes;
};

/* The owner's news, in every reply with status 0, and in some others. */
#define WIRE_VOLUME_STATE_BYTES 48u
enum wire_volume_state_flags {
    WIRE_VOLUME_REMOVED = 1, /* deleted or renamed: let go of it */
    WIRE_VOLUME_HALTED = 2,  /* this owner serves it no more: attach again */
};
struct wire_volume_state {
    uint64_t volume_id;
    uint64_t size_bytes;
    uint32_t epoch;
    uint32_t flags;
    uint64_t traffic;  /* all I/O of the volume since this owner opened it, see attach_traffic() */
    uint32_t extents;  /* BLOCK_STATUS: so many in the payload */
    uint64_t pause_ns; /* HANDOFF: how long no I/O was taken */
};

void wire_volume_attach_encode(const struct wire_volume_attach *attach, uint8_t *ret_body);
int wire_volume_attach_decode(
    const uint8_t *body, uint32_t len_bytes, struct wire_volume_attach *ret_attach);
void wire_volume_request_encode(const struct wire_volume_request *request, uint8_t *ret_body);
int wire_volume_request_decode(
    const uint8_t *body, uint32_t len_bytes, struct wire_volume_request *ret_request);
void wire_volume_state_encode(const struct wire_volume_state *state, uint8_t *ret_body);
int wire_volume_state_decode(
    const uint8_t *body, uint32_t len_bytes, struct wire_volume_state *ret_state);

/* `bytes` has room for count * WIRE_VOLUME_EXTENT_BYTES. It may be the extents' own memory, in both
 * directions. */
void wire_volume_extents_encode(
    const struct volume_extent *extents, unsigned count, uint8_t *ret_bytes);
/* -EBADMSG: not `count` extents that are not empty and cover at most len_bytes. */
int wire_volume_extents_decode(
    const uint8_t *bytes, unsigned count, uint64_t len_bytes, struct volume_extent *ret_extents);
