/* SPDX-License-Identifier: Apache-2.0
 *
 * Magic numbers: QEMU docs/interop/qcow2.txt and qed_spec.txt; VMware Virtual Disk Format 1.1;
 * [MS-VHDX] 2.2.1; VirtualBox's VDI header (at 64).
 */
#include "cli/image.h"

#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "common/check.h"

const char *image_format(int fd)
{
    static const struct {
        const char *name, *magic;
        size_t offset, len;
    } formats[] = {
        {"qcow2", "QFI\xfb", 0, 4},
        {"QED", "QED\0", 0, 4},
        {"VMDK", "KDMV", 0, 4},
        {"VMDK", "# Disk DescriptorFile", 0, 21},
        {"VHDX", "vhdxfile", 0, 8},
        {"VDI", "\x7f\x10\xda\xbe", 64, 4},
    };
    char head[128] = {0};
    if (pread(fd, head, sizeof(head), 0) < 0)
        return NULL;
    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++)
        if (memcmp(head + formats[i].offset, formats[i].magic, formats[i].len) == 0)
            return formats[i].name;
    return NULL;
}
