/* SPDX-License-Identifier: Apache-2.0
 *
 * Copies between raw files (or pipes) and volumes over NBD.
 *
 * What is zero is not moved: an import skips holes and blocks of zeros of its source (a volume that
 * was not empty before gets them as write-zeroes requests, which move no data); an export asks the
 * server where data is and reads nothing else.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "cli/nbd_link.h"

struct copy_result {
    uint64_t bytes;      /* positions passed: the file's length when all went well */
    uint64_t data_bytes; /* of them moved; the rest was zero */
    /* Of a failed copy: all before `done_bytes` is at its place, some of what lies before
     * `begun_bytes` may be. */
    uint64_t done_bytes, begun_bytes;
    char *error; /* a sentence; mem_free */
};

struct copy_in {
    int fd;
    const char *file_name;   /* for messages */
    const char *volume_name; /* likewise */
    bool seekable;
    uint64_t size_bytes; /* of the file; 0 when it is a pipe */
    bool volume_is_zero; /* made just now: zeros need not be written */
};
/* From the file's start to the volume's. The rest of the volume is zeroed, and all is flushed.
 * Negative errno with ret_result->error; -EINTR: cli_interrupted. */
int copy_in(struct nbd_link *link, const struct copy_in *options, struct copy_result *ret_result);

struct copy_out {
    int fd;
    const char *file_name, *volume_name;
    bool
        sparse; /* a regular file, empty, already of the volume's size: zeros need not be written */
};
/* The whole volume, in order. The caller syncs the file. */
int copy_out(struct nbd_link *link, const struct copy_out *options, struct copy_result *ret_result);
