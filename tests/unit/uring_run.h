/* SPDX-License-Identifier: Apache-2.0
 *
 * For tests on the production env: a scratch directory on a file system that can O_DIRECT, and a
 * way to run a fiber function in a fresh env. A failed cmocka assertion must not longjmp from one
 * stack to another, so inside fibers use CHECK.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/check.h"
#include "common/env.h"
#include "scratch.h"

static char scratch_dir[64];

static inline int scratch_setup(void **state)
{
    strcpy(scratch_dir, "/var/tmp/holdfast-test-XXXXXX");
    return scratch_make(scratch_dir) ? 0 : -1;
}

static inline int scratch_teardown(void **state)
{
    DIR *dir = opendir(scratch_dir);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir)
        closedir(dir);
    return rmdir(scratch_dir);
}

/* "<prefix><scratch dir>/<name>", valid until the fourth next call. */
static inline const char *scratch_path(const char *prefix, const char *name)
{
    static char paths[4][128];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof(paths[0]), "%s%s/%s", prefix, scratch_dir, name);
    return path;
}

static inline int run_in_env(int (*main_fn)(void *arg), struct env_uring_options options)
{
    return env_uring_run(&options, main_fn, NULL);
}
