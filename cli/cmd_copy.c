/* SPDX-License-Identifier: Apache-2.0
 *
 * volume import, volume export: what surrounds the copy. Everything that can be refused is refused
 * before anything is changed: the file is looked at before a volume is made, the volume is opened
 * before a file is.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/copy.h"
#include "cli/image.h"
#include "common/check.h"
#include "common/mem.h"

#define CONNECTIONS_DEFAULT 4u
#define SECTOR_BYTES 512u

/* --- The volume ------------------------------------------------------------------------------ */

/* The address to use: --nbd, or the first unix socket that the daemon names, or its first. */
static int nbd_address(struct cli *cli, const struct args *args, char **ret_address)
{
    if (args_has(args, "nbd")) {
        *ret_address = mem_strdup(args_text(args, "nbd"));
        return CLI_OK;
    }
    CLEANUP_JSON json_t *status = NULL;
    int code = cli_call(cli, "status", NULL, &status);
    if (code != CLI_OK)
        return code;
    const json_t *addresses = json_object_get(status, "nbd"), *item;
    const char *address = json_string_value(json_array_get(addresses, 0));
    size_t i;
    json_array_foreach (addresses, i, item)
        if (strncmp(json_string_value(item), "unix:", 5) == 0) {
            address = json_string_value(item);
            break;
        }
    if (!address)
        return cli_fail("the daemon serves no NBD: set [nbd] listen in its configuration");
    *ret_address = mem_strdup(address);
    return CLI_OK;
}

static int open_link(
    struct cli *cli, const struct args *args, const char *volume, struct nbd_link *link)
{
    CLEANUP_FREE char *address = NULL, *error = NULL;
    int code = nbd_address(cli, args, &address);
    if (code != CLI_OK)
        return code;
    unsigned connections = (unsigned)args_number(args, "connections", CONNECTIONS_DEFAULT);
    if (connections < 1 || connections > NBD_LINK_CONNECTIONS_MAX) {
        cli_fail("--connections is from 1 to %u", NBD_LINK_CONNECTIONS_MAX);
        return CLI_USAGE;
    }
    if (nbd_link_open(link, address, volume, connections, &error) < 0)
        return cli_fail("volume '%s': %s", volume, error);
    return CLI_OK;
}

/* Others that use the volume: not asked for where the daemon is not the server. */
static int count_clients(
    struct cli *cli, const struct args *args, const char *volume, uint64_t *ret_clients)
{
    *ret_clients = 0;
    if (args_has(args, "nbd"))
        return CLI_OK;
    CLEANUP_JSON json_t *info = NULL;
    int code = cli_call(cli, "volume.info", json_pack("{s:s}", "name", volume), &info);
    if (code == CLI_OK)
        *ret_clients = json_number(info, "connections");
    return code;
}

/* --- Import ---------------------------------------------------------------------------------- */

struct import_job {
    struct cli *cli;
    const struct args *args;
    const char *volume, *file; /* file: as in messages */
    struct copy_in in;
    bool create, created;
};

static bool cannot_be_volume(const char *word)
{
    return strcmp(word, "-") == 0 || strchr(word, '/') != NULL;
}

/* VOLUME FILE; the other way round where the words leave no doubt. */
static int read_operands(struct import_job *job)
{
    const char *first = job->args->operands[0], *second = job->args->operands[1];
    bool swapped = cannot_be_volume(first) && !cannot_be_volume(second);
    job->volume = swapped ? second : first;
    job->file = swapped ? first : second;
    if (access(job->file, F_OK) == 0 || strcmp(job->file, "-") == 0)
        return CLI_OK;
    if (errno == ENOENT && access(job->volume, F_OK) == 0)
        return cli_fail("there is no file %s; the volume comes first: holdfast volume import %s %s",
            job->file, job->file, job->volume);
    return cli_fail("cannot open %s: %s", job->file, strerror(errno));
}

static int open_source(struct import_job *job)
{
    struct stat st;
    if (strcmp(job->file, "-") == 0) {
        job->in.fd = STDIN_FILENO;
        job->file = "stdin";
        if (isatty(STDIN_FILENO))
            return cli_fail("stdin is a terminal: pipe an image into it");
    } else {
        job->in.fd = open(job->file, O_RDONLY | O_CLOEXEC);
    }
    if (job->in.fd < 0 || fstat(job->in.fd, &st) < 0)
        return cli_fail("cannot open %s: %s", job->file, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return cli_fail(
            "%s is a directory: a raw image, a device or '-' (stdin) is imported", job->file);
    off_t end = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) ? lseek(job->in.fd, 0, SEEK_END) : -1;
    job->in.seekable = end >= 0;
    job->in.size_bytes = end > 0 ? (uint64_t)end : 0;
    if (end == 0)
        return cli_fail("%s is empty", job->file);
    return CLI_OK;
}

static int check_format(const struct import_job *job)
{
    const char *format = job->in.seekable ? image_format(job->in.fd) : NULL;
    if (!format || args_has(job->args, "raw"))
        return CLI_OK;
    return cli_fail("%s is a %s image, not a raw one: convert it with 'qemu-img convert -O raw %s "
                    "FILE' first (or --raw to import its bytes as they are)",
        job->file, format, job->file);
}

static int create_volume(struct import_job *job)
{
    const char *pool = args_text(job->args, "pool");
    CLEANUP_FREE char *only_pool = NULL;
    uint64_t padded = ROUND_UP(job->in.size_bytes, SECTOR_BYTES);
    uint64_t size_bytes = args_number(job->args, "size", padded);
    if (size_bytes == 0) {
        cli_fail(
            "how large is volume '%s' to be? %s does not say: --size SIZE", job->volume, job->file);
        return CLI_USAGE;
    }
    if (size_bytes < padded)
        return cli_fail("%s has %s (%" PRIu64 " bytes): --size %s (%" PRIu64
                        ") is too small for it",
            job->file, size_text(job->in.size_bytes), job->in.size_bytes,
            args_text(job->args, "size"), size_bytes);
    int code = pool ? CLI_OK : cli_default_pool(job->cli, &only_pool);
    if (code != CLI_OK)
        return code;
    CLEANUP_JSON json_t *result = NULL;
    code = cli_call(job->cli, "volume.create",
        json_pack("{s:s, s:I, s:s}", "name", job->volume, "size_bytes", (json_int_t)size_bytes,
            "pool", pool ? pool : only_pool),
        &result);
    job->created = job->in.volume_is_zero = code == CLI_OK;
    return code;
}

static int check_existing(struct import_job *job)
{
    uint64_t clients;
    int code = count_clients(job->cli, job->args, job->volume, &clients);
    if (code != CLI_OK && job->cli->error == -ENOENT)
        cli_fail("with --create, or --pool POOL, it is made, as large as what is imported");
    if (code != CLI_OK || clients == 0 || args_has(job->args, "force"))
        return code;
    return cli_fail("volume '%s' is in use (%s connected): stop what uses it, "
                    "or --force to overwrite it under them",
        job->volume, count_text(clients, "client"));
}

static int check_link(const struct import_job *job, const struct nbd_link *link)
{
    if (link->read_only)
        return cli_fail("volume '%s' is read-only", job->volume);
    if (job->in.size_bytes <= link->size_bytes)
        return CLI_OK;
    return cli_fail("%s has %s (%" PRIu64 " bytes), volume '%s' only %s (%" PRIu64
                    " bytes): make it larger with 'holdfast volume resize %s %" PRIu64 "'",
        job->file, size_text(job->in.size_bytes), job->in.size_bytes, job->volume,
        size_text(link->size_bytes), link->size_bytes, job->volume,
        ROUND_UP(job->in.size_bytes, SECTOR_BYTES));
}

static int delete_created(struct import_job *job)
{
    CLEANUP_FREE char *error = NULL;
    CLEANUP_JSON json_t *result = NULL;
    int code = cli_call_quiet(
        job->cli, "volume.delete", json_pack("{s:s}", "name", job->volume), &result, &error);
    if (code == CLI_OK)
        cli_fail("volume '%s', made for this import, is deleted again", job->volume);
    return code;
}

/* What the user has now. */
static void tell_failure(struct import_job *job, const struct copy_result *result)
{
    CLEANUP_FREE char *more = mem_printf(", some more up to byte %" PRIu64, result->begun_bytes);
    cli_fail("%s", result->error);
    if (job->created && delete_created(job) == CLI_OK)
        return;
    if (result->begun_bytes == 0)
        cli_fail("volume '%s' is as it was before", job->volume);
    else
        cli_fail("volume '%s' now has the first %" PRIu64
                 " bytes (%s) of %s%s, and after that what "
                 "it had before; import again",
            job->volume, result->done_bytes, size_text(result->done_bytes), job->file,
            result->begun_bytes > result->done_bytes ? more : "");
}

static int tell_success(const struct cli *cli, const char *from, const char *to, const char *volume,
    const struct copy_result *result, uint64_t begin_ns, FILE *out)
{
    uint64_t ns = cli_now_ns() - begin_ns;
    char duration[DURATION_TEXT_BYTES];
    double s = (double)ns / 1e9;
    if (cli->json) {
        CLEANUP_JSON json_t *json = json_pack("{s:s, s:I, s:I, s:f}", "name", volume, "bytes",
            (json_int_t)result->bytes, "data_bytes", (json_int_t)result->data_bytes, "seconds", s);
        cli_print_json(json);
        return CLI_OK;
    }
    fprintf(out, "%s is in %s: %s, of which %s were not zero, in %s (%s/s).\n", from, to,
        size_text(result->bytes), size_text(result->data_bytes), duration_format(ns, duration),
        size_text((uint64_t)((double)result->bytes / (s > 0 ? s : 1))));
    return CLI_OK;
}

static int copy_to_volume(struct import_job *job)
{
    struct nbd_link link;
    struct copy_result result;
    uint64_t begin_ns = cli_now_ns();
    int code = open_link(job->cli, job->args, job->volume, &link);
    if (code != CLI_OK)
        return code;
    code = check_link(job, &link);
    if (code != CLI_OK) {
        nbd_link_close(&link);
        return code;
    }
    job->in.file_name = job->file;
    job->in.volume_name = job->volume;
    cli_catch_signals();
    if (copy_in(&link, &job->in, &result) == 0) {
        CLEANUP_FREE char *to = mem_printf("volume '%s'", job->volume);
        return tell_success(job->cli, job->file, to, job->volume, &result, begin_ns, stdout);
    }
    tell_failure(job, &result);
    mem_free(result.error);
    return CLI_FAILED;
}

static int import(struct import_job *job)
{
    int code = read_operands(job);
    if (code == CLI_OK)
        code = open_source(job);
    if (code == CLI_OK)
        code = check_format(job);
    if (code == CLI_OK)
        code = job->create ? create_volume(job) : check_existing(job);
    return code == CLI_OK ? copy_to_volume(job) : code;
}

int cmd_volume_import(struct cli *cli, const struct args *args)
{
    struct import_job job = {.cli = cli, .args = args, .in.fd = -1};
    job.create = args_has(args, "create") || args_has(args, "pool");
    if (args_has(args, "size") && !job.create) {
        cli_fail("--size is for volumes that are made: --create too, or 'holdfast volume resize'");
        return CLI_USAGE;
    }
    int code = import(&job);
    if (job.in.fd > STDIN_FILENO)
        close(job.in.fd);
    return code;
}

/* --- Export ---------------------------------------------------------------------------------- */

struct export_job {
    struct cli *cli;
    const struct args *args;
    const char *volume, *file;
    struct copy_out out;
    bool created;
};

static int check_target(const struct export_job *job)
{
    struct stat st;
    if (strcmp(job->file, "-") == 0) {
        if (job->cli->json) {
            cli_fail("stdout is the image: it cannot be JSON too");
            return CLI_USAGE;
        }
        return isatty(STDOUT_FILENO) ? cli_fail("stdout is a terminal: redirect it, or name a file")
                                     : CLI_OK;
    }
    if (stat(job->file, &st) < 0)
        return errno == ENOENT ? CLI_OK : cli_fail("%s: %s", job->file, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return cli_fail("%s is a directory: name a file in it", job->file);
    if (args_has(job->args, "force") || S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode))
        return CLI_OK;
    return cli_fail("%s exists: --force overwrites it", job->file);
}

/* A regular file gets the volume's length now, so that a full disk or a limit is known early. */
static int open_target(struct export_job *job, uint64_t size_bytes)
{
    struct stat st;
    if (strcmp(job->file, "-") == 0) {
        job->out.fd = STDOUT_FILENO;
        job->file = "stdout";
        return CLI_OK;
    }
    job->created = access(job->file, F_OK) < 0;
    job->out.fd = open(job->file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (job->out.fd < 0 || fstat(job->out.fd, &st) < 0)
        return cli_fail("cannot write %s: %s", job->file, strerror(errno));
    if (S_ISBLK(st.st_mode)) {
        off_t room = lseek(job->out.fd, 0, SEEK_END);
        if (room < 0 || (uint64_t)room < size_bytes)
            return cli_fail("%s has %s, volume '%s' %s: it does not fit", job->file,
                size_text(room < 0 ? 0 : (uint64_t)room), job->volume, size_text(size_bytes));
        (void)lseek(job->out.fd, 0, SEEK_SET);
    }
    job->out.sparse = S_ISREG(st.st_mode);
    if (job->out.sparse &&
        (ftruncate(job->out.fd, 0) < 0 || ftruncate(job->out.fd, (off_t)size_bytes) < 0))
        return cli_fail(
            "cannot make %s %s long: %s", job->file, size_text(size_bytes), strerror(errno));
    return CLI_OK;
}

/* On stable storage: the volume may be deleted next. Pipes and terminals have none. */
static int sync_target(const struct export_job *job)
{
    if (fsync(job->out.fd) == 0 || errno == EINVAL || errno == EROFS || errno == ENOTSUP)
        return CLI_OK;
    return cli_fail("%s could not be made durable: %s", job->file, strerror(errno));
}

static void drop_target(const struct export_job *job)
{
    if (job->created && job->out.sparse && unlink(job->file) == 0)
        cli_fail("%s, not complete, is deleted again", job->file);
    else if (job->out.sparse)
        cli_fail("%s is not complete: do not use it", job->file);
}

static int copy_from_volume(struct export_job *job, struct nbd_link *link)
{
    struct copy_result result;
    uint64_t begin_ns = cli_now_ns();
    int code = open_target(job, link->size_bytes);
    if (code != CLI_OK) {
        nbd_link_close(link);
        drop_target(job);
        return code;
    }
    job->out.file_name = job->file;
    job->out.volume_name = job->volume;
    cli_catch_signals();
    if (copy_out(link, &job->out, &result) < 0) {
        cli_fail("%s", result.error);
        mem_free(result.error);
        drop_target(job);
        return CLI_FAILED;
    }
    code = sync_target(job);
    if (code != CLI_OK)
        return code;
    CLEANUP_FREE char *from = mem_printf("volume '%s'", job->volume);
    return tell_success(job->cli, from, job->file, job->volume, &result, begin_ns,
        job->out.fd == STDOUT_FILENO ? stderr : stdout);
}

int cmd_volume_export(struct cli *cli, const struct args *args)
{
    struct export_job job = {.cli = cli, .args = args, .out.fd = -1};
    struct nbd_link link;
    uint64_t clients;
    job.volume = args->operands[0];
    job.file = args->operands[1];
    int code = check_target(&job);
    if (code == CLI_OK)
        code = count_clients(cli, args, job.volume, &clients);
    if (code == CLI_OK)
        code = open_link(cli, args, job.volume, &link);
    if (code != CLI_OK)
        return code;
    if (clients > 0)
        fprintf(stderr,
            "holdfast: volume '%s' is in use (%s connected): if it is "
            "written to meanwhile, the image is of no single moment\n",
            job.volume, count_text(clients, "client"));
    code = copy_from_volume(&job, &link);
    if (job.out.fd > STDOUT_FILENO)
        close(job.out.fd);
    return code;
}
