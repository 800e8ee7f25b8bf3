// SPDX-License-Identifier: GPL-2.0-only
/* A cpumap entry's program that answers by a frame's number: a table of verdicts, in turn. */
#include "tag.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} length SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} table SEC(".maps");

SEC("xdp/cpumap")
int entry(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct headers headers;
	__u32 zero = 0, at;

	__u32 *n = bpf_map_lookup_elem(&length, &zero);
	if (!n || !*n || find_tag(data, end, &headers))
		return XDP_PASS;
	at = headers.tag.frame % *n;
	__u32 *verdict = bpf_map_lookup_elem(&table, &at);
	return verdict ? *verdict : XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
