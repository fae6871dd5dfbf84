/* SPDX-License-Identifier: Apache-2.0
 *
 * Formatting writes a whole disk: rounds restore this image (sim_disk_restore) instead.
 */
#pragma once

#include "common/env_sim.h"
#include "common/uuid.h"

/* Made by the first call, the same for all calls of a program. */
struct sim_image *formatted_disk(uint64_t size_bytes, struct uuid cluster);
