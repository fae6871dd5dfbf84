/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of records share. Only blockd/cluster/records*.c include this.
 *
 *   records.c         keys, names, and records in the store
 *   records_encode.c  records to JSON
 *   records_decode.c  JSON to records
 *
 * Records of the coordination store <-> JSON. 64-bit identities are text of 16 hexadecimal digits,
 * since a JSON number holds 53 bits everywhere and 63 in jansson. No JSON value lives across a
 * suspension (a simulated node may die in it).
 */
#pragma once

#include "blockd/cluster/records.h"

#define RECORD_VERSION 1

/* Words of the records by number; the last is NULL. */
extern const char *const disk_state_names[], *const domain_names[], *const volume_state_names[];
/* -EINVAL. */
int index_of_name(const char *const *names, const char *text);
