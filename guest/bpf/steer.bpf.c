// SPDX-License-Identifier: GPL-2.0-only
/*
 * Steer numbered frames into a cpumap, and note of each where it came in and where it was sent:
 * those that a NIC receives, and those that a live run (BPF_F_TEST_XDP_LIVE_FRAMES) makes up.
 */
#include "steer.h"

enum selector {
	BY_FRAME, /* running number: round-robin */
	BY_FLOW,
	BY_PORT,
	BY_HASH,
};

/* The number of the next live frame, by the CPU that makes it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} numbers SEC(".maps");

static __always_inline int steer_frame(struct xdp_md *ctx, __u32 answers)
{
	struct arrival frame;
	__u32 pick;

	if (find_arrival(ctx, &frame))
		return XDP_PASS;
	frame.answers = answers;
	switch (frame.how->selector) {
	case BY_FLOW:
		pick = frame.headers.tag.flow;
		break;
	case BY_PORT:
		pick = frame.headers.port;
		break;
	case BY_HASH:
		pick = frame.headers.hash >> 16;
		break;
	default:
		pick = frame.headers.tag.frame;
	}
	return steer_by(ctx, &frame, pick);
}

SEC_XDP
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

SEC_XDP
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
