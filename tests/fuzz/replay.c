/* SPDX-License-Identifier: Apache-2.0
 *
 * Replays a corpus: `fuzz_NAME CORPUS-DIR [ROUNDS [SEED]]` gives each file to the target as it is,
 * at every shorter length (up to 512), and then ROUNDS mutations of it. The sequence depends on the
 * seed only: a failure repeats. A crash prints which file, round and seed it was.
 */
#include "fuzz.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INPUT_BYTES_MAX (1u << 20)

static char where[512];
static uint64_t rng_state;

/* splitmix64 (public domain, Vigna). */
static uint64_t rng(void)
{
    uint64_t z = (rng_state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static void crashed(int number)
{
    ssize_t ignored = write(STDERR_FILENO, where, strlen(where));
    (void)ignored;
    signal(number, SIG_DFL);
    raise(number);
}

/* The target gets memory of exactly this length, so that a sanitizer sees one byte too far. */
static void give(const uint8_t *data, size_t len_bytes)
{
    uint8_t *copy = malloc(len_bytes ? len_bytes : 1);
    memcpy(copy, data, len_bytes);
    LLVMFuzzerTestOneInput(copy, len_bytes);
    free(copy);
}

static size_t mutate(uint8_t *data, size_t len_bytes)
{
    static const uint8_t special[] = {0, 1, 0x7f, 0x80, 0xff, '"', '[', '{', '9', '-'};
    for (unsigned n = 1 + rng() % 4; n > 0 && len_bytes > 0; n--) {
        size_t at = rng() % len_bytes, span = 1 + rng() % 16;
        if (span > len_bytes - at)
            span = len_bytes - at;
        switch (rng() % 6) {
        case 0:
            data[at] ^= (uint8_t)(1u << rng() % 8);
            break;
        case 1:
            data[at] = special[rng() % sizeof(special)];
            break;
        case 2: /* drop a span */
            memmove(data + at, data + at + span, len_bytes - at - span);
            len_bytes -= span;
            break;
        case 3: /* double a span */
            if (len_bytes + span <= INPUT_BYTES_MAX) {
                memmove(data + at + span, data + at, len_bytes - at);
                len_bytes += span;
            }
            break;
        case 4: /* copy a span elsewhere */
            memmove(data + at, data + rng() % (len_bytes - span + 1), span);
            break;
        default:
            memset(data + at, special[rng() % sizeof(special)], span);
        }
    }
    return len_bytes;
}

static void replay_file(const char *path, const char *name, unsigned rounds, uint64_t seed)
{
    static uint8_t original[INPUT_BYTES_MAX], data[INPUT_BYTES_MAX];
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(1);
    }
    size_t len = fread(original, 1, sizeof(original), file);
    fclose(file);
    snprintf(where, sizeof(where), "\ncrashed on %s cut short\n", name);
    for (size_t cut = 0; cut < len && cut < 512; cut++)
        give(original, cut);
    snprintf(where, sizeof(where), "\ncrashed on %s as it is\n", name);
    give(original, len);
    /* By name, so that another file in the corpus changes nothing here. */
    rng_state = seed;
    for (const char *p = name; *p; p++)
        rng_state = rng_state * 31 + (uint8_t)*p;
    for (unsigned round = 0; round < rounds; round++) {
        snprintf(where, sizeof(where), "\ncrashed on %s, round %u, seed %llu\n", name, round,
            (unsigned long long)seed);
        memcpy(data, original, len);
        give(data, mutate(data, len));
    }
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s CORPUS-DIR [ROUNDS [SEED]]\n", argv[0]);
        return 2;
    }
    unsigned rounds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 1000;
    uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 0) : 1;
    static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM};
    for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        signal(signals[i], crashed);

    struct dirent **entries;
    int count = scandir(argv[1], &entries, NULL, alphasort);
    if (count < 0) {
        perror(argv[1]);
        return 1;
    }
    unsigned files = 0;
    for (int i = 0; i < count; i++) {
        char path[4096];
        snprintf(path, sizeof(path), "%s/%s", argv[1], entries[i]->d_name);
        if (entries[i]->d_name[0] != '.') {
            replay_file(path, entries[i]->d_name, rounds, seed);
            files++;
        }
        free(entries[i]);
    }
    free(entries);
    printf("%u files, %u mutations each, seed %llu\n", files, rounds, (unsigned long long)seed);
    return files > 0 ? 0 : 1;
}
