// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include "ops.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What libbpf and the verifier said while an object was loaded, newest kept. */
static __thread char said[WHY_MAX];
static __thread size_t said_len;

static int keep(enum libbpf_print_level level, const char *format, va_list list)
{
	char line[8192];

	if (level == LIBBPF_DEBUG)
		return 0;
	int n = vsnprintf(line, sizeof(line), format, list);
	if (n < 0)
		return 0;
	size_t len = (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1;
	if (said_len + len >= sizeof(said))
		said_len = 0;
	memcpy(said + said_len, line, len + 1);
	said_len += len;
	return n;
}

static bool same(const msgpack_object *key, const char *name)
{
	return key->type == MSGPACK_OBJECT_STR && key->via.str.size == strlen(name) &&
	       !memcmp(key->via.str.ptr, name, key->via.str.size);
}

/* Apply {map name: [what, number]}: "fd" shares a map that exists, "max_entries" sizes a new one. */
static int shape_maps(struct bpf_object *obj, const msgpack_object_map *maps, char *why)
{
	struct bpf_map *map;

	for (uint32_t i = 0; i < maps->size; i++) {
		const msgpack_object *value = &maps->ptr[i].val;
		bool found = false;
		int64_t number;
		if (value->type != MSGPACK_OBJECT_ARRAY)
			return -EINVAL;
		struct args pair = { value->via.array.ptr, value->via.array.size };
		if (arg_int(&pair, 1, &number))
			return -EINVAL;
		bpf_object__for_each_map(map, obj) {
			if (!same(&maps->ptr[i].key, bpf_map__name(map)))
				continue;
			found = true;
			int err = same(&pair.item[0], "fd") ?
					  bpf_map__reuse_fd(map, number) :
					  bpf_map__set_max_entries(map, number);
			if (err) {
				snprintf(why, WHY_MAX, "map %s: cannot be shaped as asked",
					 bpf_map__name(map));
				return err;
			}
		}
		if (!found) {
			snprintf(why, WHY_MAX, "the object has no map %.*s",
				 (int)maps->ptr[i].key.via.str.size, maps->ptr[i].key.via.str.ptr);
			return -ENOENT;
		}
	}
	return 0;
}

static void pack_fds(msgpack_packer *out, struct bpf_object *obj)
{
	struct bpf_map *map;
	struct bpf_program *prog;
	uint32_t maps = 0, progs = 0;

	bpf_object__for_each_map(map, obj)
		maps++;
	bpf_object__for_each_program(prog, obj)
		progs++;
	/* closing the object closes its descriptors: hand out copies */
	msgpack_pack_array(out, 2);
	msgpack_pack_map(out, maps);
	bpf_object__for_each_map(map, obj) {
		pack_str(out, bpf_map__name(map));
		msgpack_pack_int(out, fcntl(bpf_map__fd(map), F_DUPFD_CLOEXEC, 3));
	}
	msgpack_pack_map(out, progs);
	bpf_object__for_each_program(prog, obj) {
		pack_str(out, bpf_program__name(prog));
		msgpack_pack_int(out, fcntl(bpf_program__fd(prog), F_DUPFD_CLOEXEC, 3));
	}
}

/* bpf_load(path, maps): load an object file. Result: [{map: fd}, {program: fd}]. */
int op_bpf_load(const struct args *args, msgpack_packer *out, char *why)
{
	char path[4096];

	if (arg_str(args, 0, path, sizeof(path)) || args->count != 2 ||
	    args->item[1].type != MSGPACK_OBJECT_MAP)
		return -EINVAL;
	said[said_len = 0] = 0;
	libbpf_set_print(keep);
	struct bpf_object *obj = bpf_object__open_file(path, NULL);
	if (!obj) {
		int err = -errno;
		snprintf(why, WHY_MAX, "open %s: %s", path, said);
		return err;
	}
	int err = shape_maps(obj, &args->item[1].via.map, why);
	if (!err) {
		err = bpf_object__load(obj);
		if (err)
			snprintf(why, WHY_MAX, "load %s: %s", path, said);
		else
			pack_fds(out, obj);
	}
	bpf_object__close(obj);
	return err;
}

/* clsact(ifindex): give an interface the qdisc that tc programs attach to, if it has none. */
int op_clsact(const struct args *args, msgpack_packer *out, char *why)
{
	int64_t ifindex;

	if (arg_int(args, 0, &ifindex))
		return -EINVAL;
	said[said_len = 0] = 0;
	libbpf_set_print(keep);
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex, .attach_point = BPF_TC_INGRESS);
	int err = bpf_tc_hook_create(&hook);
	if (err && err != -EEXIST) {
		snprintf(why, WHY_MAX, "clsact on ifindex %lld: %s", (long long)ifindex, said);
		return err;
	}
	msgpack_pack_nil(out);
	return 0;
}

/* tc_attach(ifindex, prog fd): a direct-action filter on the interface's clsact ingress. */
int op_tc_attach(const struct args *args, msgpack_packer *out, char *why)
{
	int64_t ifindex, fd;

	if (arg_int(args, 0, &ifindex) || arg_int(args, 1, &fd))
		return -EINVAL;
	said[said_len = 0] = 0;
	libbpf_set_print(keep);
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = fd);
	int err = bpf_tc_attach(&hook, &opts);
	if (err)
		snprintf(why, WHY_MAX, "attach to tc ingress of ifindex %lld: %s",
			 (long long)ifindex, said);
	else
		msgpack_pack_int(out, opts.handle);
	return err;
}
