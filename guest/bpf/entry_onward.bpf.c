// SPDX-License-Identifier: GPL-2.0-only
/* A cpumap entry's program that hands every frame, or every n-th, on to an entry of a cpumap. */
#include "tag.h"

struct onward {
	__u32 cpu;
	__u32 every;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct onward);
} target SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 8);
} cpus SEC(".maps");

SEC("xdp/cpumap")
int entry(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct headers headers;
	__u32 zero = 0;

	struct onward *onward = bpf_map_lookup_elem(&target, &zero);
	if (!onward || find_tag(data, end, &headers))
		return XDP_ABORTED;
	if (onward->every > 1 && headers.tag.frame % onward->every)
		return XDP_PASS;
	return bpf_redirect_map(&cpus, onward->cpu, 0);
}

char LICENSE[] SEC("license") = "GPL";
