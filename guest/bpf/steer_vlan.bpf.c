// SPDX-License-Identifier: GPL-2.0-only
/* Steer by VLAN id: the first of `steer.to` for VLAN 0 or no tag, and so on. */
#include "steer.h"

SEC("xdp")
int steer(struct xdp_md *ctx)
{
	struct arrival frame;

	if (find_arrival(ctx, &frame))
		return XDP_PASS;
	return steer_by(ctx, &frame, frame.headers.vlan);
}

char LICENSE[] SEC("license") = "GPL";
