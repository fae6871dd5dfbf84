/* SPDX-License-Identifier: Apache-2.0
 *
 * The workload of the VM test, run as the guest's only service (static, no libc surprises in a tiny
 * guest).
 *
 * Appends the line "N SECONDS.NANOSECONDS" to a file, fsyncs it and only then prints "ACK N" on the
 * console, for N = 1, 2, 3... So every ACK that ever reached the host's console log must be in the
 * file after any crash. A start first reads the file back: it must be the numbers 1..last without a
 * hole (a torn last line, never acked, is cut off), and it goes on from there.
 *
 * Usage: vmcounter FILE INTERVAL_MS
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int fail(const char *what)
{
    printf("VMCOUNTER ERROR %s: %s\n", what, strerror(errno));
    return 1;
}

/* Reads what earlier boots left. Returns the last number, or -1 where the file is not 1..last;
 * *ret_end is the end of the last whole line. */
static long read_back(FILE *file, long *ret_end)
{
    char line[128];
    long last = 0;

    *ret_end = 0;
    while (fgets(line, sizeof line, file)) {
        if (!strchr(line, '\n'))
            break;
        long number = strtol(line, NULL, 10);
        if (number != last + 1) {
            printf("VMCOUNTER HOLE after %ld comes '%s'\n", last, strtok(line, "\n"));
            return -1;
        }
        last = number;
        *ret_end = ftell(file);
    }
    return ferror(file) ? -1 : last;
}

static int count(int fd, long last, long interval_ms)
{
    struct timespec pause = {interval_ms / 1000, interval_ms % 1000 * 1000000};

    for (long number = last + 1;; number++) {
        char line[64];
        struct timespec now;

        clock_gettime(CLOCK_REALTIME, &now);
        int len = snprintf(
            line, sizeof line, "%ld %lld.%09ld\n", number, (long long)now.tv_sec, now.tv_nsec);
        if (write(fd, line, (size_t)len) != len)
            return fail("write");
        if (fsync(fd))
            return fail("fsync");
        printf("ACK %ld\n", number);
        nanosleep(&pause, NULL);
    }
}

int main(int argc, char **argv)
{
    long end;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc != 3) {
        fprintf(stderr, "usage: vmcounter FILE INTERVAL_MS\n");
        return 2;
    }
    FILE *file = fopen(argv[1], "a+");
    if (!file)
        return fail("open");
    rewind(file);
    long last = read_back(file, &end);
    if (last < 0)
        return fail("read back");
    if (ftruncate(fileno(file), end))
        return fail("truncate");
    printf("VMCOUNTER START last=%ld\n", last);
    return count(fileno(file), last, strtol(argv[2], NULL, 10));
}
