// SPDX-License-Identifier: GPL-2.0-only
/* At tc ingress, behind the cpumap: note of each numbered frame where it reached the stack. */
#include <linux/pkt_cls.h>

#include "tag.h"

/* What to answer: TC_ACT_OK hands the frame on to its socket, TC_ACT_SHOT ends it here. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} answer SEC(".maps");

/* Frames that reached the stack, those that GRO merged counted one by one. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} segments SEC(".maps");

/* What each frame's metadata tells where it reaches the stack, if that is asked for. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} metadata SEC(".maps");

/* How many skbs came with what nobody gave them. */
enum trait {
	MARK,
	PRIORITY,
	HASH,
	TRAITS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64[TRAITS]);
} traits SEC(".maps");

static __always_inline void count_trait(enum trait trait, __u32 value)
{
	__u32 zero = 0;
	__u64 *n = value ? bpf_map_lookup_elem(&traits, &zero) : 0;

	if (n)
		++n[trait];
}

SEC("tc")
int arrive(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct headers headers;
	__u32 zero = 0;

	__u32 *act = bpf_map_lookup_elem(&answer, &zero);
	if (!act || find_tag(data, end, &headers)) {
		count_stray();
		return TC_ACT_OK;
	}
	struct hop *hop = bpf_map_lookup_elem(&hops, &headers.tag.frame);
	if (!hop) {
		count_stray();
		return TC_ACT_OK;
	}
	__u32 *told = bpf_map_lookup_elem(&metadata, &headers.tag.frame);
	if (told)
		*told = read_metadata((void *)(long)skb->data_meta, data);
	hop->rx_queue = skb->queue_mapping;
	count_trait(MARK, skb->mark);
	count_trait(PRIORITY, skb->priority);
	count_trait(HASH, skb->hash);
	__u32 frames = skb->gso_segs ?: 1;
	/* the stack has moved the outer VLAN tag out of the data */
	note_hop(hop, frames, *act, NO_CPU, skb->len + (skb->vlan_present ? sizeof(struct vlan) : 0));
	/* after the note, as the host counts on it */
	asm volatile("" ::: "memory");
	__u64 *n = bpf_map_lookup_elem(&segments, &zero);
	if (n)
		*n += frames;
	return *act;
}

char LICENSE[] SEC("license") = "GPL";
