// SPDX-License-Identifier: GPL-2.0-only
/* A cpumap entry's program that hands every frame on to an entry of a cpumap. */
#include "tag.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} target SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 8);
} cpus SEC(".maps");

SEC("xdp/cpumap")
int entry(struct xdp_md *ctx __attribute__((unused)))
{
	__u32 zero = 0, *cpu = bpf_map_lookup_elem(&target, &zero);

	return cpu ? bpf_redirect_map(&cpus, *cpu, 0) : XDP_ABORTED;
}

char LICENSE[] SEC("license") = "GPL";
