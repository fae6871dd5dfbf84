/* SPDX-License-Identifier: Apache-2.0
 *
 * Export. Pieces (data to read, zeros to skip) are made in order of their place and queued; reads of
 * many are in flight; the oldest is written to the file when its read is answered. So a pipe gets
 * everything in order, and nothing more than the queue is ever in memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/copy.h"
#include "cli/progress.h"
#include "cli/zero.h"
#include "common/check.h"
#include "common/mem.h"

/* How much of the volume one block-status request asks about. */
#define STATUS_BYTES (1u << 30)
#define EXTENTS_MAX 4096u

struct piece {
    struct export *export;
    uint64_t offset, len;
    bool zero, answered;
    char *buffer;
};

struct extent {
    uint64_t len;
    bool zero;
};

struct export
{
    struct nbd_link *link;
    const struct copy_out *options;
    struct piece pieces[NBD_LINK_REQUESTS]; /* a ring */
    uint64_t first, end;                    /* numbers of pieces: first..end-1 are queued */
    struct extent extents[EXTENTS_MAX];     /* what is known from `position` on */
    unsigned extent_at, extent_count;
    bool extents_full;      /* what did not fit is asked for again */
    bool asking;            /* for more extents */
    uint64_t position;      /* pieces are made up to here */
    uint64_t written_bytes; /* the file has all before here */
    int error;              /* of any request: the first */
    uint64_t error_offset;
    struct progress progress;
    struct copy_result *result;
};

static int fail(struct export *export, int error, char *text)
{
    if (export->result->error)
        mem_free(text);
    else
        export->result->error = text;
    return error;
}

/* --- Where data is --------------------------------------------------------------------------- */

static void add_extent(struct export *export, uint64_t len, bool zero)
{
    struct extent *last =
        export->extent_count > 0 ? &export->extents[export->extent_count - 1] : NULL;
    if (export->extents_full)
        return;
    if (last && last->zero == zero)
        last->len += len;
    else if (export->extent_count < EXTENTS_MAX)
        export->extents[export->extent_count++] = (struct extent){len, zero};
    else
        export->extents_full = true;
}

static int on_extents(void *ctx, const char *context, uint64_t offset, uint32_t *entries,
    size_t entry_count, int *error)
{
    struct export *export = ctx;
    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 || offset != export->position)
        return 0;
    for (size_t i = 0; i + 1 < entry_count; i += 2)
        add_extent(export, entries[i], entries[i + 1] & LIBNBD_STATE_ZERO);
    return 0;
}

/* No answer is no harm: what is not known to be zero is read. */
static int on_extents_end(void *ctx, int *error)
{
    struct export *export = ctx;
    export->asking = false;
    if (*error || export->extent_count == 0)
        export->link->has_extents = false;
    return 1;
}

static void ask_extents(struct export *export)
{
    uint64_t left = export->link->size_bytes - export->position;
    export->extent_at = export->extent_count = 0;
    export->extents_full = false;
    if (export->link->has_extents) {
        export->asking = true;
        nbd_extent_callback extents = {.callback = on_extents, .user_data = export};
        nbd_completion_callback end = {.callback = on_extents_end, .user_data = export};
        if (nbd_aio_block_status(nbd_link_next(export->link), MIN(left, STATUS_BYTES),
                export->position, extents, end, 0) >= 0)
            return;
        export->asking = false;
        export->link->has_extents = false;
    }
    add_extent(export, left, false);
}

/* --- Pieces ---------------------------------------------------------------------------------- */

static int on_read(void *ctx, int *error)
{
    struct piece *piece = ctx;
    struct export *export = piece->export;
    piece->answered = true;
    if (*error && export->error == 0) {
        export->error = *error;
        export->error_offset = piece->offset;
    }
    return 1;
}

static struct piece *piece_at(struct export *export, uint64_t number)
{
    return &export->pieces[number % NBD_LINK_REQUESTS];
}

static int make_piece(struct export *export)
{
    struct extent *extent = &export->extents[export->extent_at];
    uint64_t left = export->link->size_bytes - export->position;
    uint64_t len = MIN(extent->len, left);
    struct piece *piece = piece_at(export, export->end);
    if (!extent->zero)
        len = MIN(len, NBD_LINK_REQUEST_BYTES);
    piece->offset = export->position;
    piece->len = len;
    piece->zero = piece->answered = extent->zero;
    export->position += len;
    extent->len -= len;
    if (extent->len == 0)
        export->extent_at++;
    export->end++;
    if (piece->zero)
        return 0;
    export->result->data_bytes += len;
    if (nbd_aio_pread(nbd_link_next(export->link), piece->buffer, len, piece->offset,
            (nbd_completion_callback){.callback = on_read, .user_data = piece}, 0) >= 0)
        return 0;
    return fail(export, -EIO,
        mem_printf("reading volume '%s': %s", export->options->volume_name, nbd_get_error()));
}

static int make_pieces(struct export *export)
{
    int r = 0;
    while (r == 0 && export->position < export->link->size_bytes && !export->asking &&
           export->end - export->first < NBD_LINK_REQUESTS) {
        if (export->extent_at == export->extent_count)
            ask_extents(export);
        else
            r = make_piece(export);
    }
    return r;
}

/* --- The file -------------------------------------------------------------------------------- */

static int write_full(struct export *export, const char *data, size_t len, uint64_t offset)
{
    while (len > 0) {
        int fd = export->options->fd;
        ssize_t n =
            export->options->sparse ? pwrite(fd, data, len, (off_t)offset) : write(fd, data, len);
        if (n < 0 && errno == EINTR && !cli_interrupted)
            continue;
        if (n < 0)
            return fail(export, -errno,
                mem_printf("writing %s at byte %" PRIu64 " failed: %s", export->options->file_name,
                    offset, errno == EINTR ? "interrupted" : strerror(errno)));
        data += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

static int write_zeros(struct export *export, uint64_t offset, uint64_t len)
{
    static const char zeros[NBD_LINK_REQUEST_BYTES];
    int r = 0;
    while (r == 0 && len > 0 && !export->options->sparse) {
        size_t part = MIN(len, sizeof(zeros));
        r = write_full(export, zeros, part, offset);
        offset += part;
        len -= part;
    }
    return r;
}

static int write_piece(struct export *export, const struct piece *piece)
{
    if (piece->zero)
        return write_zeros(export, piece->offset, piece->len);
    if (!export->options->sparse)
        return write_full(export, piece->buffer, piece->len, piece->offset);
    int r = 0;
    for (size_t at = 0; r == 0 && at < piece->len;) {
        bool zero;
        size_t run = zero_run(piece->buffer + at, piece->len - at, &zero);
        if (!zero)
            r = write_full(export, piece->buffer + at, run, piece->offset + at);
        at += run;
    }
    return r;
}

/* --- Copying --------------------------------------------------------------------------------- */

static int check_requests(struct export *export)
{
    if (export->error == 0)
        return 0;
    return fail(export, -export->error,
        mem_printf("reading volume '%s' near byte %" PRIu64
                   " failed: %s; 'holdfast volume info %s' says what is wrong with it",
            export->options->volume_name, export->error_offset, strerror(export->error),
            export->options->volume_name));
}

static int wait_some(struct export *export)
{
    CLEANUP_FREE char *error = NULL;
    int r = nbd_link_wait(export->link, &error);
    if (r == 0 || r == -EINTR)
        return 0;
    return fail(export, r,
        mem_printf("the connection to volume '%s' broke: %s", export->options->volume_name,
            error ? error : strerror(-r)));
}

static int write_answered(struct export *export)
{
    int r = 0;
    while (r == 0 && export->first < export->end && piece_at(export, export->first)->answered) {
        const struct piece *piece = piece_at(export, export->first);
        r = check_requests(export);
        if (r == 0)
            r = write_piece(export, piece);
        if (r == 0)
            export->written_bytes = piece->offset + piece->len;
        export->first++;
    }
    return r;
}

static int run(struct export *export)
{
    int r = 0;
    while (r == 0 && export->written_bytes < export->link->size_bytes) {
        progress_show(&export->progress, export->written_bytes);
        if (cli_interrupted)
            return fail(export, -EINTR, mem_strdup("interrupted"));
        r = make_pieces(export);
        bool oldest_waits = export->first == export->end
                                ? export->asking
                                : !piece_at(export, export->first)->answered;
        if (r == 0 && oldest_waits)
            r = wait_some(export);
        if (r == 0)
            r = write_answered(export);
    }
    return r;
}

int copy_out(struct nbd_link *link, const struct copy_out *options, struct copy_result *ret_result)
{
    *ret_result = (struct copy_result){0};
    struct export *export = NEW(struct export);
    *export = (struct export){.link = link, .options = options, .result = ret_result};
    char *buffers = mem_alloc_pages((size_t)NBD_LINK_REQUESTS * NBD_LINK_REQUEST_BYTES);
    for (unsigned i = 0; i < NBD_LINK_REQUESTS; i++)
        export->pieces[i] = (struct piece){
            .export = export, .buffer = buffers + (size_t)i * NBD_LINK_REQUEST_BYTES};
    progress_start(&export->progress, options->volume_name, link->size_bytes);
    int r = run(export);
    progress_end(&export->progress);
    ret_result->bytes = ret_result->done_bytes = export->written_bytes;
    ret_result->begun_bytes = export->position;
    nbd_link_close(link); /* no request uses the buffers any more */
    mem_free_pages(buffers, (size_t)NBD_LINK_REQUESTS * NBD_LINK_REQUEST_BYTES);
    mem_free(export);
    return r;
}
