/* SPDX-License-Identifier: GPL-2.0-only */
/* Find the tag of a frame: Ethernet, up to two VLAN tags, IPv4 or IPv6, UDP or TCP. */
#ifndef TAG_H
#define TAG_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "../frame.h"

/*
 * A program built with FRAGS takes frames that lie in several buffers (5.18 on); the others are
 * given one buffer and know nothing of bpf_xdp_get_buff_len.
 */
#ifdef FRAGS
#define SEC_XDP SEC("xdp.frags")
#define SEC_ENTRY SEC("xdp.frags/cpumap")
#define frame_length(ctx) bpf_xdp_get_buff_len(ctx)
#else
#define SEC_XDP SEC("xdp")
#define SEC_ENTRY SEC("xdp/cpumap")
#define frame_length(ctx) ((ctx)->data_end - (ctx)->data)
#endif

struct vlan {
	__be16 tci, proto;
};

struct headers {
	struct tag tag;
	__u32 hash; /* of addresses and ports: the same for all frames of a flow */
	__u16 port; /* destination, host order */
	__u16 vlan; /* id in the outer tag; 0 without one */
};

static __always_inline int find_tag(void *data, void *end, struct headers *out)
{
	struct ethhdr *eth = data;
	void *at = eth + 1;
	__u8 l4;

	if (at > end)
		return -1;
	__be16 proto = eth->h_proto;
	out->vlan = 0;
	for (int i = 0; i < 2; i++) {
		struct vlan *vlan = at;
		if (proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(vlan + 1) > end)
			return -1;
		if (!i)
			out->vlan = bpf_ntohs(vlan->tci) & 0xfff;
		proto = vlan->proto;
		at = vlan + 1;
	}
	if (proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = at;
		if ((void *)(ip + 1) > end || ip->ihl != 5)
			return -1;
		l4 = ip->protocol;
		out->hash = ip->saddr * 31 + ip->daddr;
		at = ip + 1;
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = at;
		if ((void *)(ip + 1) > end)
			return -1;
		l4 = ip->nexthdr;
		out->hash = ip->saddr.s6_addr32[3] * 31 + ip->daddr.s6_addr32[3];
		at = ip + 1;
	} else {
		return -1;
	}
	struct udphdr *udp = at; /* TCP's ports lie in the same place */
	if ((void *)(udp + 1) > end)
		return -1;
	out->port = bpf_ntohs(udp->dest);
	out->hash = (out->hash ^ ((__u32)udp->source << 16 | udp->dest)) * 0x9e3779b1;
	if (l4 == IPPROTO_TCP) {
		struct tcphdr *tcp = at;
		if ((void *)(tcp + 1) > end || tcp->doff < 5)
			return -1;
		at += tcp->doff * 4; /* captures have TCP options */
	} else if (l4 == IPPROTO_UDP) {
		at = udp + 1;
	} else {
		return -1;
	}
	struct tag *tag = at;
	if ((void *)(tag + 1) > end || tag->magic != TAG_MAGIC)
		return -1;
	out->tag = *tag;
	return 0;
}

/* Frames that carry no tag of this run: counted, and left alone. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} strays SEC(".maps");

/* Running number of the frames that each CPU saw. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} orders SEC(".maps");

/* One note per frame of the run; the host sizes it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hop);
} hops SEC(".maps");

static __always_inline void count_stray(void)
{
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&strays, &zero);

	if (n)
		*n += 1;
}

/* What an XDP program tells of a frame in its metadata: the frame's number. */
struct metadata {
	__u32 magic;
	__u32 frame;
};

/* Put a frame's number in front of it. Pointers into the frame are void afterwards. */
static __always_inline int write_metadata(struct xdp_md *ctx, __u32 frame)
{
	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(struct metadata)))
		return -1;
	struct metadata *meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 1) > (void *)(long)ctx->data)
		return -1;
	*meta = (struct metadata){ TAG_MAGIC, frame };
	return 0;
}

/* The number that a frame's metadata tells, counted from 1; 0: it has none. */
static __always_inline __u32 read_metadata(void *from, void *to)
{
	struct metadata *meta = from;

	if ((void *)(meta + 1) > to || meta->magic != TAG_MAGIC)
		return 0;
	return meta->frame + 1;
}

static __always_inline void note_hop(struct hop *hop, __u32 frames, __u8 verdict, __u16 to_cpu,
				     __u16 length)
{
	__u32 zero = 0, *order = bpf_map_lookup_elem(&orders, &zero);

	__sync_fetch_and_add(&hop->count, frames);
	hop->cpu = bpf_get_smp_processor_id();
	hop->verdict = verdict;
	hop->to_cpu = to_cpu;
	hop->length = length;
	if (order) {
		__u32 next = *order + 1;
		hop->order = next;
		/* the host counts on it: a frame that is counted has been noted */
		asm volatile("" ::: "memory");
		*order = next;
	}
}

#endif
