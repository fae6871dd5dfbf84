/* SPDX-License-Identifier: Apache-2.0
 *
 * A request walks from `pos` to `end` in pieces. Most have one piece. Where the server wants
 * aligned requests, a piece is either a run of whole blocks or a part of one block; that one is
 * read to `edge`, for a write changed there, and written back:
 *
 *      begin --> size known to cover it? --> range lock (only then) --> piece --> piece ... -->
 * reply
 *
 *  R1 A range that was punched or zeroed reads as zeroes afterwards: WRITE_ZEROES, which may free
 * the space, never TRIM, which promises nothing about the contents. R2 What is written with O_DSYNC
 * goes with FUA, or is flushed before the reply. R3 While a part of a block is read, changed and
 * written back, no other write to that block by this mount is under way (range_lock.h). R4 "Beyond
 * the end" is answered only after blockd was asked for the size of this moment: the volume may have
 * grown elsewhere.
 */
#include "fuse/request.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "fuse/buffer.h"

/* A WRITE's data is copied up to here; above, the buffer it was received in is kept instead. */
#define COPY_BYTES_MAX (64u << 10)
/* WRITE_ZEROES and BLOCK_STATUS of one command: their length is 32 bits wide. */
#define RANGE_BYTES_MAX (1u << 30)

enum request_kind { REQUEST_READ, REQUEST_WRITE, REQUEST_ZERO, REQUEST_FLUSH, REQUEST_SEEK };
enum piece { PIECE_RUN, PIECE_EDGE_READ, PIECE_EDGE_WRITE, PIECE_FLUSH };

struct request {
    struct nbd_op op; /* one at a time */
    struct request *cache_next;
    struct volume *volume;
    fuse_req_t fuse;
    struct caller caller;
    enum request_kind kind;
    enum piece piece;
    int whence;      /* SEEK */
    bool dsync;      /* WRITE */
    bool size_exact; /* ZERO: fails beyond the end instead of stopping there */
    bool size_only;  /* ... and is only about the size: nothing is written */
    bool size_checked;
    uint64_t start, pos, end; /* bytes in the volume; FLUSH: start = writes it covers */
    uint8_t *data;            /* READ, WRITE: of `start` */
    uint8_t *buffer;          /* that holds it, or NULL */
    size_t buffer_bytes;
    struct fuse_buf received; /* ... or this */
    uint8_t *edge;            /* one block */
    uint32_t edge_bytes;
    struct range_lock lock;
    struct size_waiter size_waiter;
};

static struct request *request_cache;
static unsigned request_cache_count;
#define REQUEST_CACHE_MAX 256

static void next_piece(struct request *r);
static void check_size(struct request *r);

static struct request *request_new(struct volume *v, fuse_req_t fuse, enum request_kind kind)
{
    struct request *r = request_cache;
    if (r != NULL) {
        request_cache = r->cache_next;
        request_cache_count--;
    } else {
        r = mem_alloc(sizeof(*r));
    }
    *r = (struct request){.volume = v, .fuse = fuse, .kind = kind};
    list_init(&r->lock.link);
    v->mount->requests++;
    return r;
}

static void request_free(struct request *r)
{
    struct volume *v = r->volume;
    if (r->buffer != NULL)
        buffer_put(r->buffer, r->buffer_bytes);
    if (r->received.mem != NULL)
        buffer_put_received(r->received);
    if (r->edge != NULL)
        buffer_put(r->edge, r->edge_bytes);
    range_unlock(&v->range_locks, &r->lock);
    v->mount->requests--;
    if (v->opens == 0)
        loop_later_set(v->mount->loop, &v->close_later);
    if (request_cache_count < REQUEST_CACHE_MAX) {
        r->cache_next = request_cache;
        request_cache = r;
        request_cache_count++;
    } else {
        mem_free(r);
    }
}

static void reply(struct request *r, int error)
{
    if (error != 0) {
        fuse_reply_err(r->fuse, -error);
    } else if (r->kind == REQUEST_READ) {
        fuse_reply_buf(r->fuse, (const char *)r->data, r->end - r->start);
    } else if (r->kind == REQUEST_WRITE) {
        volume_note_write(r->volume, r->dsync);
        fuse_reply_write(r->fuse, r->end - r->start);
    } else if (r->kind == REQUEST_SEEK) {
        fuse_reply_lseek(r->fuse, (off_t)r->pos);
    } else {
        if (r->kind == REQUEST_ZERO && !r->size_only)
            volume_note_write(r->volume, false);
        fuse_reply_err(r->fuse, 0);
    }
    request_free(r);
}

static const struct link_export *export_of(const struct request *r)
{
    return session_export(r->volume->session);
}

/* --- Pieces ----------------------------------------------------------------------------------- */

static uint8_t *data_at(const struct request *r, uint64_t pos)
{
    return r->data != NULL ? r->data + (pos - r->start) : NULL;
}

static void submit(struct request *r, enum piece piece, enum nbd_op_kind kind, uint64_t off,
    uint64_t len, uint8_t *buffer)
{
    r->piece = piece;
    r->op.kind = kind;
    r->op.fua = r->dsync && (kind == NBD_OP_WRITE || kind == NBD_OP_ZERO) && export_of(r)->can_fua;
    r->op.off_bytes = off;
    r->op.len_bytes = (uint32_t)len;
    r->op.buffer = buffer;
    session_submit(r->volume->session, &r->op);
}

/* Where the part of a block that begins at `pos` ends. */
static uint64_t edge_end(const struct request *r)
{
    uint32_t block = export_of(r)->block_min_bytes;
    return MIN(r->end, ROUND_DOWN(r->pos, block) + block);
}

static void change_edge(struct request *r)
{
    uint32_t block = export_of(r)->block_min_bytes;
    uint64_t block_start = ROUND_DOWN(r->pos, block), end = edge_end(r);
    uint8_t *at = r->edge + (r->pos - block_start);
    if (r->kind == REQUEST_READ) {
        memcpy(data_at(r, r->pos), at, end - r->pos);
        r->pos = end;
        next_piece(r);
        return;
    }
    if (r->kind == REQUEST_WRITE)
        memcpy(at, data_at(r, r->pos), end - r->pos);
    else
        memset(at, 0, end - r->pos);
    submit(r, PIECE_EDGE_WRITE, NBD_OP_WRITE, block_start, block, r->edge);
}

static void seek_end(struct request *r)
{
    if (!r->size_checked) {
        check_size(r);
        return;
    }
    r->pos = r->end; /* the end of a file counts as a hole */
    reply(r, r->whence == SEEK_HOLE ? 0 : -ENXIO);
}

static void seek_answered(struct request *r)
{
    uint64_t at = MIN(MAX(r->op.status_off_bytes, r->pos), r->end);
    bool advanced = at > r->pos;
    r->pos = at;
    if (at >= r->end)
        seek_end(r);
    else if (r->op.status_found)
        reply(r, 0);
    else if (advanced)
        next_piece(r);
    else
        reply(r, -EIO); /* the server described nothing */
}

static void op_done(struct nbd_op *op)
{
    struct request *r = container_of(op, struct request, op);
    if (op->error != 0) {
        reply(r, op->error);
        return;
    }
    switch (r->piece) {
    case PIECE_FLUSH:
        if (r->kind == REQUEST_FLUSH)
            r->volume->writes_flushed = MAX(r->volume->writes_flushed, r->start);
        reply(r, 0);
        return;
    case PIECE_EDGE_READ:
        change_edge(r);
        return;
    case PIECE_EDGE_WRITE:
        r->pos = edge_end(r);
        break;
    case PIECE_RUN:
        if (r->kind == REQUEST_SEEK) {
            seek_answered(r);
            return;
        }
        r->pos += op->len_bytes;
        break;
    }
    next_piece(r);
}

static void next_run(struct request *r)
{
    const struct link_export *export = export_of(r);
    uint64_t left = r->end - r->pos, len = ROUND_DOWN(left, export->block_min_bytes);
    switch (r->kind) {
    case REQUEST_READ:
    case REQUEST_WRITE:
        submit(r, PIECE_RUN, r->kind == REQUEST_READ ? NBD_OP_READ : NBD_OP_WRITE, r->pos,
            MIN(len, export->block_max_bytes), data_at(r, r->pos));
        return;
    case REQUEST_ZERO:
        submit(r, PIECE_RUN, NBD_OP_ZERO, r->pos, MIN(len, RANGE_BYTES_MAX), NULL); /* R1 */
        return;
    case REQUEST_SEEK:
    case REQUEST_FLUSH:
        break;
    }
    CHECK(false);
}

static void next_piece(struct request *r)
{
    const struct link_export *export = export_of(r);
    uint32_t block = export->block_min_bytes;
    r->op.done = op_done;
    if (r->kind == REQUEST_SEEK) {
        uint64_t from = ROUND_DOWN(r->pos, block);
        r->op.want_zero = r->whence == SEEK_HOLE;
        submit(r, PIECE_RUN, NBD_OP_STATUS, from, MIN(r->end - from, RANGE_BYTES_MAX), NULL);
    } else if (r->pos < r->end && (r->pos % block != 0 || r->end - r->pos < block)) {
        if (r->edge == NULL) {
            r->edge_bytes = block;
            r->edge = buffer_get(block);
        }
        submit(r, PIECE_EDGE_READ, NBD_OP_READ, ROUND_DOWN(r->pos, block), block, r->edge);
    } else if (r->pos < r->end) {
        next_run(r);
    } else if (r->dsync && !export->can_fua && export->can_flush) {
        submit(r, PIECE_FLUSH, NBD_OP_FLUSH, 0, 0, NULL); /* R2 */
    } else {
        reply(r, 0);
    }
}

/* --- Begin ------------------------------------------------------------------------------------ */

static void lock_granted(struct range_lock *lock)
{
    next_piece(container_of(lock, struct request, lock));
}

static void begin_pieces(struct request *r)
{
    uint32_t block = export_of(r)->block_min_bytes;
    bool writes = r->kind == REQUEST_WRITE || r->kind == REQUEST_ZERO;
    if (r->pos >= r->end || block == 1 || !writes) {
        next_piece(r);
        return;
    }
    r->lock.start_bytes = ROUND_DOWN(r->start, block); /* R3 */
    r->lock.end_bytes = ROUND_UP(r->end, block);
    r->lock.granted = lock_granted;
    range_lock(&r->volume->range_locks, &r->lock);
}

/* The range is cut to the volume's size, or refused. */
static void begin_sized(struct request *r, uint64_t size)
{
    switch (r->kind) {
    case REQUEST_READ:
        r->end = MAX(r->start, MIN(r->end, size));
        break;
    case REQUEST_WRITE:
        if (r->start >= size) {
            reply(r, -EFBIG);
            return;
        }
        r->end = MIN(r->end, size);
        break;
    case REQUEST_ZERO:
        if (r->size_exact && r->end > size) {
            reply(r, -EFBIG);
            return;
        }
        r->end = MAX(r->start, MIN(r->end, size));
        if (r->size_only)
            r->pos = r->end;
        break;
    case REQUEST_SEEK:
        if (r->start >= size) {
            reply(r, -ENXIO);
            return;
        }
        r->end = size;
        if (!export_of(r)->can_status && r->whence == SEEK_DATA) {
            reply(r, 0); /* all is data, as far as anyone knows */
            return;
        }
        if (!export_of(r)->can_status || r->pos >= size) {
            seek_end(r);
            return;
        }
        break;
    case REQUEST_FLUSH:
        break;
    }
    begin_pieces(r);
}

static void size_checked(struct size_waiter *waiter)
{
    struct request *r = container_of(waiter, struct request, size_waiter);
    r->size_checked = true;
    begin_sized(r, export_of(r)->size_bytes);
}

/* R4 */
static void check_size(struct request *r)
{
    r->size_waiter.checked = size_checked;
    volume_check_size(r->volume, &r->size_waiter);
}

static void begin(struct request *r)
{
    uint64_t size = export_of(r)->size_bytes;
    if (r->end <= size) {
        begin_sized(r, size);
        return;
    }
    check_size(r);
}

void request_read(struct volume *v, fuse_req_t fuse, uint64_t off_bytes, size_t len_bytes)
{
    if (len_bytes == 0) {
        fuse_reply_buf(fuse, NULL, 0);
        return;
    }
    struct request *r = request_new(v, fuse, REQUEST_READ);
    r->start = r->pos = off_bytes;
    r->end = off_bytes + len_bytes;
    r->buffer_bytes = len_bytes;
    r->data = r->buffer = buffer_get(len_bytes);
    begin(r);
}

void request_write(struct volume *v, fuse_req_t fuse, const uint8_t *data, uint64_t off_bytes,
    size_t len_bytes, bool dsync)
{
    if (len_bytes == 0) {
        fuse_reply_write(fuse, 0);
        return;
    }
    struct request *r = request_new(v, fuse, REQUEST_WRITE);
    r->start = r->pos = off_bytes;
    r->end = off_bytes + len_bytes;
    r->dsync = dsync;
    if (len_bytes > COPY_BYTES_MAX) {
        r->received = mount_take_received(v->mount);
        r->data = (uint8_t *)(uintptr_t)data;
    } else {
        r->buffer_bytes = len_bytes;
        r->data = r->buffer = buffer_get(len_bytes);
        memcpy(r->buffer, data, len_bytes);
    }
    begin(r);
}

void request_flush(struct volume *v, fuse_req_t fuse)
{
    if (!session_export(v->session)->can_flush) {
        fuse_reply_err(fuse, 0); /* the server has nothing that a FLUSH could make safer */
        return;
    }
    struct request *r = request_new(v, fuse, REQUEST_FLUSH);
    r->start = v->writes;
    r->op.done = op_done;
    submit(r, PIECE_FLUSH, NBD_OP_FLUSH, 0, 0, NULL);
}

void request_allocate(
    struct volume *v, fuse_req_t fuse, int mode, uint64_t off_bytes, uint64_t len_bytes)
{
    bool punch = mode & FALLOC_FL_PUNCH_HOLE, zero = mode & FALLOC_FL_ZERO_RANGE;
    bool keep_size = mode & FALLOC_FL_KEEP_SIZE;
    int known = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
    if ((mode & ~known) != 0 || (punch && zero) || (punch && !keep_size) ||
        ((punch || zero) && !session_export(v->session)->can_zero)) {
        fuse_reply_err(fuse, EOPNOTSUPP);
        return;
    }
    struct request *r = request_new(v, fuse, REQUEST_ZERO);
    r->start = r->pos = off_bytes;
    r->end = off_bytes + len_bytes;
    r->size_exact = !punch && !(zero && keep_size);
    r->size_only = !punch && !zero;
    begin(r);
}

void request_seek(struct volume *v, fuse_req_t fuse, uint64_t off_bytes, int whence)
{
    struct request *r = request_new(v, fuse, REQUEST_SEEK);
    r->whence = whence;
    r->start = r->pos = off_bytes;
    r->end = MAX(session_export(v->session)->size_bytes, off_bytes + 1);
    begin(r);
}

bool request_op_abandoned(struct nbd_op *op)
{
    struct request *r = container_of(op, struct request, op);
    return caller_is_dying(&r->caller, r->fuse);
}
