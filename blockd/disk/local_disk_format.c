/* SPDX-License-Identifier: Apache-2.0
 *
 * Formatting a disk: zeros over a file's whole length (appends to unwritten extents cost three
 * times as much), an empty table, then the superblocks. Refuses what looks used.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "blockd/disk/local_disk_impl.h"
#include "common/log.h"
#include "common/mem.h"

/* --- Who was here before ---------------------------------------------------------------------- */

struct signature {
    uint32_t off_bytes;
    uint8_t len_bytes;
    const char *magic;
    const char *name;
};

/* As in blkid(8)'s and the file systems' own documentation. */
static const struct signature SIGNATURES[] = {
    {0x438, 2, "\x53\xef", "an ext2/3/4 file system"},
    {0, 4, "XFSB", "an XFS file system"},
    {0x10040, 8, "_BHRfS_M", "a btrfs file system"},
    {0, 6, "LUKS\xba\xbe", "a LUKS volume"},
    {0x200, 8, "LABELONE", "an LVM physical volume"},
    {0x1000, 4, "\xfc\x4e\x2b\xa9", "a member of a Linux RAID"},
    {0, 4, "\xfc\x4e\x2b\xa9", "a member of a Linux RAID"},
    {0xff6, 10, "SWAPSPACE2", "swap space"},
    {0x200, 8, "EFI PART", "a GPT partition table"},
    {0x1000, 8, "EFI PART", "a GPT partition table"},
    {3, 8, "NTFS    ", "an NTFS file system"},
    {82, 5, "FAT32", "a FAT file system"},
    {54, 4, "FAT1", "a FAT file system"},
    {0x8001, 5, "CD001", "an ISO 9660 image"},
    {0, 4, "QFI\xfb", "a qcow2 image"},
    {0, 23, "bluestore block device\n", "a Ceph BlueStore device"},
    {0x1018, 16, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
        "a bcache device"},
    {0x400, 4, "\x10\x20\xf5\xf2", "an F2FS file system"},
    {510, 2, "\x55\xaa", "a partition table or boot sector"},
};

#define SIGNATURE_BYTES (80u << 10) /* covers all of the above */

/* NULL when nothing is known to be there. */
static const char *find_signature(const uint8_t *start)
{
    for (unsigned i = 0; i < ARRAY_SIZE(SIGNATURES); i++) {
        const struct signature *s = &SIGNATURES[i];
        CHECK(s->off_bytes + s->len_bytes <= SIGNATURE_BYTES);
        if (memcmp(start + s->off_bytes, s->magic, s->len_bytes) == 0)
            return s->name;
    }
    return NULL;
}

/* -EEXIST when the device carries something. */
static int refuse_used(struct env_file *file, char **ret_error)
{
    const char *path = env_file_path(file);
    uint8_t *start = mem_alloc_pages(SIGNATURE_BYTES);
    int r = env_file_read(file, start, SIGNATURE_BYTES, 0);
    const char *found = r == 0 ? find_signature(start) : NULL;
    uint64_t offs[SUPERBLOCK_COPIES];
    superblock_copy_offsets(env_file_size_bytes(file), offs);
    for (unsigned i = 0; r == 0 && i < SUPERBLOCK_COPIES; i++) {
        struct superblock super;
        r = env_file_read(file, start, SUPERBLOCK_BYTES, offs[i]);
        if (r == 0 && superblock_decode(start, offs[i], &super) != -ENOENT)
            found = "a Holdfast disk";
    }
    mem_free_pages(start, SIGNATURE_BYTES);
    if (r < 0) {
        *ret_error = mem_printf("%s: cannot be read: %s", path, local_disk_strerror(r));
        return r;
    }
    if (found == NULL)
        return 0;
    *ret_error =
        mem_printf("%s: holds %s; formatting destroys what is on it: give --force if that is meant",
            path, found);
    return -EEXIST;
}

/* --- Writing ---------------------------------------------------------------------------------- */

#define FILL_BYTES (1u << 20)
#define FORMAT_TIMEOUT_NS 120000000000ull /* a flush behind much may take its time */
#define FILL_DEPTH 4

struct fill {
    struct env_file *file;
    const void *zeros;
    uint64_t next, end;
    struct fiber_group group;
    int error;
};

struct fill_io {
    struct env_io io;
    struct iovec iov;
    struct fill *fill;
};

/* Each of the FILL_DEPTH writes takes the next piece when it is done. */
static void fill_next(struct env_io *io)
{
    struct fill_io *fill_io = container_of(io, struct fill_io, io);
    struct fill *fill = fill_io->fill;
    if (io->result < 0)
        fill->error = (int)io->result;
    if (fill->error < 0 || fill->next >= fill->end) {
        fiber_group_done(&fill->group, 0);
        return;
    }
    uint64_t len = MIN((uint64_t)FILL_BYTES, fill->end - fill->next);
    fill_io->iov = (struct iovec){.iov_base = (void *)fill->zeros, .iov_len = len};
    *io = (struct env_io){
        .op = ENV_IO_WRITE,
        .file = fill->file,
        .iov = &fill_io->iov,
        .iov_count = 1,
        .off_bytes = fill->next,
        .done = fill_next,
    };
    fill->next += len;
    env_io_submit(io);
}

static int write_zeros(struct env_file *file, uint64_t off_bytes, uint64_t end_bytes)
{
    void *zeros = mem_alloc_pages(FILL_BYTES);
    memset(zeros, 0, FILL_BYTES);
    struct fill fill = {.file = file, .zeros = zeros, .next = off_bytes, .end = end_bytes};
    struct fill_io ios[FILL_DEPTH] = {0};
    fiber_group_init(&fill.group);
    fiber_group_add(&fill.group, FILL_DEPTH);
    for (unsigned i = 0; i < FILL_DEPTH; i++) {
        ios[i].fill = &fill;
        fill_next(&ios[i].io);
    }
    (void)fiber_group_wait(&fill.group);
    mem_free_pages(zeros, FILL_BYTES);
    return fill.error;
}

/* Free entries are written out: zeros would be damage (D4). */
static int write_table(struct env_file *file, const struct superblock *super)
{
    struct table table;
    table_init(&table, super->table_entry_count, &super->disk);
    uint8_t *buf = mem_alloc_pages(FILL_BYTES);
    uint64_t table_bytes = (uint64_t)super->table_entry_count * TABLE_ENTRY_BYTES;
    static const uint8_t no_boot[16];
    int r = 0;
    for (uint64_t off = 0; r == 0 && off < table_bytes; off += FILL_BYTES) {
        uint64_t len = MIN((uint64_t)FILL_BYTES, table_bytes - off);
        for (uint64_t i = 0; i < len / TABLE_ENTRY_BYTES; i++)
            table_entry_encode(&table, (uint32_t)(off / TABLE_ENTRY_BYTES + i), no_boot,
                buf + i * TABLE_ENTRY_BYTES);
        r = env_file_write(file, buf, len, super->table_off_bytes + off, false);
    }
    mem_free_pages(buf, FILL_BYTES);
    table_fini(&table);
    return r;
}

/* Old superblocks go first and new ones come last: at no time does a half-written format look like
 * a disk. */
static int write_disk(struct env_file *file, const struct superblock *super, bool zeroed)
{
    uint64_t offs[SUPERBLOCK_COPIES];
    superblock_copy_offsets(super->size_bytes, offs);
    int r = 0;
    for (unsigned i = 0; r == 0 && i < SUPERBLOCK_COPIES; i++)
        r = write_zeros(file, offs[i], offs[i] + SUPERBLOCK_BYTES);
    if (r == 0)
        r = env_file_sync(file);
    bool is_device = strncmp(env_file_path(file), "/dev/", 5) == 0;
    if (r == 0 && !zeroed && !is_device)
        r = write_zeros(file, 0, super->size_bytes);
    if (r == 0)
        r = write_table(file, super);
    if (r == 0)
        r = env_file_sync(file);
    return r < 0 ? r : local_write_superblocks(file, super);
}

/* --- Format ----------------------------------------------------------------------------------- */

static int explain_target(const char *path, uint64_t size_bytes, int error, char **ret_error)
{
    if (error == -ENOENT && size_bytes > 0)
        *ret_error = mem_printf("%s: its directory does not exist; make that first", path);
    else if (error == -ENOENT)
        *ret_error = mem_printf("%s: no such file or device; --size makes a file", path);
    else if (error == -EBUSY)
        *ret_error =
            mem_printf("%s: in use by another process (a running blockd?); stop that first", path);
    else if (error == -ENOSPC)
        *ret_error = mem_printf("%s: no space for a file of %" PRIu64 " bytes", path, size_bytes);
    else
        *ret_error = mem_printf("%s: cannot be opened: %s", path, strerror(-error));
    return error;
}

/* With a size: a new file, or else what is there. *ret_created: made by this call, and zeroed. */
static int open_target(const char *path, uint64_t size_bytes, struct env_file **ret_file,
    bool *ret_created, char **ret_error)
{
    int r = -EEXIST;
    if (size_bytes > 0 && size_bytes < DISK_BYTES_MIN) {
        *ret_error = mem_printf(
            "%s: %" PRIu64 " bytes is too small: a disk has at least 64 MiB", path, size_bytes);
        return -ERANGE;
    }
    if (size_bytes > 0)
        r = env_file_open(path, ENV_OPEN_EXCLUSIVE_LOCK | ENV_OPEN_CREATE,
            ROUND_DOWN(size_bytes, (uint64_t)BLOCK_BYTES), ret_file);
    *ret_created = r == 0;
    if (r == -EEXIST)
        r = env_file_open(path, ENV_OPEN_EXCLUSIVE_LOCK, 0, ret_file);
    return r < 0 ? explain_target(path, size_bytes, r, ret_error) : 0;
}

static int format_file(struct env_file *file, bool created, uint64_t size_bytes,
    const struct superblock *identity, bool force, char **ret_error)
{
    const char *path = env_file_path(file);
    uint64_t size = env_file_size_bytes(file);
    if (ROUND_DOWN(size_bytes, (uint64_t)BLOCK_BYTES) > size) {
        *ret_error = mem_printf("%s: has %" PRIu64 " bytes, not the %" PRIu64
                                " asked for; leave the size out to use all of it",
            path, size, size_bytes);
        return -EINVAL;
    }
    struct superblock super = *identity;
    int r = superblock_layout(&super, size_bytes > 0 ? size_bytes : size);
    if (r < 0) {
        *ret_error =
            mem_printf("%s: has %" PRIu64 " bytes; a disk has at least 64 MiB and at most 128 TiB",
                path, size);
        return r;
    }
    if (!created && !force) {
        r = refuse_used(file, ret_error);
        if (r < 0)
            return r;
    }
    r = write_disk(file, &super, created);
    if (r < 0)
        *ret_error = mem_printf("%s: formatting failed: %s", path, local_disk_strerror(r));
    return r;
}

MAY_SUSPEND int local_disk_format(const char *path, uint64_t size_bytes, struct uuid cluster,
    struct uuid node, const char *class_name, bool force, struct uuid *ret_disk, char **ret_error)
{
    struct superblock identity = {
        .cluster = cluster, .node = node, .disk = uuid_random(), .clean = 1};
    if (strlen(class_name) >= sizeof(identity.class_name)) {
        *ret_error = mem_printf("%s: class '%s' is too long, at most %zu characters", path,
            class_name, sizeof(identity.class_name) - 1);
        return -EINVAL;
    }
    memcpy(identity.class_name, class_name, strlen(class_name));
    struct env_file *file;
    bool created;
    int r = open_target(path, size_bytes, &file, &created, ret_error);
    if (r < 0)
        return r;
    file = env_file_deadline(file, FORMAT_TIMEOUT_NS);
    r = format_file(file, created, size_bytes, &identity, force, ret_error);
    env_file_close(file);
    if (r == 0)
        *ret_disk = identity.disk;
    return r;
}
