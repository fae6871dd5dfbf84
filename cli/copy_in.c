/* SPDX-License-Identifier: Apache-2.0
 *
 * Import. The file is read in order into slots; each slot's runs of data are written by requests of
 * their own, a slot is free when all its requests are answered. Runs of zeros grow across slots and
 * go out as one request when data follows.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/copy.h"
#include "cli/progress.h"
#include "cli/zero.h"
#include "common/check.h"
#include "common/mem.h"

/* A write-zeroes request moves no data, so it may be long; short enough to show progress. */
#define ZERO_REQUEST_BYTES_MAX (256u << 20)
#define ZERO_REQUESTS_MAX 32u

struct request {
    struct import *import;
    uint64_t offset;
    unsigned pending; /* NBD requests; 0 = free */
    char *buffer;     /* NULL: zeros */
};

struct import {
    struct nbd_link *link;
    const struct copy_in *options;
    struct request data[NBD_LINK_REQUESTS], zeros[ZERO_REQUESTS_MAX];
    uint64_t position;  /* of the source: all before it was taken up */
    uint64_t data_end;  /* of the source's data at `position`; == position: not known */
    uint64_t zero_from; /* zeros from here to `zero_to` are still to be sent */
    uint64_t zero_to;
    int error;             /* of any request: the first */
    uint64_t error_offset; /* the lowest that failed */
    struct progress progress;
    struct copy_result *result;
};

static int fail(struct import *import, int error, char *text)
{
    if (import->result->error)
        mem_free(text);
    else
        import->result->error = text;
    return error;
}

/* --- Requests -------------------------------------------------------------------------------- */

static int on_answer(void *ctx, int *error)
{
    struct request *request = ctx;
    struct import *import = request->import;
    request->pending--;
    if (*error) {
        bool first = import->error == 0;
        import->error = first ? *error : import->error;
        import->error_offset = first ? request->offset : MIN(import->error_offset, request->offset);
    }
    return 1; /* libnbd may forget it */
}

static int check_requests(struct import *import)
{
    int error = import->error;
    if (error == 0)
        return 0;
    const char *way_out = error == ENOSPC  ? "; the pool is full: see 'holdfast pool list'"
                          : error == EPERM ? "; it is read-only"
                                           : "; see 'holdfast status' and the daemon's log";
    return fail(import, -error,
        mem_printf("writing volume '%s' near byte %" PRIu64 " failed: %s%s",
            import->options->volume_name, import->error_offset, strerror(error), way_out));
}

static int wait_some(struct import *import)
{
    CLEANUP_FREE char *error = NULL;
    progress_show(&import->progress, import->position);
    if (cli_interrupted)
        return fail(import, -EINTR, mem_strdup("interrupted"));
    int r = nbd_link_wait(import->link, &error);
    if (r == -EINTR)
        return 0;
    if (r < 0)
        return fail(import, r,
            mem_printf("the connection to volume '%s' broke: %s", import->options->volume_name,
                error ? error : strerror(-r)));
    return check_requests(import);
}

/* A free request of the array, after a wait if there is none. */
static int get_request(
    struct import *import, struct request *requests, unsigned count, struct request **ret_request)
{
    for (;;) {
        for (unsigned i = 0; i < count; i++)
            if (requests[i].pending == 0) {
                *ret_request = &requests[i];
                return 0;
            }
        int r = wait_some(import);
        if (r < 0)
            return r;
    }
}

static bool any_pending(const struct import *import)
{
    unsigned pending = 0;
    for (unsigned i = 0; i < NBD_LINK_REQUESTS; i++)
        pending += import->data[i].pending;
    for (unsigned i = 0; i < ZERO_REQUESTS_MAX; i++)
        pending += import->zeros[i].pending;
    return pending > 0;
}

static int drain(struct import *import)
{
    while (any_pending(import)) {
        int r = wait_some(import);
        if (r < 0)
            return r;
    }
    return check_requests(import);
}

/* After an error: what is under way ends, so that it is known what the volume has. */
static void settle(struct import *import)
{
    CLEANUP_FREE char *error = NULL;
    int r = 0;
    while (any_pending(import) && (r == 0 || r == -EINTR))
        r = nbd_link_wait(import->link, &error);
}

static int submitted(struct import *import, struct request *request, int64_t cookie)
{
    if (cookie >= 0)
        return 0;
    request->pending--;
    return fail(import, -EIO,
        mem_printf("writing volume '%s': %s", import->options->volume_name, nbd_get_error()));
}

static int write_data(
    struct import *import, struct request *request, const char *data, size_t len, uint64_t offset)
{
    request->pending++;
    import->result->data_bytes += len;
    return submitted(import, request,
        nbd_aio_pwrite(nbd_link_next(import->link), data, len, offset,
            (nbd_completion_callback){.callback = on_answer, .user_data = request}, 0));
}

/* Only for servers without write-zeroes. */
static int write_zeros_as_data(struct import *import, uint64_t offset, uint64_t len)
{
    static const char zeros[NBD_LINK_REQUEST_BYTES];
    while (len > 0) {
        struct request *request;
        size_t part = MIN(len, sizeof(zeros));
        int r = get_request(import, import->zeros, ZERO_REQUESTS_MAX, &request);
        if (r < 0)
            return r;
        request->offset = offset;
        r = write_data(import, request, zeros, part, offset);
        if (r < 0)
            return r;
        offset += part;
        len -= part;
    }
    return 0;
}

/* Sends the zeros gathered so far. */
static int send_zeros(struct import *import)
{
    uint64_t offset = import->zero_from, len = import->zero_to - import->zero_from;
    import->zero_from = import->zero_to;
    if (len == 0 || import->options->volume_is_zero)
        return 0;
    if (!import->link->can_zero)
        return write_zeros_as_data(import, offset, len);
    while (len > 0) {
        struct request *request;
        uint64_t part = MIN(len, ZERO_REQUEST_BYTES_MAX);
        int r = get_request(import, import->zeros, ZERO_REQUESTS_MAX, &request);
        if (r < 0)
            return r;
        request->offset = offset;
        request->pending++;
        r = submitted(import, request,
            nbd_aio_zero(nbd_link_next(import->link), part, offset,
                (nbd_completion_callback){.callback = on_answer, .user_data = request}, 0));
        if (r < 0)
            return r;
        offset += part;
        len -= part;
    }
    return 0;
}

static int add_zeros(struct import *import, uint64_t offset, uint64_t len)
{
    if (import->zero_to != offset) {
        int r = send_zeros(import);
        if (r < 0)
            return r;
        import->zero_from = offset;
    }
    import->zero_to = offset + len;
    return import->zero_to - import->zero_from >= ZERO_REQUEST_BYTES_MAX ? send_zeros(import) : 0;
}

/* --- The source ------------------------------------------------------------------------------ */

/* Finds the data at or after `position`: *ret_hole is how much hole comes before it. */
static void find_data(struct import *import, uint64_t *ret_hole)
{
    uint64_t size = import->options->size_bytes, position = import->position;
    off_t data = lseek(import->options->fd, (off_t)position, SEEK_DATA);
    off_t end = data >= 0 ? lseek(import->options->fd, data, SEEK_HOLE) : -1;
    uint64_t from = position, to = size;
    if (data < 0 && errno == ENXIO)
        from = size;
    else if (data >= 0 && end > data) {
        from = ROUND_DOWN((uint64_t)data, ZERO_BLOCK_BYTES);
        to = ROUND_UP((uint64_t)end, ZERO_BLOCK_BYTES);
    } /* else: it knows no holes */
    from = MAX(from, position);
    *ret_hole = MIN(from, size) - position;
    import->data_end = MIN(to, size);
}

/* Reads up to `len`; less only at the end. Negative errno. */
static ssize_t read_full(struct import *import, char *buffer, size_t len, uint64_t offset)
{
    size_t done = 0;
    while (done < len) {
        int fd = import->options->fd;
        ssize_t n = import->options->seekable
                        ? pread(fd, buffer + done, len - done, (off_t)(offset + done))
                        : read(fd, buffer + done, len - done);
        if (n < 0 && errno == EINTR && !cli_interrupted)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

static int read_failed(struct import *import, int error)
{
    if (error == -EINTR)
        return fail(import, error, mem_strdup("interrupted"));
    return fail(import, error,
        mem_printf("reading %s at byte %" PRIu64 " failed: %s", import->options->file_name,
            import->position, strerror(-error)));
}

/* --- Copying --------------------------------------------------------------------------------- */

/* Splits what is in the request's buffer into data and zeros. */
static int send_buffer(struct import *import, struct request *request, size_t len)
{
    int r = 0;
    for (size_t at = 0; r == 0 && at < len;) {
        bool zero;
        size_t run = zero_run(request->buffer + at, len - at, &zero);
        uint64_t offset = request->offset + at;
        r = zero ? add_zeros(import, offset, run)
                 : write_data(import, request, request->buffer + at, run, offset);
        at += run;
    }
    return r;
}

/* Reads the next piece and sends it. *ret_end: there was none. */
static int copy_piece(struct import *import, bool *ret_end)
{
    const struct copy_in *options = import->options;
    struct request *request;
    int r = get_request(import, import->data, NBD_LINK_REQUESTS, &request);
    if (r < 0)
        return r;
    uint64_t volume_left = import->link->size_bytes - import->position;
    size_t wanted = NBD_LINK_REQUEST_BYTES;
    if (options->seekable)
        wanted = MIN(wanted, import->data_end - import->position);
    ssize_t n = read_full(import, request->buffer, wanted, import->position);
    if (n < 0)
        return read_failed(import, (int)n);
    if (options->seekable && (size_t)n < wanted)
        return fail(
            import, -EIO, mem_printf("%s became shorter while it was read", options->file_name));
    *ret_end = n == 0;
    if ((uint64_t)n > volume_left)
        return fail(import, -EFBIG,
            mem_printf("%s has more than the %" PRIu64 " bytes (%s) of volume '%s'",
                options->file_name, import->link->size_bytes, size_text(import->link->size_bytes),
                options->volume_name));
    /* The last sector of the volume that the file reaches is filled up with zeros. */
    size_t padded = ROUND_UP((size_t)n, import->link->block_bytes);
    memset(request->buffer + n, 0, padded - (size_t)n);
    request->offset = import->position;
    r = send_buffer(import, request, padded);
    import->position += (uint64_t)n;
    return r;
}

static int copy_pipe(struct import *import)
{
    bool end = false;
    int r = 0;
    while (r == 0 && !end) {
        progress_show(&import->progress, import->position);
        r = copy_piece(import, &end);
        /* Also at the end: ^C ends what feeds the pipe too, so that this need not be all. */
        if (r == 0 && cli_interrupted)
            r = fail(import, -EINTR, mem_strdup("interrupted"));
    }
    if (r == 0 && import->position == 0) /* and not a reason to zero the volume */
        r = fail(import, -ENODATA, mem_printf("%s is empty", import->options->file_name));
    return r;
}

static int copy_file(struct import *import)
{
    bool end = false;
    int r = 0;
    while (r == 0 && import->position < import->options->size_bytes) {
        progress_show(&import->progress, import->position);
        if (cli_interrupted)
            return fail(import, -EINTR, mem_strdup("interrupted"));
        if (import->position >= import->data_end) {
            uint64_t hole;
            find_data(import, &hole);
            r = hole > 0 ? add_zeros(import, import->position, hole) : 0;
            import->position += hole;
        } else {
            r = copy_piece(import, &end);
        }
    }
    return r;
}

/* What the volume has beyond the file: nothing of what was there before is left. */
static int zero_rest(struct import *import)
{
    uint64_t from = import->position;
    int r = 0;
    if (import->zero_to != from) /* no hole at the file's end: data, padded to a whole block */
        from = ROUND_UP(from, import->link->block_bytes);
    if (from < import->link->size_bytes)
        r = add_zeros(import, from, import->link->size_bytes - from);
    return r < 0 ? r : send_zeros(import);
}

static void account(struct import *import)
{
    struct copy_result *result = import->result;
    uint64_t lowest = import->zero_from < import->zero_to ? import->zero_from : import->position;
    for (unsigned i = 0; i < NBD_LINK_REQUESTS; i++)
        if (import->data[i].pending > 0 && import->data[i].offset < lowest)
            lowest = import->data[i].offset;
    for (unsigned i = 0; i < ZERO_REQUESTS_MAX; i++)
        if (import->zeros[i].pending > 0 && import->zeros[i].offset < lowest)
            lowest = import->zeros[i].offset;
    if (import->error && import->error_offset < lowest)
        lowest = import->error_offset;
    result->bytes = result->begun_bytes = import->position;
    result->done_bytes = lowest;
}

static int run(struct import *import)
{
    CLEANUP_FREE char *error = NULL;
    int r = import->options->seekable ? copy_file(import) : copy_pipe(import);
    if (r == 0)
        r = zero_rest(import);
    if (r == 0)
        r = drain(import);
    if (r < 0)
        return r;
    r = nbd_link_flush(import->link, &error);
    return r < 0 ? fail(import, r, mem_printf("the flush at the end failed: %s", error)) : 0;
}

int copy_in(struct nbd_link *link, const struct copy_in *options, struct copy_result *ret_result)
{
    *ret_result = (struct copy_result){0};
    struct import *import = NEW(struct import);
    *import = (struct import){.link = link, .options = options, .result = ret_result};
    char *buffers = mem_alloc_pages((size_t)NBD_LINK_REQUESTS * NBD_LINK_REQUEST_BYTES);
    for (unsigned i = 0; i < NBD_LINK_REQUESTS; i++)
        import->data[i] = (struct request){
            .import = import, .buffer = buffers + (size_t)i * NBD_LINK_REQUEST_BYTES};
    for (unsigned i = 0; i < ZERO_REQUESTS_MAX; i++)
        import->zeros[i].import = import;
    progress_start(&import->progress, options->volume_name, options->size_bytes);
    int r = run(import);
    if (r < 0)
        settle(import);
    progress_end(&import->progress);
    account(import);
    nbd_link_close(link); /* no request uses the buffers any more */
    mem_free_pages(buffers, (size_t)NBD_LINK_REQUESTS * NBD_LINK_REQUEST_BYTES);
    mem_free(import);
    return r;
}
