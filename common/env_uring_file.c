/* SPDX-License-Identifier: Apache-2.0
 *
 * Disk files of the production env. An I/O costs no allocation: the caller's env_io is the
 * operation. Only a short transfer, which O_DIRECT gives at most at odd moments (a signal, a limit
 * of the device), takes a copy of the iovec array for the rest; the caller's own is never changed.
 */
#include "common/env_uring.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

#define BLOCK_BYTES 4096u
#define ZERO_CHUNK_BYTES (4u << 20)
#define LOCK_TRIES 40
#define LOCK_RETRY_US 25000

struct uring_file {
    struct env_file file;
    struct uring_handle handle;
    unsigned in_flight;
};

/* The rest of a short transfer (env_io.impl). */
struct uring_rest {
    unsigned iov_count;
    struct iovec iov[];
};

static struct uring_file *uring_file_of(struct env_file *file)
{
    return container_of(file, struct uring_file, file);
}

/* --- I/O --------------------------------------------------------------------------------------- */

void uring_io_prep(struct env_io *io, struct io_uring_sqe *sqe)
{
    const struct uring_rest *rest = io->impl;
    const struct iovec *iov = rest ? rest->iov : io->iov;
    unsigned iov_count = rest ? rest->iov_count : io->iov_count;
    uint64_t off_bytes = io->off_bytes + io->done_bytes;
    int fd = uring_file_of(io->file)->handle.fd;

    switch (io->op) {
    case ENV_IO_READ:
        if (iov_count == 1)
            io_uring_prep_read(sqe, fd, iov[0].iov_base, iov[0].iov_len, off_bytes);
        else
            io_uring_prep_readv(sqe, fd, iov, iov_count, off_bytes);
        break;
    case ENV_IO_WRITE:
    case ENV_IO_WRITE_DSYNC:
        if (iov_count == 1)
            io_uring_prep_write(sqe, fd, iov[0].iov_base, iov[0].iov_len, off_bytes);
        else
            io_uring_prep_writev(sqe, fd, iov, iov_count, off_bytes);
        if (io->op == ENV_IO_WRITE_DSYNC)
            sqe->rw_flags = RWF_DSYNC;
        break;
    case ENV_IO_SYNC:
        io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
        break;
    }
}

static uint64_t total_bytes(const struct env_io *io)
{
    uint64_t len_bytes = 0;
    for (unsigned i = 0; i < io->iov_count; i++)
        len_bytes += io->iov[i].iov_len;
    return len_bytes;
}

static void io_finish(struct env_io *io, int64_t result)
{
    uring_file_of(io->file)->in_flight--;
    free(io->impl);
    io->impl = NULL;
    io->result = result;
    io->done(io);
}

/* Queues what lies beyond io->done_bytes. */
static void io_continue(struct env_io *io)
{
    struct uring_rest *rest = io->impl;
    if (!rest) {
        rest = malloc(sizeof(*rest) + io->iov_count * sizeof(rest->iov[0]));
        CHECK_MSG(rest, "no memory for a short transfer");
        io->impl = rest;
    }
    uint64_t skip_bytes = io->done_bytes;
    rest->iov_count = 0;
    for (unsigned i = 0; i < io->iov_count; i++) {
        struct iovec iov = io->iov[i];
        uint64_t skip = MIN(skip_bytes, iov.iov_len);
        skip_bytes -= skip;
        if (skip == iov.iov_len)
            continue;
        iov.iov_base = (char *)iov.iov_base + skip;
        iov.iov_len -= skip;
        rest->iov[rest->iov_count++] = iov;
    }
    uring_io_queue(uring_of(io->env), io);
}

void uring_io_complete(struct env_io *io, int res)
{
    if (io->abandoned) { /* its buffers may be gone: there is no going on, and nobody asks how far it came */
        io_finish(io, res);
        return;
    }
    if (res == -EINTR || res == -EAGAIN) { /* the kernel did nothing yet: no device error */
        uring_io_queue(uring_of(io->env), io);
        return;
    }
    if (res < 0 || io->op == ENV_IO_SYNC) {
        io_finish(io, res);
        return;
    }
    uint64_t len_bytes = total_bytes(io);
    io->done_bytes += res;
    if (io->done_bytes == len_bytes)
        io_finish(io, (int64_t)len_bytes);
    else if (res == 0 || res % BLOCK_BYTES != 0) /* the file has shrunk under us */
        io_finish(io, -EIO);
    else
        io_continue(io);
}

static void file_submit(struct env_io *io)
{
    int error = env_io_check(io);
    io->impl = NULL;
    if (error) {
        uring_io_complete_later(io, error);
        return;
    }
    uring_file_of(io->file)->in_flight++;
    uring_io_queue(uring_of(io->env), io);
}

static bool file_abandon(struct env_io *io, bool buffers_stay)
{
    if (!io->queued) {
        io->abandoned = true;
        uring_of(io->env)->io_abandoned++;
        return false;
    }
    list_remove(&io->link);
    uring_file_of(io->file)->in_flight--;
    free(io->impl);
    return true;
}

static void file_close(struct env_file *file)
{
    struct uring_file *f = uring_file_of(file);
    CHECK_MSG(f->in_flight == 0, "%s closed with %u I/Os in flight", file->path, f->in_flight);
    uring_handle_close(&f->handle);
    mem_free(file->path);
    mem_free(f);
}

static const struct env_file_ops file_ops = {
    .submit = file_submit,
    .abandon = file_abandon,
    .close = file_close,
};

/* --- Open: on a helper thread, so no mem_* and no log ------------------------------------------ */

struct open_job {
    const char *path;
    const bool *stop; /* set when the process ends */
    unsigned flags;
    uint64_t size_bytes;
    int ret_fd;
    const char *ret_why; /* static text: which step failed */
};

static int fail(struct open_job *job, const char *why)
{
    job->ret_why = why;
    return -errno;
}

/* Allocated first, so that a full file system is found before hours of writing; then written, since
 * an append to an allocated but unwritten extent costs three times as much. */
static int write_zeros(struct open_job *job, int fd)
{
    int rc = posix_fallocate(fd, 0, (off_t)job->size_bytes);
    if (rc != 0) {
        job->ret_why = "cannot allocate its length";
        return -rc;
    }
    void *zeros = aligned_alloc(BLOCK_BYTES, ZERO_CHUNK_BYTES);
    if (!zeros)
        return fail(job, "cannot write zeros");
    memset(zeros, 0, ZERO_CHUNK_BYTES);
    rc = 0;
    for (uint64_t off = 0; off < job->size_bytes && rc == 0;) {
        if (__atomic_load_n(job->stop, __ATOMIC_RELAXED)) {
            errno = ECANCELED;
            rc = fail(job, "the process ends");
            break;
        }
        ssize_t n = pwrite(fd, zeros, MIN(job->size_bytes - off, ZERO_CHUNK_BYTES), (off_t)off);
        if (n > 0)
            off += n;
        else if (errno != EINTR)
            rc = fail(job, "cannot write zeros");
    }
    free(zeros);
    if (rc == 0 && fsync(fd) < 0)
        rc = fail(job, "cannot sync");
    return rc;
}

/* Makes the new directory entry durable. */
static int sync_parent(struct open_job *job)
{
    char *copy = strdup(job->path);
    if (!copy)
        return -ENOMEM;
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
    free(copy);
    if (fd < 0 || fsync(fd) < 0)
        rc = fail(job, "cannot sync its directory");
    if (fd >= 0)
        close(fd);
    return rc;
}

static int lock(struct open_job *job, int fd)
{
    if (!(job->flags & ENV_OPEN_EXCLUSIVE_LOCK))
        return 0;
    struct flock lock = {
        .l_type = job->flags & ENV_OPEN_READ_ONLY ? F_RDLCK : F_WRLCK,
        .l_whence = SEEK_SET,
    };
    /* A killed process's ring may hold its files for a moment after the process is gone. */
    for (int tries = 0; fcntl(fd, F_OFD_SETLK, &lock) != 0; tries++) {
        if ((errno != EAGAIN && errno != EACCES) || tries == LOCK_TRIES)
            goto failed;
        usleep(LOCK_RETRY_US);
    }
    return 0;

failed:
    if (errno == EAGAIN || errno == EACCES)
        errno = EBUSY;
    return fail(job, errno == EBUSY ? "in use by another process (locked)" : "cannot lock");
}

static int open_fd(struct open_job *job)
{
    int flags = O_DIRECT | O_CLOEXEC | O_NOCTTY;
    flags |= job->flags & ENV_OPEN_READ_ONLY ? O_RDONLY : O_RDWR;
    struct stat st;
    if (job->flags & ENV_OPEN_CREATE) {
        if (job->size_bytes == 0 || job->size_bytes % BLOCK_BYTES != 0) {
            errno = EINVAL;
            return fail(job, "a new file's size is a multiple of 4096, not 0");
        }
        flags |= O_CREAT | O_EXCL;
    } else if (stat(job->path, &st) == 0 && S_ISBLK(st.st_mode) &&
               (job->flags & ENV_OPEN_EXCLUSIVE_LOCK)) {
        flags |= O_EXCL; /* the kernel then refuses a device that is mounted or part of another */
    }
    int fd = open(job->path, flags, 0600);
    if (fd < 0 && errno == EINVAL)
        return fail(job, "its file system cannot do O_DIRECT (tmpfs cannot)");
    return fd >= 0 ? fd : fail(job, "cannot open");
}

static int find_size(struct open_job *job, int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return fail(job, "cannot stat");
    if (S_ISREG(st.st_mode)) {
        job->size_bytes = ROUND_DOWN((uint64_t)st.st_size, BLOCK_BYTES);
        return 0;
    }
    if (S_ISBLK(st.st_mode)) {
        if (ioctl(fd, BLKGETSIZE64, &job->size_bytes) < 0)
            return fail(job, "cannot get the device's size");
        job->size_bytes = ROUND_DOWN(job->size_bytes, BLOCK_BYTES);
        return 0;
    }
    errno = EINVAL;
    return fail(job, "neither a regular file nor a block device");
}

static int64_t open_on_thread(void *arg)
{
    struct open_job *job = arg;
    int fd = open_fd(job);
    if (fd < 0)
        return fd;
    int rc = lock(job, fd);
    if (rc == 0 && (job->flags & ENV_OPEN_CREATE)) {
        rc = write_zeros(job, fd);
        if (rc == 0)
            rc = sync_parent(job);
        if (rc < 0)
            unlink(job->path); /* half a disk is of no use, and in the way of the next try */
    }
    if (rc == 0)
        rc = find_size(job, fd);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    job->ret_fd = fd;
    return 0;
}

int uring_file_open(struct env *env, const char *path, unsigned flags, uint64_t size_bytes,
    struct env_file **ret_file)
{
    struct env_uring *uring = uring_of(env);
    struct open_job job = {
        .path = path,
        .stop = &uring->threads_stop,
        .flags = flags,
        .size_bytes = size_bytes,
    };
    int rc = (int)uring_offload(env, open_on_thread, &job);
    if (rc < 0) {
        /* The caller has only the number; the step that failed is known here. */
        if (rc != -ENOENT || !(flags & ENV_OPEN_MAY_BE_ABSENT))
            log_warn("%s: %s: %s", path, job.ret_why ? job.ret_why : "cannot open", strerror(-rc));
        return rc;
    }
    struct uring_file *f = NEW(struct uring_file);
    f->file = (struct env_file){
        .env = env,
        .ops = &file_ops,
        .size_bytes = job.size_bytes,
        .path = mem_strdup(path),
        .read_only = flags & ENV_OPEN_READ_ONLY,
    };
    uring_handle_open(uring, &f->handle, job.ret_fd);
    *ret_file = uring->power_cut ? powercut_wrap(&f->file) : &f->file;
    return 0;
}
