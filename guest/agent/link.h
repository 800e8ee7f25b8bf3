/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The link to the host: frames over a byte stream (a virtio-serial port, or stdin and stdout).
 *
 * A frame is a header (magic, length of the body, CRC-32 of the body; u32, little endian) and a
 * body of MessagePack. The stream may start in the middle of anything (a clone resumes where its
 * template stood), so a reader seeks the magic and drops what does not check.
 */
#ifndef LINK_H
#define LINK_H

#include <stddef.h>
#include <stdint.h>

#define BODY_MAX (64u << 20)

struct link {
	int from, to; /* descriptors, non-blocking */
	char *in;
	size_t len, cap;
};

/* Read what is there; -1 when the host's end is closed for now. */
int link_fill(struct link *link);
/* Take the next whole body out of what was read; 0 when there is none yet. The caller frees it. */
int link_take(struct link *link, char **body, size_t *len);
/* Write one frame; waits while the host does not read. */
void link_send(struct link *link, const char *body, size_t len);

#endif
