/* SPDX-License-Identifier: Apache-2.0
 *
 * The same thing done to several disks at once, where the operation is a suspending call.
 *
 * The calling fiber works too and helpers join as the pool has them to spare: a fan-out ends even
 * when every fiber of the pool is inside one (plain fiber_spawn and wait would then lock up, F5).
 */
#pragma once

#include "common/fiber.h"

/* Calls fn(ctx, i) once for each i below `count`, at most `width` (>= 1) at a time, begun in order;
 * returns when all have returned. Errors are fn's affair. `name` is static text. */
MAY_SUSPEND void fanout_run(const char *name, unsigned count, unsigned width,
    MAY_SUSPEND void (*fn)(void *ctx, unsigned i), void *ctx);
