/* SPDX-License-Identifier: Apache-2.0
 *
 * The FUSE operations: names, attributes, opens here; the I/O of open files in request.c.
 */
#pragma once

#include "fuse/mount.h"

extern const struct fuse_lowlevel_ops mount_ops;
