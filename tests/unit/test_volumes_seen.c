/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/volumes_seen.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"

static struct volumes_name named(uint64_t id, const char *name)
{
    struct volumes_name n = {.id = id, .state = VOLUME_OWNED};
    strcpy(n.name, name);
    return n;
}

static void note(struct volumes_seen *seen, uint64_t id, const char *name)
{
    struct volumes_name n = named(id, name);
    volumes_seen_note(seen, &n);
}

static unsigned count(const struct volumes_seen *seen)
{
    struct volumes_name *names;
    unsigned count;
    volumes_seen_list(seen, &names, &count);
    for (unsigned i = 1; i < count; i++)
        assert_true(strcmp(names[i - 1].name, names[i].name) < 0);
    mem_free(names);
    return count;
}

static void the_last_word_on_a_volume_or_a_name_counts(void **state)
{
    struct volumes_seen *seen = volumes_seen_new();
    assert_null(volumes_seen_find(seen, "a"));
    note(seen, 2, "b");
    note(seen, 1, "a");
    note(seen, 1, "renamed");
    assert_null(volumes_seen_find(seen, "a"));
    assert_int_equal(volumes_seen_find(seen, "renamed")->id, 1);
    note(seen, 3, "b"); /* another one of that name: the first is gone */
    assert_int_equal(volumes_seen_find(seen, "b")->id, 3);
    assert_int_equal(count(seen), 2);
    volumes_seen_forget(seen, 3);
    assert_null(volumes_seen_find(seen, "b"));
    struct volumes_name going = named(1, "renamed");
    going.state = VOLUME_DELETING;
    volumes_seen_note(seen, &going);
    assert_int_equal(count(seen), 0);
    volumes_seen_free(seen);
}

static void a_listing_replaces_all(void **state)
{
    struct volumes_seen *seen = volumes_seen_new();
    note(seen, 1, "a");
    struct volumes_name all[] = {named(2, "x"), named(3, "y")};
    volumes_seen_note_all(seen, all, 2);
    assert_int_equal(count(seen), 2);
    assert_null(volumes_seen_find(seen, "a"));
    volumes_seen_note_all(seen, NULL, 0);
    assert_int_equal(count(seen), 0);
    volumes_seen_free(seen);
}

static void it_is_bounded_and_the_oldest_goes(void **state)
{
    struct volumes_seen *seen = volumes_seen_new();
    char name[32];
    for (unsigned i = 1; i <= 5000; i++) {
        snprintf(name, sizeof(name), "v%05u", i);
        note(seen, i, name);
    }
    assert_int_equal(count(seen), 4096);
    assert_null(volumes_seen_find(seen, "v00001"));
    assert_non_null(volumes_seen_find(seen, "v05000"));
    struct volumes_name *many = mem_zalloc(5000, sizeof(*many));
    for (unsigned i = 0; i < 5000; i++) {
        snprintf(name, sizeof(name), "w%05u", i);
        many[i] = named(i + 1, name);
    }
    volumes_seen_note_all(seen, many, 5000);
    assert_int_equal(count(seen), 4096);
    mem_free(many);
    volumes_seen_free(seen);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_word_on_a_volume_or_a_name_counts),
        cmocka_unit_test(a_listing_replaces_all),
        cmocka_unit_test(it_is_bounded_and_the_oldest_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
