/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocking client of the admin socket, for the CLI, the FUSE daemon and tests' helpers (not for daemons' fibers).
 *
 * Protocol, version 1: a unix stream socket; each request and each reply is one line of JSON (UTF-8, at most 1 MiB, ends with \n).
 *   -> {"id": 1, "method": "volume.create", "params": {"name": "vm1", "size_bytes": 1073741824, "pool": "default"}}
 *   <- {"id": 1, "result": {...}}     or   {"id": 1, "error": {"code": "ENOENT", "message": "no pool named 'default'; see 'holdfast pool list'"}}
 * A method that takes long sends {"id": 1, "progress": {...}} lines before its result. Replies to one connection come in request order.
 *
 * Methods (params -> result); sizes in bytes, times in seconds unless named otherwise:
 *   status {}                       -> {"version","node","cluster","uptime_s","memory":{"budget_bytes","used_bytes"},"disks":[..as disk.list],
 *                                       "pools":[..],"volumes":[..as volume.list], "nbd":["unix:...","tcp:..."], "health":"ok|degraded|...", "problems":["text",..]}
 *   disk.format {"path","size_bytes"?,"force"?,"class"?}  -> {"disk"(uuid),"size_bytes"}     (makes a file of size_bytes, or uses an existing device/file)
 *   disk.add {"path"}               -> {"disk"}           disk.remove {"disk"} (drain is a later issue: refuses while shards live there unless "force")
 *   disk.list {}                    -> {"disks":[{"disk","number","path","state":"in|out|failed|missing","class","size_bytes","free_bytes","shards","errors"}]}
 *   pool.create {"name","code":"4+2","min_shards"?,"domain"?:"disk"} -> {}     pool.list {} -> {"pools":[{"name","code","domain","size_bytes","free_bytes","disks"}]}
 *   volume.create {"name","size_bytes","pool"} -> {"volume"(id)}
 *   volume.list {} -> {"volumes":[{"name","volume","size_bytes","pool","state","open","connections"}]}
 *   volume.info {"name","open"?:true} -> the above and {"epoch","allocated_bytes","stored_bytes","health","log_bytes","chunks",...}
 *      ("open": false does not open a closed volume for it and then leaves out what only an open one knows)
 *   volume.resize {"name","size_bytes"} -> {}   volume.rename {"name","new_name"} -> {}   volume.delete {"name"} -> {}
 *   volume.flush {"name"} -> {}  volume.close {"name"} -> {} (destage, seal, release)
 *   stats {} -> {"volumes":[{"name","reads","writes","flushes","trims","read_bytes","written_bytes","read_latency_ns_sum","write_latency_ns_sum","read_latency_us_p99",...}], "time_ns"}
 *   shutdown {} -> {}
 */
#pragma once

#include <jansson.h>

struct admin_client;

/* Connects to the socket at `path`. Negative errno; -ENOENT/-ECONNREFUSED: no daemon there. */
int admin_client_open(const char *path, struct admin_client **ret_client);
void admin_client_close(struct admin_client *client);

/* Calls `method` with `params` (stolen; NULL = {}) and waits at most timeout_ms (0 = 60 s, restarted by each progress line).
 * 0: *ret_result is owned by the caller. Negative errno otherwise: *ret_error (owned by the caller, free()) then has the
 * daemon's message or a sentence about the connection. `progress` may be NULL. */
int admin_client_call(struct admin_client *client, const char *method, json_t *params,
    unsigned timeout_ms, void (*progress)(void *ctx, const json_t *progress), void *progress_ctx,
    json_t **ret_result, char **ret_error);
