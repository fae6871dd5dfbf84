/* SPDX-License-Identifier: Apache-2.0
 *
 * The input is all that the client sends after the greeting. Whatever comes back before the
 * transmission phase must be option replies of the right form; in the end the server must be as it
 * was.
 */
#include "fuzz.h"

#include "common/bytes.h"
#include "nbd_session.h"

/* Takes replies until the server is silent for a second or closes. */
MAY_SUSPEND static void take_replies(struct nbd_client *c)
{
    static uint8_t buf[1 << 16];
    while (env_recv(c->stream, buf, sizeof(buf), env_now_ns() + 1000000000ull) > 0)
        ;
}

static void client(struct nbd_session *session)
{
    struct nbd_client *c = NEW(struct nbd_client);
    uint8_t greeting[18];
    CHECK(env_connect(NBD_SESSION_ADDRESS, UINT64_MAX, &c->stream) == 0);
    CHECK(nbd_client_recv(c, greeting, sizeof(greeting)));
    nbd_client_send(c, session->data, session->len_bytes);
    /* The first option decides whether replies can be checked: after EXPORT_NAME or GO the phase is
     * another. */
    bool option = session->len_bytes >= 12 && get_be32(session->data) <= 3 &&
                  memcmp(session->data + 4, "IHAVEOPT", 8) == 0;
    if (option && session->len_bytes >= 20) {
        uint8_t reply[1 << 12];
        uint32_t len_bytes, type = get_be32(session->data + 12);
        if (type != NBD_OPT_EXPORT_NAME &&
            session->len_bytes >= 20ull + get_be32(session->data + 16))
            nbd_client_option_reply(c, type, reply, sizeof(reply), &len_bytes);
    }
    take_replies(c);
    nbd_client_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    nbd_session_run(data, len_bytes, client);
    return 0;
}
