/* SPDX-License-Identifier: Apache-2.0
 *
 * What an NBD server may send to holdfast-fuse. The first byte is the size of the pieces it comes in; the
 * ops of all kinds are there from the start, cookies 0 to 3.
 */
#include "fuzz.h"

#include <string.h>

#include "common/check.h"
#include "fuse/link_reply.h"

#define OPS 4

struct state {
    struct nbd_op ops[OPS];
    uint8_t payload[OPS][4096 + 16];
};

static struct nbd_op *find(void *ctx, uint64_t cookie)
{
    struct state *s = ctx;
    return cookie < OPS && !s->ops[cookie].answered ? &s->ops[cookie] : NULL;
}

static void complete(void *ctx, struct nbd_op *op)
{
    CHECK(!op->answered);
    CHECK(op->kind != NBD_OP_READ || op->error != 0 || op->received_bytes == op->len_bytes);
    op->answered = true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    static struct state s;
    static const enum nbd_op_kind kinds[OPS] = {
        NBD_OP_READ, NBD_OP_READ, NBD_OP_WRITE, NBD_OP_STATUS};
    memset(&s, 0, sizeof(s));
    for (unsigned i = 0; i < OPS; i++) {
        memset(s.payload[i] + 4096, 0xcc, 16);
        s.ops[i] = (struct nbd_op){.kind = kinds[i],
            .off_bytes = 4096,
            .len_bytes = i == 0 ? 16 : 4096,
            .buffer = s.payload[i]};
    }
    struct reply_decoder decoder = {.find = find, .complete = complete, .ctx = &s};
    size_t taken = 1, step = len_bytes > 0 ? data[0] + 1u : 1;
    while (taken < len_bytes) {
        size_t n = MIN(step, len_bytes - taken);
        int64_t r = reply_decode(&decoder, data + taken, n);
        if (r < 0)
            break;
        taken += (size_t)r;
        if (r == 0 && n == len_bytes - taken)
            break;
        if (r == 0)
            step++; /* it wants more bytes at once */
    }
    for (unsigned i = 0; i < OPS; i++)
        for (unsigned j = 4096; j < 4096 + 16; j++)
            CHECK(s.payload[i][j] == 0xcc);
    return 0;
}
