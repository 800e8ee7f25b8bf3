/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the host can ask for. An operation reads its arguments (a MessagePack array), packs its
 * result and returns 0, or packs nothing and returns a negative errno with a text in `why`.
 */
#ifndef OPS_H
#define OPS_H

#include <msgpack.h>
#include <stdatomic.h>
#include <stdbool.h>

#define WHY_MAX 65536

struct args {
	const msgpack_object *item;
	uint32_t count;
};

typedef int (*op_fn)(const struct args *args, msgpack_packer *out, char *why);

/* ops.c: the kernel's own interface, passed through */
int op_syscall(const struct args *args, msgpack_packer *out, char *why);
int op_read(const struct args *args, msgpack_packer *out, char *why);
int op_write(const struct args *args, msgpack_packer *out, char *why);
int op_drain(const struct args *args, msgpack_packer *out, char *why);
int op_threads(const struct args *args, msgpack_packer *out, char *why);
int op_spawn(const struct args *args, msgpack_packer *out, char *why);
/* state.c: what there is, and the agent itself made new */
int op_tree(const struct args *args, msgpack_packer *out, char *why);
int op_leave(const struct args *args, msgpack_packer *out, char *why);
/* Whether the agent is to leave, once its answers are sent. */
extern atomic_bool leaving;
/* Whether another would take its place. */
extern bool may_leave;
/* bpf.c: what libbpf knows better than a raw bpf(2) */
int op_bpf_load(const struct args *args, msgpack_packer *out, char *why);
int op_clsact(const struct args *args, msgpack_packer *out, char *why);
int op_tc_attach(const struct args *args, msgpack_packer *out, char *why);
/* sink.c: a socket that counts numbered frames */
int op_sink_start(const struct args *args, msgpack_packer *out, char *why);
int op_sink_count(const struct args *args, msgpack_packer *out, char *why);
int op_sink_stop(const struct args *args, msgpack_packer *out, char *why);

/* Arguments, by position; a wrong type makes the operation fail with -EINVAL. */
int arg_int(const struct args *args, uint32_t at, int64_t *value);
int arg_str(const struct args *args, uint32_t at, char *value, size_t size);
int arg_bin(const struct args *args, uint32_t at, const char **data, uint32_t *len);

void pack_str(msgpack_packer *out, const char *text);
void pack_bytes(msgpack_packer *out, const void *data, size_t len);

#endif
