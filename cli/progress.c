/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/cli.h"
#include "common/check.h"

#define SECOND_NS 1000000000ull
#define UPDATE_NS (SECOND_NS / 10)
/* The rate forgets what was before with this time constant: steady, and right soon after a change. */
#define RATE_MEMORY_S 3.0
#define BAR_COLUMNS 24u

void progress_init(
    struct progress *progress, const char *label, uint64_t total_bytes, uint64_t now_ns)
{
    *progress = (struct progress){
        .label = label, .total_bytes = total_bytes, .start_ns = now_ns, .rate_ns = now_ns};
}

bool progress_update(struct progress *progress, uint64_t done_bytes, uint64_t now_ns)
{
    progress->done_bytes = done_bytes;
    uint64_t elapsed_ns = now_ns - progress->rate_ns;
    if (elapsed_ns < UPDATE_NS)
        return false;
    double s = (double)elapsed_ns / (double)SECOND_NS;
    double rate = (double)(done_bytes - progress->rate_done_bytes) / s;
    bool first = progress->rate_ns == progress->start_ns;
    /* dt/(dt + tau): the first-order filter for steps of any length, without exp(). */
    double weight = first ? 1 : s / (s + RATE_MEMORY_S);
    progress->rate += weight * (rate - progress->rate);
    progress->rate_ns = now_ns;
    progress->rate_done_bytes = done_bytes;
    return true;
}

int64_t progress_eta_s(const struct progress *progress)
{
    if (progress->total_bytes < progress->done_bytes || progress->rate < 1)
        return -1;
    double left_s = (double)(progress->total_bytes - progress->done_bytes) / progress->rate;
    return left_s < 1e9 ? (int64_t)(left_s + 0.5) : -1;
}

static unsigned percent_of(const struct progress *progress)
{
    unsigned __int128 hundredfold = (unsigned __int128)progress->done_bytes * 100;
    return (unsigned)MIN(hundredfold / progress->total_bytes, 100);
}

static void bar(char text[BAR_COLUMNS + 4], unsigned percent)
{
    unsigned full = BAR_COLUMNS * percent / 100;
    text[0] = '[';
    memset(text + 1, ' ', BAR_COLUMNS);
    memset(text + 1, '=', full);
    if (full < BAR_COLUMNS)
        text[1 + full] = '>';
    strcpy(text + 1 + BAR_COLUMNS, "] ");
}

void progress_line(const struct progress *progress, unsigned width, char text[PROGRESS_LINE_BYTES])
{
    char bar_text[BAR_COLUMNS + 4] = "", percent[8] = "", total[SIZE_TEXT_BYTES + 8] = "";
    char eta[DURATION_TEXT_BYTES + 8] = "", duration[DURATION_TEXT_BYTES];
    if (progress->total_bytes > 0) {
        if (width >= 90) /* what of the line is worth least */
            bar(bar_text, percent_of(progress));
        snprintf(percent, sizeof(percent), "%3u%%  ", percent_of(progress));
        snprintf(total, sizeof(total), " of %s", size_text(progress->total_bytes));
        int64_t eta_s = progress_eta_s(progress);
        if (eta_s >= 0)
            snprintf(eta, sizeof(eta), "  ETA %s",
                eta_s > 0 ? duration_format((uint64_t)eta_s * SECOND_NS, duration) : "0 s");
    }
    int len = snprintf(text, PROGRESS_LINE_BYTES, "%s: %s%s%s%s  %s/s%s", progress->label, bar_text,
        percent, size_text(progress->done_bytes), total, size_text((uint64_t)progress->rate), eta);
    if (width < PROGRESS_LINE_BYTES && len > (int)width)
        text[width] = 0;
}

/* --- On the terminal ------------------------------------------------------------------------- */

static unsigned terminal_width(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void progress_start(struct progress *progress, const char *label, uint64_t total_bytes)
{
    progress_init(progress, label, total_bytes, cli_now_ns());
    progress->terminal = isatty(STDERR_FILENO);
}

void progress_show(struct progress *progress, uint64_t done_bytes)
{
    char text[PROGRESS_LINE_BYTES];
    if (!progress->terminal || !progress_update(progress, done_bytes, cli_now_ns()))
        return;
    progress_line(progress, terminal_width() - 1, text);
    fprintf(stderr, "\r%s\033[K", text);
    progress->shown = true;
}

void progress_end(struct progress *progress)
{
    if (progress->shown)
        fputs("\r\033[K", stderr);
    progress->shown = false;
}
