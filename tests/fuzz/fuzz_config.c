/* SPDX-License-Identifier: Apache-2.0
 *
 * Configuration text: either it is taken whole, or there is a message that begins with the file's name.
 */
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/config.h"
#include "common/mem.h"

static void ask(struct config *config)
{
    static const char *const modes[] = {"fast", "safe", NULL};
    const char *section;
    config_string(config, "node", "name", NULL);
    for (unsigned i = 0; config_string_nth(config, "node", "listen", i); i++) {
    }
    uint64_t ttl_ns = config_duration_ns(config, "node", "ttl", 5, 1, 1000000000000);
    CHECK(ttl_ns >= 1 && ttl_ns <= 1000000000000);
    config_bool(config, "node", "sync", true);
    CHECK(config_enum(config, "node", "mode", modes, 0) < 2);
    uint64_t bytes = config_size_bytes(config, "memory", "budget", 1 << 20, 1 << 20, 1ull << 40);
    CHECK(bytes >= 1 << 20 && bytes <= 1ull << 40);
    for (unsigned i = 0; (section = config_section_nth(config, "pool", i)); i++)
        CHECK(config_u64(config, section, "k", 1, 1, 16) <= 16);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    char *text = malloc(len_bytes + 1), *error = NULL;
    struct config *config = NULL;
    memcpy(text, data, len_bytes);
    text[len_bytes] = 0;
    int rc = config_parse("f.conf", text, &config, &error);
    if (rc == 0) {
        ask(config);
        rc = config_finish(config, &error);
    }
    CHECK(rc == 0 ? !error : rc == -EINVAL && strncmp(error, "f.conf:", 7) == 0);
    mem_free(error);
    config_free(config);
    free(text);
    return 0;
}
