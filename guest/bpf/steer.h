/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a program that steers needs: the maps that the harness looks for, and what notes of each
 * frame where it came in and where it was sent. A program of one's own is
 *
 *	SEC("xdp") int steer(struct xdp_md *ctx)
 *	{
 *		struct arrival frame;
 *
 *		if (find_arrival(ctx, &frame))
 *			return XDP_PASS;
 *		return steer_to(ctx, &frame, frame.headers.port & 3);
 *	}
 */
#ifndef STEER_H
#define STEER_H

#include "tag.h"

struct steering {
	__u32 selector; /* the scenario's `by` */
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

/*
 * How often each action was answered to a NIC's frames, and then, in order, to live ones: one
 * element, for the host reads it again and again.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64[2 * ACTIONS]);
} verdict_counts SEC(".maps");

struct arrival {
	struct headers headers;
	struct steering *how;
	struct hop *hop;
	__u32 answers; /* where in `verdicts` its kind begins */
	__u16 length;
};

/* 0 for a numbered frame of this run; others are counted and want XDP_PASS. */
static __always_inline int find_arrival(struct xdp_md *ctx, struct arrival *out)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0;

	out->how = bpf_map_lookup_elem(&steering, &zero);
	if (!out->how || find_tag(data, end, &out->headers)) {
		count_stray();
		return -1;
	}
	out->hop = bpf_map_lookup_elem(&hops, &out->headers.tag.frame);
	if (!out->hop) {
		count_stray();
		return -1;
	}
	out->answers = 0;
	out->length = frame_length(ctx);
	return 0;
}

/* Redirect a frame to the entry of a CPU, note it, and return the verdict. */
static __always_inline int steer_to(struct xdp_md *ctx, struct arrival *frame, __u32 cpu)
{
	if (frame->how->metadata && write_metadata(ctx, frame->headers.tag.frame))
		return XDP_DROP;
	int verdict = bpf_redirect_map(&cpus, cpu, frame->how->flags);

	frame->hop->rx_queue = ctx->rx_queue_index;
	note_hop(frame->hop, 1, verdict, verdict == XDP_REDIRECT ? cpu : NO_CPU, frame->length);
	/* after the note, as the host counts on it */
	asm volatile("" ::: "memory");
	__u32 zero = 0, action = frame->answers + verdict;
	__u64 *n = bpf_map_lookup_elem(&verdict_counts, &zero);
	if (n && action < 2 * ACTIONS)
		n[action] += 1;
	return verdict;
}

/* The same for the CPU that the scenario's `steer.to` has for a number. */
static __always_inline int steer_by(struct xdp_md *ctx, struct arrival *frame, __u32 pick)
{
	if (frame->how->targets)
		pick %= frame->how->targets;
	__u32 *cpu = bpf_map_lookup_elem(&targets, &pick);

	return cpu ? steer_to(ctx, frame, *cpu) : XDP_DROP;
}

#endif
