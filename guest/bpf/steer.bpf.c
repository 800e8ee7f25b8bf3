// SPDX-License-Identifier: GPL-2.0-only
/*
 * Steer numbered frames into a cpumap, and note of each where it came in and where it was sent:
 * those that a NIC receives, and those that a live run (BPF_F_TEST_XDP_LIVE_FRAMES) makes up.
 */
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
	__u64 metadata; /* whether each frame is given its number as metadata */
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

#define ACTIONS (XDP_REDIRECT + 1)

/* How often each action was answered to a NIC's frames, and then, in order, to live ones. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * ACTIONS);
	__type(key, __u32);
	__type(value, __u64);
} verdicts SEC(".maps");

/* The number of the next live frame, by the CPU that makes it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} numbers SEC(".maps");

static __always_inline int steer_frame(struct xdp_md *ctx, __u32 answers)
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
	__u16 bytes = end - data;
	if (how->metadata && write_metadata(ctx, headers.tag.frame))
		return XDP_DROP;
	int verdict = bpf_redirect_map(&cpus, *cpu, how->flags);
	note_hop(hop, 1, verdict, verdict == XDP_REDIRECT ? *cpu : NO_CPU, bytes);
	/* after the note, as the host counts on it */
	asm volatile("" ::: "memory");
	__u32 action = answers + verdict;
	__u64 *n = bpf_map_lookup_elem(&verdicts, &action);
	if (n)
		*n += 1;
	return verdict;
}

SEC("xdp")
int steer(struct xdp_md *ctx)
{
	return steer_frame(ctx, 0);
}

/* The frames that can be numbered under way. */
struct plain {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	struct tag tag;
} __attribute__((packed));

/*
 * Give a frame the next number. Its data may be that of an earlier one, whose page came back, so
 * whatever stands there is replaced, and the checksum mended by the difference (RFC 1624).
 */
static __always_inline void renumber(struct plain *frame, __u32 number)
{
	__u32 sum = (__u16)~frame->udp.check, old = frame->tag.frame;

	sum += (__u16)~old + (__u16)~(old >> 16) + (__u16)number + (number >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	if (frame->udp.check)
		frame->udp.check = (__u16)~sum ?: 0xffff;
	frame->tag.frame = number;
}

SEC("xdp")
int live(struct xdp_md *ctx)
{
	struct plain *frame = (void *)(long)ctx->data;
	__u32 cpu = bpf_get_smp_processor_id();

	__u32 *next = bpf_map_lookup_elem(&numbers, &cpu);
	if (!next || (void *)(frame + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	renumber(frame, *next);
	*next += 1;
	return steer_frame(ctx, ACTIONS);
}

char LICENSE[] SEC("license") = "GPL";
