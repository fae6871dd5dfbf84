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
    case 3:
        ROUND_TRIP(volume_root, volume_root_decode, volume_root_encode, text);
        break;
    }
    CHECK(r == 0 || (r == -EBADMSG && error && error[0]));
    mem_free(error);
    free(text);
    return 0;
}
