// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include "link.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#define MAGIC 0x4c4d5043u /* "CPML" */

struct header {
	uint32_t magic, len, crc;
};

int link_fill(struct link *link)
{
	for (;;) {
		if (link->cap - link->len < 65536) {
			link->cap = link->cap * 2 + 131072;
			link->in = realloc(link->in, link->cap);
			if (!link->in)
				abort();
		}
		ssize_t n = read(link->from, link->in + link->len, link->cap - link->len);
		if (n > 0)
			link->len += n;
		else if (n == 0)
			return -1;
		else if (errno != EINTR)
			return errno == EAGAIN ? 0 : -1;
	}
}

static void skip(struct link *link, size_t n)
{
	link->len -= n;
	memmove(link->in, link->in + n, link->len);
}

/* Where the next magic may begin in `in`, from `at` on. */
static size_t seek(const struct link *link, size_t at)
{
	const uint32_t magic = MAGIC;
	const char *found = memmem(link->in + at, link->len - at, &magic, sizeof(magic));

	if (found)
		return found - link->in;
	/* its first bytes may be there already */
	return link->len - at < sizeof(magic) ? at : link->len - sizeof(magic) + 1;
}

int link_take(struct link *link, char **body, size_t *len)
{
	struct header head;
	size_t at = 0;
	int taken = 0;

	while (!taken && link->len - (at = seek(link, at)) >= sizeof(head)) {
		memcpy(&head, link->in + at, sizeof(head));
		const char *data = link->in + at + sizeof(head);
		if (head.len > BODY_MAX) {
			at++;
			continue;
		}
		if (link->len - at < sizeof(head) + head.len)
			break;
		if (crc32(0, (const unsigned char *)data, head.len) != head.crc) {
			at++;
			continue;
		}
		*body = malloc(head.len + 1);
		if (!*body)
			abort();
		memcpy(*body, data, head.len);
		*len = head.len;
		at += sizeof(head) + head.len;
		taken = 1;
	}
	if (at)
		skip(link, at);
	return taken;
}

static void write_all(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);
		if (n > 0) {
			data += n;
			len -= n;
		} else if (n < 0 && errno == EPIPE) {
			return; /* a socket or a pipe whose other end is closed for good */
		} else {
			/* the port is full, or nobody is at the other end: look again soon */
			poll(&(struct pollfd){ .fd = fd, .events = POLLOUT }, 1, 50);
		}
	}
}

void link_send(struct link *link, const char *body, size_t len)
{
	struct header head = { MAGIC, len, crc32(0, (const unsigned char *)body, len) };
	char *frame = malloc(sizeof(head) + len);

	if (!frame)
		abort();
	memcpy(frame, &head, sizeof(head));
	memcpy(frame + sizeof(head), body, len);
	write_all(link->to, frame, sizeof(head) + len);
	free(frame);
}
