// SPDX-License-Identifier: GPL-2.0-only
/* A cpumap entry's program that sends every frame out by a device. */
#include "tag.h"

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 4);
} devices SEC(".maps");

SEC("xdp/cpumap")
int entry(struct xdp_md *ctx __attribute__((unused)))
{
	return bpf_redirect_map(&devices, 0, 0);
}

char LICENSE[] SEC("license") = "GPL";
