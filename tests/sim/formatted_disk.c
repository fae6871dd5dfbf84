/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/formatted_disk.h"

#include "blockd/disk/local_disk.h"
#include "common/check.h"
#include "tests/sim/sim_check.h"

static void format_main(void *arg)
{
    const struct uuid *cluster = arg;
    char *error = NULL;
    struct uuid uuid;
    CHECK(local_disk_format("/disk", 0, *cluster, *cluster, "ssd", true, &uuid, &error) == 0);
}

struct sim_image *formatted_disk(uint64_t size_bytes, struct uuid cluster)
{
    static struct sim_image *image;
    static uint64_t image_bytes;
    if (!image) {
        struct sim *sim = sim_new(&(struct sim_options){.seed = 1});
        struct env *node = sim_node_new(sim, "node");
        struct sim_disk *disk = sim_disk_new(node, "/disk", size_bytes);
        CHECK(sim_do(node, "format", format_main, &cluster));
        image = sim_disk_snapshot(disk);
        image_bytes = size_bytes;
        sim_free(sim);
    }
    CHECK(image_bytes == size_bytes);
    return image;
}
