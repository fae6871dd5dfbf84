/* SPDX-License-Identifier: Apache-2.0
 *
 * A line of the admin protocol, then its parameters read as every kind. The whole runs on a fiber's
 * stack, as in the daemon: a deep recursion ends at the guard page.
 */
#include "fuzz.h"

#include <errno.h>

#include "blockd/admin/request.h"
#include "common/check.h"
#include "common/fiber.h"
#include "common/mem.h"

struct input {
    const uint8_t *data;
    size_t len_bytes;
};

static void read_params(const struct admin_request *request)
{
    struct admin_params params;
    CLEANUP_FREE char *error = NULL;
    admin_params_init(&params, request->method, request->params);
    const char *name = admin_params_name(&params, "name", ADMIN_OPTIONAL);
    const char *path = admin_params_path(&params, "path", ADMIN_OPTIONAL);
    uint64_t size = admin_params_number(&params, "size_bytes", ADMIN_OPTIONAL, 512, 1 << 30, 512);
    admin_params_bool(&params, "force", false);
    int r = admin_params_end(&params, &error);
    CHECK(r == 0 || (r == -EINVAL && error));
    CHECK(!name || name[0] != '-');
    CHECK(!path || path[0] == '/');
    CHECK(size >= 512 && size <= 1 << 30);
}

static void run(void *arg)
{
    struct input *input = arg;
    struct admin_request request;
    CLEANUP_FREE char *error = NULL;
    int r = admin_request_decode((const char *)input->data, input->len_bytes, &request, &error);
    CHECK(r == 0 ? request.id && request.method : r == -EBADMSG && error);
    if (r == 0)
        read_params(&request);
    admin_request_fini(&request);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    static bool ready;
    if (!ready)
        fiber_sched_init(2);
    ready = true;
    struct input input = {data, len_bytes};
    fiber_spawn("fuzz", run, &input);
    fiber_run_ready();
    return 0;
}
