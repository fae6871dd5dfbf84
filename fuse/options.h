/* SPDX-License-Identifier: Apache-2.0
 *
 * The command line: as a program (`holdfast-fuse -o opts MOUNTPOINT`) and as mount(8)'s helper
 * (`mount.holdfast SOURCE MOUNTPOINT -o opts`).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define FUSE_USE_VERSION 312
#include <fuse_opt.h>

struct options {
    char *nbd_path, *admin_path;
    char *mountpoint;
    unsigned timeout_s, names_timeout_s, connections;
    uid_t uid;
    gid_t gid;
    mode_t file_mode;
    bool wait; /* mount even if blockd is not there yet */
    bool foreground, help, version, debug;
    bool fake;                  /* mount -f: do all but the mount */
    struct fuse_args fuse_args; /* what is left is for libfuse */
};

/* 0, or -EINVAL after saying on stderr what is wrong. */
int options_parse(int argc, char **argv, struct options *ret_options);
void options_free(struct options *options);
void options_print_help(void);
