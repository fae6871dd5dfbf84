/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The name of the disk image format that the file is in, by its first bytes; NULL: none of those
 * that are known, so a raw image. */
const char *image_format(int fd);
