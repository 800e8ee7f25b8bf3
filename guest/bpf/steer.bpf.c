// SPDX-License-Identifier: GPL-2.0-only
/* Steer numbered frames into a cpumap, and note of each where it came in and where it was sent. */
#include "tag.h"

enum selector {
	BY_FRAME, /* running number: round-robin */
	BY_FLOW,
	BY_PORT,
	BY_HASH,
};

struct steering {
	__u32 selector;
	__u32 targets; /* entries of `targets` in use */
	__u64 flags; /* of bpf_redirect_map: the action for a missing entry */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct steering);
} steering SEC(".maps");

/* Keys of the cpumap, taken in turn by what the selector yields. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} targets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 8);
} cpus SEC(".maps");

/* How often each action was answered to numbered frames. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, XDP_REDIRECT + 1);
	__type(key, __u32);
	__type(value, __u64);
} verdicts SEC(".maps");

SEC("xdp")
int steer(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct headers headers;
	__u32 zero = 0, pick;

	struct steering *how = bpf_map_lookup_elem(&steering, &zero);
	if (!how || find_tag(data, end, &headers)) {
		count_stray();
		return XDP_PASS;
	}
	struct hop *hop = bpf_map_lookup_elem(&hops, &headers.tag.frame);
	if (!hop) {
		count_stray();
		return XDP_PASS;
	}
	switch (how->selector) {
	case BY_FLOW:
		pick = headers.tag.flow;
		break;
	case BY_PORT:
		pick = headers.port;
		break;
	case BY_HASH:
		pick = headers.hash >> 16;
		break;
	default:
		pick = headers.tag.frame;
	}
	if (how->targets)
		pick %= how->targets;
	__u32 *cpu = bpf_map_lookup_elem(&targets, &pick);
	if (!cpu)
		return XDP_DROP;
	int verdict = bpf_redirect_map(&cpus, *cpu, how->flags);
	note_hop(hop, 1, verdict, verdict == XDP_REDIRECT ? *cpu : NO_CPU, end - data);
	/* after the note, as the host counts on it */
	asm volatile("" ::: "memory");
	__u32 action = verdict;
	__u64 *n = bpf_map_lookup_elem(&verdicts, &action);
	if (n)
		*n += 1;
	return verdict;
}

char LICENSE[] SEC("license") = "GPL";
