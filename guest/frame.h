/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The tag that every injected frame carries at the start of its UDP or TCP payload, and the note
 * that a hop makes of it. Shared by the BPF programs and the agent; harness/traffic/frames.py and
 * harness/trace/hops.py have the same layouts. Little endian, as the guests are.
 */
#ifndef FRAME_H
#define FRAME_H

#define TAG_MAGIC 0xc9a7
#define NO_CPU 0xffff

struct tag {
	unsigned short magic;
	unsigned short flow;
	unsigned int frame; /* running number in the run: the index of its note */
};

struct hop {
	unsigned int count; /* how often the frame came by here */
	unsigned short cpu; /* on which CPU, last time */
	unsigned char verdict; /* what the program answered */
	unsigned char rx_queue; /* the NIC's queue that it came by; at the stack 1 more, 0: not told */
	unsigned int order; /* running number, from 1, of the frames that this CPU saw here */
	unsigned short to_cpu; /* the key it was redirected to, else NO_CPU */
	unsigned short length; /* bytes on the wire, without FCS */
};

#endif
