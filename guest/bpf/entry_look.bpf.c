// SPDX-License-Identifier: GPL-2.0-only
/*
 * A cpumap entry's program that notes what its context says of each frame, and moves the frame's
 * head out and back and its tail in, as far as it is told, or both ends over its VLAN tag.
 */
#include "tag.h"

struct look {
	__u32 count;
	__u32 cpu;
	__u32 ingress_ifindex;
	__u32 rx_queue_index;
	__u32 metadata; /* as read_metadata says */
	__u32 length;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct look);
} looks SEC(".maps");

struct change {
	__u32 tail; /* bytes to cut */
	__u32 head; /* bytes to grow in front and cut again */
	__u32 untag; /* take the outer VLAN tag out, and grow as much behind */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct change);
} changes SEC(".maps");

static __always_inline int untag(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (data + sizeof(struct ethhdr) + sizeof(struct vlan) > end)
		return -1;
	__builtin_memmove(data + sizeof(struct vlan), data, 2 * ETH_ALEN);
	return bpf_xdp_adjust_head(ctx, sizeof(struct vlan)) ||
	       bpf_xdp_adjust_tail(ctx, sizeof(struct vlan));
}

SEC_ENTRY
int entry(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct headers headers;
	__u32 zero = 0;

	struct change *change = bpf_map_lookup_elem(&changes, &zero);
	if (!change || find_tag(data, end, &headers))
		return XDP_PASS;
	struct look *look = bpf_map_lookup_elem(&looks, &headers.tag.frame);
	if (look) {
		__sync_fetch_and_add(&look->count, 1);
		look->cpu = bpf_get_smp_processor_id();
		look->ingress_ifindex = ctx->ingress_ifindex;
		look->rx_queue_index = ctx->rx_queue_index;
		look->metadata = read_metadata((void *)(long)ctx->data_meta, data);
		look->length = frame_length(ctx);
	}
	if (change->head && (bpf_xdp_adjust_head(ctx, -(int)change->head) ||
			     bpf_xdp_adjust_head(ctx, change->head)))
		return XDP_ABORTED;
	if (change->tail && bpf_xdp_adjust_tail(ctx, -(int)change->tail))
		return XDP_ABORTED;
	if (change->untag && untag(ctx))
		return XDP_ABORTED;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
