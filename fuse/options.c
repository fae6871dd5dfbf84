/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/options.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NBD_PATH_DEFAULT "/run/holdfast/nbd.sock"
#define NAMES_TIMEOUT_S_DEFAULT 60
#define ADMIN_PATH_DEFAULT "/run/holdfast/admin.sock"

enum option_key { KEY_HELP, KEY_VERSION, KEY_FOREGROUND, KEY_DEBUG, KEY_WAIT, KEY_IGNORE };

/* As fuse_opt fills it. */
struct parsed {
    struct options *options;
    bool as_helper; /* run by mount(8): -f means fake there */
    char *source;   /* first of two plain arguments: fstab's first field, of no meaning here */
    unsigned uid, gid, mode;
};

#define OPTION(text, field)                     \
    {                                           \
        text, offsetof(struct parsed, field), 1 \
    }

static const struct fuse_opt option_specs[] = {
    OPTION("uid=%u", uid),
    OPTION("gid=%u", gid),
    OPTION("mode=%o", mode),
    FUSE_OPT_KEY("-h", KEY_HELP),
    FUSE_OPT_KEY("--help", KEY_HELP),
    FUSE_OPT_KEY("-V", KEY_VERSION),
    FUSE_OPT_KEY("--version", KEY_VERSION),
    FUSE_OPT_KEY("-f", KEY_FOREGROUND),
    FUSE_OPT_KEY("-d", KEY_DEBUG),
    FUSE_OPT_KEY("debug", KEY_DEBUG),
    FUSE_OPT_KEY("wait", KEY_WAIT),
    /* mount(8)'s own: -n, -s, -v, and options for fstab's other readers. */
    FUSE_OPT_KEY("-n", KEY_IGNORE),
    FUSE_OPT_KEY("-s", KEY_IGNORE),
    FUSE_OPT_KEY("-v", KEY_IGNORE),
    FUSE_OPT_KEY("-t ", KEY_IGNORE),
    FUSE_OPT_KEY("defaults", KEY_IGNORE),
    FUSE_OPT_KEY("auto", KEY_IGNORE),
    FUSE_OPT_KEY("noauto", KEY_IGNORE),
    FUSE_OPT_KEY("user", KEY_IGNORE),
    FUSE_OPT_KEY("user=", KEY_IGNORE),
    FUSE_OPT_KEY("users", KEY_IGNORE),
    FUSE_OPT_KEY("nouser", KEY_IGNORE),
    FUSE_OPT_KEY("nofail", KEY_IGNORE),
    FUSE_OPT_KEY("_netdev", KEY_IGNORE),
    FUSE_OPT_KEY("x-", KEY_IGNORE),
    FUSE_OPT_KEY("comment=", KEY_IGNORE),
    FUSE_OPT_END,
};

static void replace(char **text, const char *value)
{
    free(*text);
    *text = strdup(value);
}

/* "key=VALUE": the value, or NULL. */
static const char *value_of(const char *argument, const char *key)
{
    size_t len = strlen(key);
    return strncmp(argument, key, len) == 0 && argument[len] == '=' ? argument + len + 1 : NULL;
}

static int parse_number(
    const char *argument, const char *text, unsigned min, unsigned max, unsigned *ret_number)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno != 0 || end == text || *end != 0 || *text == '-' || value < min || value > max) {
        fprintf(
            stderr, "holdfast-fuse: -o %s: expected a number from %u to %u\n", argument, min, max);
        return -1;
    }
    *ret_number = (unsigned)value;
    return 0;
}

static int take_own_option(struct options *options, const char *argument, bool *ret_taken)
{
    const char *value;
    *ret_taken = true;
    if ((value = value_of(argument, "nbd")) != NULL)
        replace(&options->nbd_path, value);
    else if ((value = value_of(argument, "admin")) != NULL)
        replace(&options->admin_path, value);
    else if ((value = value_of(argument, "timeout")) != NULL)
        return parse_number(argument, value, 0, 1000000, &options->timeout_s);
    else if ((value = value_of(argument, "names_timeout")) != NULL)
        return parse_number(argument, value, 0, 1000000, &options->names_timeout_s);
    else if ((value = value_of(argument, "connections")) != NULL)
        return parse_number(argument, value, 1, 16, &options->connections);
    else
        *ret_taken = false;
    return 0;
}

static int take_plain_argument(struct parsed *parsed, const char *argument)
{
    struct options *options = parsed->options;
    if (options->mountpoint == NULL) {
        replace(&options->mountpoint, argument);
    } else if (parsed->source == NULL) {
        parsed->source = options->mountpoint;
        options->mountpoint = strdup(argument);
    } else {
        fprintf(stderr, "holdfast-fuse: one argument too many: '%s'; see --help\n", argument);
        return -1;
    }
    return 0;
}

/* fuse_opt's conventions: 0 = taken, 1 = keep it for libfuse, -1 = error. */
static int take_argument(void *data, const char *argument, int key, struct fuse_args *rest)
{
    struct parsed *parsed = data;
    struct options *options = parsed->options;
    bool taken;
    switch (key) {
    case KEY_HELP:
        options->help = true;
        return 0;
    case KEY_VERSION:
        options->version = true;
        return 0;
    case KEY_FOREGROUND:
        *(parsed->as_helper ? &options->fake : &options->foreground) = true;
        return 0;
    case KEY_DEBUG:
        options->debug = options->foreground = true;
        return 0;
    case KEY_WAIT:
        options->wait = true;
        return 0;
    case KEY_IGNORE:
        return 0;
    case FUSE_OPT_KEY_NONOPT:
        return take_plain_argument(parsed, argument);
    default:
        if (strncmp(argument, "x-", 2) == 0)
            return 0;
        if (take_own_option(options, argument, &taken) < 0)
            return -1;
        return taken ? 0 : 1;
    }
}

static bool is_mount_helper(const char *program)
{
    const char *slash = strrchr(program, '/');
    return strncmp(slash != NULL ? slash + 1 : program, "mount.", 6) == 0;
}

int options_parse(int argc, char **argv, struct options *ret_options)
{
    struct options options = {
        .nbd_path = strdup(NBD_PATH_DEFAULT),
        .admin_path = strdup(ADMIN_PATH_DEFAULT),
        .connections = 1,
        .names_timeout_s = NAMES_TIMEOUT_S_DEFAULT,
        .fuse_args = FUSE_ARGS_INIT(argc, argv),
    };
    struct parsed parsed = {.options = &options,
        .as_helper = is_mount_helper(argv[0]),
        .uid = geteuid(),
        .gid = getegid(),
        .mode = 0600};
    int r = fuse_opt_parse(&options.fuse_args, &parsed, option_specs, take_argument);
    free(parsed.source);
    if (r < 0) {
        options_free(&options);
        return -EINVAL;
    }
    options.uid = parsed.uid;
    options.gid = parsed.gid;
    options.file_mode = parsed.mode & 0777;
    if (!options.help && !options.version && options.mountpoint == NULL) {
        fprintf(stderr, "holdfast-fuse: where to mount? usage: holdfast-fuse [-f] [-o OPTIONS] "
                        "MOUNTPOINT; see --help\n");
        options_free(&options);
        return -EINVAL;
    }
    *ret_options = options;
    return 0;
}

void options_free(struct options *options)
{
    free(options->nbd_path);
    free(options->admin_path);
    free(options->mountpoint);
    fuse_opt_free_args(&options->fuse_args);
}

void options_print_help(void)
{
    printf("usage: holdfast-fuse [-f] [-o OPTION[,OPTION...]] MOUNTPOINT\n"
           "       mount -t holdfast holdfast MOUNTPOINT [-o OPTION[,OPTION...]]\n"
           "\n"
           "Mounts the volumes of the local blockd: each is the file MOUNTPOINT/NAME.\n"
           "\n"
           "  -f                 stay in the foreground and log to stderr\n"
           "  -d                 the same, with every FUSE message\n"
           "  -h, --help         this text\n"
           "  -V, --version      the version\n"
           "\n"
           "Options:\n"
           "  nbd=PATH           NBD socket of blockd       [" NBD_PATH_DEFAULT "]\n"
           "  admin=PATH         admin socket of blockd     [" ADMIN_PATH_DEFAULT "]\n"
           "  timeout=SECONDS    fail requests after blockd was away for so long; 0: wait for ever "
           "[0]\n"
           "  names_timeout=SECONDS  the same for what asks for names and sizes (ls, stat, open) "
           "[60]\n"
           "  connections=N      NBD connections for each open volume, 1 to 16 [1]\n"
           "  wait               mount even if blockd is not running yet\n"
           "  uid=N, gid=N       owner of the files         [who mounts]\n"
           "  mode=OCTAL         mode of the files          [0600]\n"
           "  allow_other        let other users in, as far as owner and mode do\n"
           "  ro                 read-only; and other options of mount.fuse3(8)\n"
           "\n"
           "Files are as large as their volumes, `truncate -s` grows them. Volumes are made, "
           "renamed and\n"
           "deleted with the holdfast command. Unmount with umount or fusermount3 -u.\n");
}
