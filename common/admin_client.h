/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocking client of the admin socket, for the CLI, the FUSE daemon and tests' helpers (not for daemons' fibers).
 *
 * Protocol, version 1: a unix stream socket; each request and each reply is one line of JSON (UTF-8, at most 1 MiB, ends with \n).
 *   -> {"id": 1, "method": "volume.create", "params": {"name": "vm1", "size_bytes": 1073741824, "pool": "default"}}
 *   <- {"id": 1, "result": {...}}     or   {"id": 1, "error": {"code": "ENOENT", "message": "no pool named 'default'; see 'holdfast pool list'"}}
 * A method that takes long sends
 * {"id": 1, "progress": {"elapsed_s"}} lines, every 5 s, before its result. Replies to one connection come in request order.
 *
 * A line that is no request is answered with an error, then the connection ends. A request with a
 * wrong, missing or unknown parameter is answered with an error that names it. Half a request has
 * 30 s to become whole, a reply 30 s to be taken. A method that has begun ends, whether its client
 * is there or not.
 *
 * Methods (params -> result); sizes in bytes, times in seconds unless named otherwise. Results may
 * get more members.
 *   status {} -> {"version","node","state":"running","nodes":[as node.list],"cluster","uptime_s",
 *       "memory":{"budget_bytes","used_bytes","memtable_bytes","memtable_bytes_max",
 *           "pools_held_bytes","map_cache_bytes"},
 *       "disks":[as disk.list],"pools":[as pool.list],"volumes":[as volume.list],
 *       "nbd":["unix:/..","tcp:.."],
 *       "scrub":{"running","disk","bytes","shards","damaged_shards","passes"},
 *       "repairing"?:(volume opened for repair),
 *       "health":"ok|warning|degraded|damaged|halted","problems":["sentence",..]}
 *       (while "state" is another: only {"version","node","state":"starting|waiting for the store|
 *       not joined|stopping","uptime_s","health":"waiting","problems"}; other methods than status,
 *       shutdown and cluster.* are answered EAGAIN then)
 *   cluster.init {} -> {"cluster"(uuid)} (makes the cluster, joins it, returns when the node runs)
 *   cluster.join {} -> {"cluster"(uuid)} (likewise, of a cluster that is there)
 *   node.list {} -> {"nodes":[{"name","node"(uuid),"self","state":"up|down","since_s","address","rack",
 *       "disks"(how many),"boot","incarnation","version"}]}
 *   node.remove {"name"} -> {} (-EBUSY while it is up or has disks)
 *   disk.format {"path","size_bytes"?,"class"?,"force"?} -> {"disk"(uuid),"size_bytes"}
 *       (makes a file of size_bytes, or uses an existing device or file)
 *   disk.add {"path"} -> {"disk","number"} (a new one, or one that was missing)
 *   disk.remove {"disk":(number, uuid or path, text),"force"?} -> {} (refused while shards live there,
 *       or might, unless forced)
 *   disk.list {} -> {"disks":[{"disk","number","path","node","state":"in|out|failed|missing","class",
 *       "size_bytes","free_bytes","shards"?(of this node's),"errors","append_latency_us","problem"?}]}
 *   disk.scrub {"node"?} -> {} (a pass over all disks of the node begins, in the background)
 *   pool.create {"name","code":"4+2","min_shards"?,"domain"?:"disk|node|rack","class"?,"log_class"?}
 *       -> {}
 *   pool.list {} -> {"pools":[{"name","code","domain","min_shards","class","log_class","size_bytes",
 *       "free_bytes"(both: of data),"raw_size_bytes","raw_free_bytes","disks"}]}
 *   pool.delete {"name"} -> {} (-EBUSY while a volume is in it)
 *   volume.create {"name","size_bytes","pool"} -> {"volume"(id)}
 *   volume.list {"clients"?:false} -> {"volumes":[{"name","volume","size_bytes","pool",
 *       "state":"new|owned|released","owner"(node that serves it, or ""),"open","connections"?,"health"?,
 *       "problem"?}],"recalled":(the store did not answer: what this node last saw)} (? : of those open
 *       here; with "clients" the other owners are asked, too)
 *   volume.info {"name","open"?:true} -> as in volume.list, and {"epoch","attached":[nodes whose clients use it],"allocated_bytes",
 *       "stored_bytes","log_bytes","memtable_bytes","chunks","chunks_degraded","chunks_lost",
 *       "chunks_crowded"(have shards in one failure domain),
 *       "health":"ok|degraded|damaged|halted|unavailable","problem"}
 *       ("recalled": true: the store did not answer, this is what was last seen; EAGAIN: it did not answer, and
 *       nothing is known here. "open": false does not open a closed volume for it and then leaves out what only an open one
 *       knows)
 *   volume.resize {"name","size_bytes"} -> {}      volume.rename {"name","new_name"} -> {}
 *   volume.delete {"name","force"?} -> {} (-EBUSY while in use, unless forced)
 *   volume.move {"name","node"} -> {"node","pause_us"} (the node becomes its owner; how long it took no
 *       I/O)
 *   volume.flush {"name"} -> {}      volume.close {"name"} -> {} (destage, seal, release)
 *   stats {} -> {"time_ns","nbd":{"connections","requests_in_flight",..},
 *       "attach":{"remote_attachments","served","forwarded","executed","handoffs_in",..},"volumes":[open ones:
 *       {"name","reads","writes","flushes","trims","read_bytes","written_bytes","trimmed_bytes",
 *       "read_latency_ns_sum","write_latency_ns_sum","flush_latency_ns_sum",
 *       "read_latency_us":[24: i counts 2^i <= us < 2^(i+1)],"write_latency_us":[24],
 *       "read_latency_us_p50","read_latency_us_p99","write_latency_us_p50","write_latency_us_p99",
 *       "degraded_reads","damaged_blocks","repaired_shards","cleaned_chunks","rows","log_appends"}]}
 *   shard.damaged {"volume","chunk","index","disk","block"} -> {} (between nodes: to the volume's owner)
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
