/* SPDX-License-Identifier: Apache-2.0
 *
 * Records of the store: the first byte chooses which. What decodes must encode to a text that
 * decodes to the same.
 */
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/cluster/records.h"
#include "common/check.h"
#include "common/mem.h"

#define ROUND_TRIP(type, decode, encode, text)           \
    do {                                                 \
        struct type record, again;                       \
        r = decode(text, &record, &error);               \
        if (r < 0)                                       \
            break;                                       \
        CLEANUP_FREE char *out = encode(&record, text);  \
        CHECK(decode(out, &again, &error) == 0);         \
        CLEANUP_FREE char *bare = encode(&record, NULL); \
        CLEANUP_FREE char *bare2 = encode(&again, NULL); \
        CHECK(strcmp(bare, bare2) == 0);                 \
    } while (0)

static int purge_round_trip(const char *text, char **ret_error)
{
    CLEANUP_FREE uint32_t *disks = NULL, *again = NULL;
    unsigned count, count_again;
    int r = purge_record_decode(text, &disks, &count, ret_error);
    if (r < 0)
        return r;
    CHECK(count <= strlen(text)); /* memory bounded by the input */
    CLEANUP_FREE char *out = purge_record_encode(disks, count);
    CHECK(purge_record_decode(out, &again, &count_again, ret_error) == 0);
    CHECK(count == count_again && memcmp(disks, again, count * sizeof(*disks)) == 0);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    if (len_bytes == 0)
        return 0;
    char *error = NULL, *text = malloc(len_bytes);
    memcpy(text, data + 1, len_bytes - 1);
    text[len_bytes - 1] = 0;
    int r = 0;
    switch (data[0] % 8) {
    case 0:
        ROUND_TRIP(cluster_record, cluster_record_decode, cluster_record_encode, text);
        break;
    case 1:
        ROUND_TRIP(disk_record, disk_record_decode, disk_record_encode, text);
        break;
    case 2:
        ROUND_TRIP(pool, pool_decode, pool_encode, text);
        break;
    case 4:
        ROUND_TRIP(node_record, node_record_decode, node_record_encode, text);
        break;
    case 5:
        r = purge_round_trip(text, &error);
        break;
    case 3:
        ROUND_TRIP(volume_root, volume_root_decode, volume_root_encode, text);
        break;
    }
    CHECK(r == 0 || (r == -EBADMSG && error && error[0]));
    mem_free(error);
    free(text);
    return 0;
}
