/* SPDX-License-Identifier: Apache-2.0
 *
 * A file system whose disks fail: fault_fs BACKING MOUNTPOINT shows the files of the directory BACKING and
 * stays in the foreground. While BACKING/.fail exists its words say what fails with EIO, by the kernel, for
 * every file: "read", "write", "sync"; "slow": each write takes 200 ms, "crawl": 1 s; "hang": no read, write or sync comes
 * back while the word is there.
 */
#define FUSE_USE_VERSION 314
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int backing;
static unsigned background_max; /* 0: as libfuse has it */

static bool fails(const char *what)
{
    char words[64];
    int fd = openat(backing, ".fail", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, words, sizeof(words) - 1);
    close(fd);
    words[n > 0 ? n : 0] = 0;
    return strstr(words, what);
}

static void hang(void)
{
    while (fails("hang"))
        usleep(20000);
}

static const char *name_of(const char *path)
{
    return path[1] ? path + 1 : ".";
}

static int or_errno(int r)
{
    return r < 0 ? -errno : 0;
}

static int fs_getattr(const char *path, struct stat *ret, struct fuse_file_info *info)
{
    return or_errno(fstatat(backing, name_of(path), ret, AT_SYMLINK_NOFOLLOW));
}

static int open_as(const char *path, int flags, mode_t mode, struct fuse_file_info *info)
{
    /* What goes through this cache is there when it is answered: nobody cuts the power. */
    int fd = openat(backing, name_of(path), (flags & ~(O_DIRECT | O_EXCL)) | O_CLOEXEC, mode);
    info->fh = (uint64_t)fd;
    info->direct_io = 1;
    return or_errno(fd);
}

static int fs_open(const char *path, struct fuse_file_info *info)
{
    return open_as(path, info->flags & ~O_CREAT, 0, info);
}

static int fs_create(const char *path, mode_t mode, struct fuse_file_info *info)
{
    return open_as(path, info->flags | O_CREAT, mode, info);
}

static int fs_release(const char *path, struct fuse_file_info *info)
{
    return or_errno(close((int)info->fh));
}

static int fs_read(
    const char *path, char *buf, size_t len_bytes, off_t off_bytes, struct fuse_file_info *info)
{
    hang();
    ssize_t n = fails("read") ? -1 : pread((int)info->fh, buf, len_bytes, off_bytes);
    return n < 0 ? -EIO : (int)n;
}

static int fs_write(const char *path, const char *buf, size_t len_bytes, off_t off_bytes,
    struct fuse_file_info *info)
{
    hang();
    if (fails("slow"))
        usleep(200000);
    if (fails("crawl"))
        usleep(1000000);
    ssize_t n = fails("write") ? -1 : pwrite((int)info->fh, buf, len_bytes, off_bytes);
    return n < 0 ? -EIO : (int)n;
}

static int fs_fsync(const char *path, int data_only, struct fuse_file_info *info)
{
    hang();
    return fails("sync") ? -EIO : 0;
}

static int fs_fsyncdir(const char *path, int data_only, struct fuse_file_info *info)
{
    return 0;
}

static int fs_fallocate(
    const char *path, int mode, off_t off_bytes, off_t len_bytes, struct fuse_file_info *info)
{
    return or_errno(fallocate((int)info->fh, mode, off_bytes, len_bytes));
}

static int fs_truncate(const char *path, off_t size_bytes, struct fuse_file_info *info)
{
    return info ? or_errno(ftruncate((int)info->fh, size_bytes)) : -ENOTSUP;
}

static int fs_unlink(const char *path)
{
    return or_errno(unlinkat(backing, name_of(path), 0));
}

/* Beyond this many the kernel makes their submitter wait, who is the daemon's one thread; a block device does not. */
static void *fs_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
    if (background_max > 0)
        connection->max_background = connection->congestion_threshold = background_max;
    return NULL;
}

int main(int argc, char **argv)
{
    static const struct fuse_operations operations = {.init = fs_init,
        .getattr = fs_getattr,
        .open = fs_open,
        .create = fs_create,
        .release = fs_release,
        .read = fs_read,
        .write = fs_write,
        .fsync = fs_fsync,
        .fsyncdir = fs_fsyncdir,
        .fallocate = fs_fallocate,
        .truncate = fs_truncate,
        .unlink = fs_unlink};
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: fault_fs BACKING MOUNTPOINT [REQUESTS]\n");
        return 2;
    }
    if (argc == 4)
        background_max = (unsigned)atoi(argv[3]);
    backing = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (backing < 0) {
        perror(argv[1]);
        return 1;
    }
    char *args[] = {argv[0], "-f", argv[2], NULL};
    return fuse_main(3, args, &operations, NULL);
}
