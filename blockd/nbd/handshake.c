/* SPDX-License-Identifier: Apache-2.0
 *
 * Option haggling: greeting, client flags, then options, each answered before the next is read.
 * Sections of the protocol text are quoted.
 *
 * What a hostile client can cost here: one fiber, 20 KiB, for the handshake timeout. Options are
 * read to their announced length and never trusted beyond it; long ones are skipped, very long ones
 * and very many end the connection.
 */
#include "blockd/nbd/handshake.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "blockd/nbd/export.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/mem.h"

#define OPTION_BYTES_MAX (16u << 10)
#define OPTION_SKIP_BYTES_MAX (1u << 20)
#define OPTION_COUNT_MAX 256u
#define OUT_BYTES 4096u

struct handshake {
    struct env_stream *stream;
    const struct nbd_handshake_options *options;
    uint64_t deadline_ns;
    bool no_zeroes;
    bool structured;
    bool allocation;       /* base:allocation is selected... */
    char *allocation_name; /* ...for the export of this name, as the client wrote it */
    struct nbd_option_header option;
    char *reason;
    bool chosen;
    struct nbd_negotiated result;
    uint32_t out_len;
    uint8_t out[OUT_BYTES];
    uint8_t data[OPTION_BYTES_MAX];
};

/* --- Bytes in, bytes out -----------------------------------------------------------------------
 */

static int fail(struct handshake *h, int rc, const char *reason)
{
    if (!h->reason)
        h->reason = mem_strdup(reason);
    return rc;
}

MAY_SUSPEND static int receive(struct handshake *h, void *buf, size_t len_bytes)
{
    for (size_t done = 0; done < len_bytes;) {
        int64_t n = env_recv(h->stream, (char *)buf + done, len_bytes - done, h->deadline_ns);
        if (n == -ETIMEDOUT)
            return fail(h, -ETIMEDOUT, "the client did not finish the handshake in time");
        if (n <= 0)
            return fail(h, -ECONNRESET, "the client left during the handshake");
        done += n;
    }
    return 0;
}

MAY_SUSPEND static int flush(struct handshake *h)
{
    struct iovec iov = {h->out, h->out_len};
    if (h->out_len == 0)
        return 0;
    h->out_len = 0;
    int rc = env_send(h->stream, &iov, 1, h->deadline_ns);
    if (rc == -ETIMEDOUT)
        return fail(h, -ETIMEDOUT, "the client did not take the replies of the handshake in time");
    return rc < 0 ? fail(h, -ECONNRESET, "the client left during the handshake") : 0;
}

MAY_SUSPEND static int put(struct handshake *h, const void *buf, size_t len_bytes)
{
    while (len_bytes > 0) {
        size_t n = MIN(len_bytes, OUT_BYTES - h->out_len);
        memcpy(h->out + h->out_len, buf, n);
        h->out_len += n;
        buf = (const char *)buf + n;
        len_bytes -= n;
        if (h->out_len == OUT_BYTES) {
            int rc = flush(h);
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}

/* A reply in two parts, either of which may be empty. */
MAY_SUSPEND static int reply2(struct handshake *h, uint32_t type, const void *a, uint32_t a_bytes,
    const void *b, uint32_t b_bytes)
{
    uint8_t header[NBD_OPTION_REPLY_HEADER_BYTES];
    nbd_encode_option_reply(header, h->option.option, type, a_bytes + b_bytes);
    int rc = put(h, header, sizeof(header));
    if (rc == 0)
        rc = put(h, a, a_bytes);
    return rc < 0 ? rc : put(h, b, b_bytes);
}

MAY_SUSPEND static int reply_ack(struct handshake *h)
{
    return reply2(h, NBD_REP_ACK, NULL, 0, NULL, 0);
}

MAY_SUSPEND __attribute__((format(printf, 3, 4))) static int reply_error(
    struct handshake *h, uint32_t type, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return reply2(h, type, text, MIN(MAX(len, 0), (int)sizeof(text) - 1), NULL, 0);
}

/* --- Exports -----------------------------------------------------------------------------------
 * The time that registry and store take is not the client's. */

MAY_SUSPEND static int list_volumes(
    struct handshake *h, struct volumes_name **ret_names, unsigned *ret_count)
{
    uint64_t start_ns = env_now_ns();
    bool recalled;
    int rc =
        volumes_list_or_recall(attach_volumes(h->options->attach), ret_names, ret_count, &recalled);
    h->deadline_ns += env_now_ns() - start_ns;
    return rc;
}

MAY_SUSPEND static struct attachment *find_or_open(
    struct handshake *h, struct nbd_string name, bool open, struct nbd_export *ret_export)
{
    struct attachment *attachment = NULL;
    const struct nbd_handshake_options *options = h->options;
    uint64_t start_ns = env_now_ns();
    struct nbd_export_user user = {
        options->events, options->ctx, options->gone, start_ns + options->timeout_ns};
    if (open)
        attachment = nbd_export_open(options->attach, name, &user, ret_export);
    else
        nbd_export_find(attach_volumes(options->attach), name, ret_export);
    h->deadline_ns += env_now_ns() - start_ns;
    return attachment;
}

/* The phase ends with success. Block status only if the context was selected for the very name that
 * is used now ("Metadata querying"). */
static void choose(struct handshake *h, struct nbd_string name, struct attachment *attachment)
{
    h->chosen = true;
    h->result = (struct nbd_negotiated){
        .attachment = attachment,
        .terms =
            {
                .size_bytes = attach_size_bytes(attachment),
                .structured = h->structured,
                .allocation = h->allocation && nbd_string_equal(name, h->allocation_name),
            },
    };
}

/* --- Options -----------------------------------------------------------------------------------
 */

/* "If the server is unwilling to allow the export, it MUST terminate the session." */
MAY_SUSPEND static int option_export_name(struct handshake *h)
{
    struct nbd_string name = {(const char *)h->data, h->option.len_bytes};
    uint8_t wire[NBD_EXPORT_NAME_REPLY_BYTES + NBD_EXPORT_NAME_ZEROES_BYTES] = {0};
    struct nbd_export export;
    if (!nbd_string_valid(name))
        return fail(h, -EPROTO, "the export name is no string of the protocol");
    struct attachment *attachment = find_or_open(h, name, true, &export);
    if (!attachment)
        return fail(h, -EPROTO, export.message);
    put_be64(wire, export.size_bytes);
    put_be16(wire + 8, nbd_transmission_flags(h->structured));
    choose(h, name, attachment);
    return put(h, wire, h->no_zeroes ? NBD_EXPORT_NAME_REPLY_BYTES : sizeof(wire));
}

MAY_SUSPEND static int reply_infos(
    struct handshake *h, const struct nbd_info_request *request, const struct nbd_export *export)
{
    uint8_t info[14];
    put_be16(info, NBD_INFO_EXPORT);
    put_be64(info + 2, export->size_bytes);
    put_be16(info + 10, nbd_transmission_flags(h->structured));
    int rc = reply2(h, NBD_REP_INFO, info, 12, NULL, 0);
    if (rc == 0 && nbd_info_requested(request, NBD_INFO_NAME)) {
        put_be16(info, NBD_INFO_NAME);
        rc = reply2(h, NBD_REP_INFO, info, 2, export->name, strlen(export->name));
    }
    if (rc == 0 && nbd_info_requested(request, NBD_INFO_DESCRIPTION)) {
        char text[NAME_BYTES_MAX + 32];
        put_be16(info, NBD_INFO_DESCRIPTION);
        snprintf(text, sizeof(text), "Holdfast volume %s", export->name);
        rc = reply2(h, NBD_REP_INFO, info, 2, text, strlen(text));
    }
    if (rc == 0 && nbd_info_requested(request, NBD_INFO_BLOCK_SIZE)) {
        put_be16(info, NBD_INFO_BLOCK_SIZE);
        put_be32(info + 2, NBD_BLOCK_BYTES_MIN);
        put_be32(info + 6, NBD_BLOCK_BYTES_PREFERRED);
        put_be32(info + 10, NBD_PAYLOAD_BYTES_MAX);
        rc = reply2(h, NBD_REP_INFO, info, 14, NULL, 0);
    }
    return rc;
}

/* INFO answers from the store's record and leaves the volume alone: looking is no reason to take ownership.
 */
MAY_SUSPEND static int option_info_or_go(struct handshake *h)
{
    struct nbd_info_request request;
    struct nbd_export export;
    if (nbd_decode_info_request(h->data, h->option.len_bytes, &request) < 0)
        return reply_error(h, NBD_REP_ERR_INVALID, "the option's lengths contradict each other");
    struct attachment *attachment =
        find_or_open(h, request.name, h->option.option == NBD_OPT_GO, &export);
    if (export.error)
        return reply_error(h, export.error, "%s", export.message);
    if (attachment)
        choose(h, request.name, attachment); /* from here on it is held in the result */
    int rc = reply_infos(h, &request, &export);
    return rc < 0 ? rc : reply_ack(h);
}

MAY_SUSPEND static int option_list(struct handshake *h)
{
    CLEANUP_FREE struct volumes_name *names = NULL;
    unsigned count = 0;
    if (h->option.len_bytes > 0)
        return reply_error(h, NBD_REP_ERR_INVALID, "this option takes no data");
    int rc = list_volumes(h, &names, &count);
    if (rc < 0)
        return reply_error(
            h, nbd_export_error(rc), "the list of volumes cannot be read: %s", strerror(-rc));
    for (unsigned i = 0; i < count; i++) {
        uint8_t len[4];
        put_be32(len, strlen(names[i].name));
        rc = reply2(h, NBD_REP_SERVER, len, sizeof(len), names[i].name, strlen(names[i].name));
        if (rc < 0)
            return rc;
    }
    return reply_ack(h);
}

MAY_SUSPEND static int option_structured_reply(struct handshake *h)
{
    if (h->option.len_bytes > 0)
        return reply_error(h, NBD_REP_ERR_INVALID, "this option takes no data");
    h->structured = true;
    return reply_ack(h);
}

MAY_SUSPEND static int option_starttls(struct handshake *h)
{
    if (h->option.len_bytes > 0)
        return reply_error(h, NBD_REP_ERR_INVALID, "this option takes no data");
    return reply_error(h, NBD_REP_ERR_POLICY,
        "TLS is not configured here; connect without it, or by the unix socket");
}

MAY_SUSPEND static int reply_context(struct handshake *h, uint32_t id)
{
    uint8_t wire[4];
    put_be32(wire, id);
    return reply2(h, NBD_REP_META_CONTEXT, wire, sizeof(wire), NBD_CONTEXT_ALLOCATION,
        strlen(NBD_CONTEXT_ALLOCATION));
}

/* Every volume has the one context there is, so that the export name need not be looked up; it only
 * has to be the one that NBD_OPT_GO names later. */
MAY_SUSPEND static int option_meta_context(struct handshake *h)
{
    bool set = h->option.option == NBD_OPT_SET_META_CONTEXT, found = false;
    struct nbd_meta_request request;
    struct nbd_string query;
    if (set)
        h->allocation = false; /* "replaces all previously-set, including when this fails" */
    if (set && !h->structured)
        return reply_error(h, NBD_REP_ERR_INVALID, "negotiate structured replies first");
    if (nbd_decode_meta_request(h->data, h->option.len_bytes, &request) < 0)
        return reply_error(h, NBD_REP_ERR_INVALID, "the option's lengths contradict each other");
    if (!set && request.query_count == 0)
        found = true; /* "then the server MUST return all the metadata contexts" */
    while (nbd_meta_query_next(&request, &query)) {
        /* "base:" is a wildcard of LIST and MUST be ignored by SET. */
        if (nbd_string_equal(query, NBD_CONTEXT_ALLOCATION) ||
            (!set && nbd_string_equal(query, "base:")))
            found = true;
    }
    int rc = found ? reply_context(h, set ? NBD_CONTEXT_ALLOCATION_ID : 0) : 0;
    if (set && found) {
        mem_free(h->allocation_name);
        h->allocation_name = mem_zalloc(request.name.len_bytes + 1, 1);
        memcpy(h->allocation_name, request.name.text, request.name.len_bytes);
        h->allocation = true;
    }
    return rc < 0 ? rc : reply_ack(h);
}

MAY_SUSPEND static int option_abort(struct handshake *h)
{
    int rc = reply_ack(h);
    if (rc == 0)
        rc = flush(h);
    return fail(h, rc < 0 ? rc : -ECONNRESET, "the client ended the handshake");
}

MAY_SUSPEND static int dispatch(struct handshake *h)
{
    switch (h->option.option) {
    case NBD_OPT_EXPORT_NAME:
        return option_export_name(h);
    case NBD_OPT_ABORT:
        return option_abort(h);
    case NBD_OPT_LIST:
        return option_list(h);
    case NBD_OPT_STARTTLS:
        return option_starttls(h);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return option_info_or_go(h);
    case NBD_OPT_STRUCTURED_REPLY:
        return option_structured_reply(h);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return option_meta_context(h);
    default:
        return reply_error(h, NBD_REP_ERR_UNSUP, "option %u is not supported", h->option.option);
    }
}

/* --- The phase ---------------------------------------------------------------------------------
 */

MAY_SUSPEND static int greet(struct handshake *h)
{
    uint8_t greeting[NBD_GREETING_BYTES], wire[NBD_CLIENT_FLAGS_BYTES];
    put_be64(greeting, NBD_MAGIC);
    put_be64(greeting + 8, NBD_OPTION_MAGIC);
    put_be16(greeting + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    int rc = put(h, greeting, sizeof(greeting));
    if (rc == 0)
        rc = flush(h);
    if (rc == 0)
        rc = receive(h, wire, sizeof(wire));
    if (rc < 0)
        return rc;
    /* "the server MUST drop the TCP connection if the client sets an unknown flag". One that does
     * not set FIXED_NEWSTYLE is served all the same ("Servers MAY choose to"). */
    uint32_t flags = get_be32(wire);
    if (flags & ~(uint32_t)(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES))
        return fail(h, -EPROTO, "the client set unknown handshake flags");
    h->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
    return 0;
}

/* Reads one option whole; a long one is passed over and answered with TOO_BIG. */
MAY_SUSPEND static int haggle(struct handshake *h)
{
    uint8_t wire[NBD_OPTION_HEADER_BYTES];
    int rc = receive(h, wire, sizeof(wire));
    if (rc < 0)
        return rc;
    if (nbd_decode_option_header(wire, &h->option) < 0)
        return fail(h, -EPROTO, "what came is no option of the protocol (wrong magic)");
    if (h->option.len_bytes <= OPTION_BYTES_MAX) {
        rc = receive(h, h->data, h->option.len_bytes);
        if (rc == 0)
            rc = dispatch(h);
        return rc < 0 ? rc : flush(h);
    }
    if (h->option.len_bytes > OPTION_SKIP_BYTES_MAX || h->option.option == NBD_OPT_EXPORT_NAME)
        return fail(h, -EPROTO, "an option is longer than any can be");
    for (uint32_t left = h->option.len_bytes; rc == 0 && left > 0;) {
        uint32_t n = MIN(left, OPTION_BYTES_MAX);
        rc = receive(h, h->data, n);
        left -= n;
    }
    if (rc == 0)
        rc = reply_error(h, NBD_REP_ERR_TOO_BIG, "options have at most %u bytes", OPTION_BYTES_MAX);
    return rc < 0 ? rc : flush(h);
}

int nbd_handshake(struct env_stream *stream, const struct nbd_handshake_options *options,
    struct nbd_negotiated *ret_negotiated, char **ret_reason)
{
    struct handshake *h = NEW(struct handshake);
    h->stream = stream;
    h->options = options;
    h->deadline_ns = env_now_ns() + options->timeout_ns;
    int rc = greet(h);
    for (unsigned count = 0; rc == 0 && !h->chosen; count++)
        rc = count < OPTION_COUNT_MAX ? haggle(h)
                                      : fail(h, -EPROTO, "the client sent too many options");
    if (rc == 0)
        *ret_negotiated = h->result;
    else if (h->chosen)
        attach_put(h->result.attachment);
    if (rc < 0)
        *ret_reason = h->reason;
    mem_free(h->allocation_name);
    mem_free(h);
    return rc;
}
