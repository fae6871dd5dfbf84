/* SPDX-License-Identifier: Apache-2.0
 *
 * The first byte chooses simple or structured replies, the rest is what the client sends in the
 * transmission phase. Every whole request up to the first violation must be answered exactly once
 * (N1), in replies of the right form; nothing else may come. Where the input breaks the protocol
 * the end of the connection may overtake the last replies.
 */
#include "fuzz.h"

#include "blockd/nbd/codec.h"
#include "common/bytes.h"
#include "nbd_session.h"

/* What the input asks for, found without the server's code. */
struct expected {
    unsigned replies;
    uint64_t simple_bytes;
    bool broken; /* the input goes on with what is no request */
};

static struct expected expect(const uint8_t *data, size_t len_bytes, bool structured)
{
    struct expected e = {0};
    struct nbd_terms terms = {NBD_SESSION_BYTES, structured, structured};
    struct nbd_request_header h;
    while (len_bytes >= NBD_REQUEST_BYTES) {
        e.broken = nbd_decode_request(data, &h) < 0 || h.type == NBD_CMD_DISC;
        if (e.broken)
            break;
        bool error = nbd_check_request(&h, &terms) != NBD_SUCCESS;
        uint64_t payload_bytes = h.type == NBD_CMD_WRITE ? h.len_bytes : 0;
        bool whole = len_bytes - NBD_REQUEST_BYTES >= payload_bytes;
        e.broken = error && payload_bytes > 64 << 20;
        if (e.broken || (!error && !whole))
            break;
        e.replies++; /* a refused write is answered before its payload has come */
        e.simple_bytes += 16 + (h.type == NBD_CMD_READ && !error ? h.len_bytes : 0);
        if (!whole)
            break;
        data += NBD_REQUEST_BYTES + payload_bytes;
        len_bytes -= NBD_REQUEST_BYTES + payload_bytes;
    }
    return e;
}

struct sender {
    struct nbd_client *client;
    const uint8_t *data;
    size_t len_bytes;
    struct fiber_group group;
};

static void send_all(void *arg)
{
    struct sender *s = arg;
    nbd_client_send(s->client, s->data, s->len_bytes);
    fiber_group_done(&s->group, 0);
}

static void client(struct nbd_session *session)
{
    static uint8_t buf[NBD_SESSION_BYTES];
    bool structured = session->data[0] & 1;
    struct nbd_client *c = nbd_client_use(NBD_SESSION_ADDRESS, "v", structured);
    struct sender sender = {c, session->data + 1, session->len_bytes - 1};
    struct expected e = expect(sender.data, sender.len_bytes, structured);
    fiber_group_init(&sender.group);
    fiber_group_add(&sender.group, 1);
    fiber_spawn("send", send_all, &sender);
    if (structured) {
        struct nbd_client_reply reply;
        for (unsigned i = 0; i < e.replies; i++)
            if (!nbd_client_reply(c, 0, sizeof(buf), buf, &reply)) {
                CHECK(e.broken);
                break;
            }
    } else {
        for (uint64_t left = e.simple_bytes; left > 0;) {
            uint64_t n = MIN(left, sizeof(buf));
            if (!nbd_client_recv(c, buf, n)) {
                CHECK(e.broken);
                break;
            }
            left -= n;
        }
    }
    CHECK(env_recv(c->stream, buf, 1, env_now_ns() + 1000000000ull) <= 0);
    env_stream_shutdown(c->stream);
    fiber_group_wait(&sender.group);
    nbd_client_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    if (len_bytes > 0)
        nbd_session_run(data, len_bytes, client);
    return 0;
}
