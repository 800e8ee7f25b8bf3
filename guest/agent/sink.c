// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include "ops.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <zlib.h>

#include "../frame.h"

#define BATCH 64
#define DATAGRAM 65536

/* One datagram socket whose numbered frames a thread counts, and sums to the last byte. */
static struct sink {
	pthread_t thread;
	bool running;
	volatile bool stop;
	int fd;
	uint32_t frames;
	volatile uint64_t received; /* datagrams, strays too */
	uint8_t *count; /* of each frame */
	uint32_t *sum; /* CRC-32 of its payload, as it came last */
} sink;

static void note(struct sink *s, const char *data, size_t len)
{
	struct tag tag;

	if (len >= sizeof(tag))
		memcpy(&tag, data, sizeof(tag));
	if (len < sizeof(tag) || tag.magic != TAG_MAGIC || tag.frame >= s->frames)
		return;
	s->sum[tag.frame] = crc32(0, (const unsigned char *)data, len);
	if (s->count[tag.frame] < UINT8_MAX)
		s->count[tag.frame]++;
}

static void *run(void *arg)
{
	struct sink *s = arg;
	static char datagram[BATCH][DATAGRAM];
	struct iovec iov[BATCH];
	struct mmsghdr msgs[BATCH];

	for (;;) {
		bool last = s->stop; /* read before the socket is: what came earlier is counted */
		for (int i = 0; i < BATCH; i++) {
			iov[i] = (struct iovec){ datagram[i], DATAGRAM };
			msgs[i] = (struct mmsghdr){ .msg_hdr = { .msg_iov = &iov[i], .msg_iovlen = 1 } };
		}
		int n = recvmmsg(s->fd, msgs, BATCH, MSG_DONTWAIT, NULL);
		for (int i = 0; i < n; i++)
			note(s, datagram[i], msgs[i].msg_len);
		if (n > 0) {
			s->received += n;
			continue;
		}
		if (last)
			return NULL;
		poll(&(struct pollfd){ .fd = s->fd, .events = POLLIN }, 1, 20);
	}
}

/* sink_start(fd, frames): count what arrives at the socket, until sink_stop. */
int op_sink_start(const struct args *args, msgpack_packer *out, char *why)
{
	int64_t fd, frames;

	if (arg_int(args, 0, &fd) || arg_int(args, 1, &frames) || frames < 0 || frames > UINT32_MAX)
		return -EINVAL;
	if (sink.running) {
		strcpy(why, "a sink is running already");
		return -EBUSY;
	}
	sink = (struct sink){ .fd = fd, .frames = frames };
	sink.count = calloc(frames + 1, sizeof(*sink.count));
	sink.sum = calloc(frames + 1, sizeof(*sink.sum));
	if (!sink.count || !sink.sum)
		return -ENOMEM;
	int err = pthread_create(&sink.thread, NULL, run, &sink);
	if (err)
		return -err;
	sink.running = true;
	msgpack_pack_nil(out);
	return 0;
}

/* sink_count(): datagrams received so far. */
int op_sink_count(const struct args *args, msgpack_packer *out, char *why)
{
	(void)args;
	(void)why;
	msgpack_pack_uint64(out, sink.received);
	return 0;
}

/* sink_stop(): for each frame [its counts (u8), the CRC-32 (u32) of its payloads]. */
int op_sink_stop(const struct args *args, msgpack_packer *out, char *why)
{
	(void)args;
	if (!sink.running) {
		strcpy(why, "no sink is running");
		return -ENOENT;
	}
	sink.stop = true;
	pthread_join(sink.thread, NULL);
	sink.running = false;
	msgpack_pack_array(out, 2);
	pack_bytes(out, sink.count, sink.frames);
	pack_bytes(out, sink.sum, sink.frames * sizeof(*sink.sum));
	free(sink.count);
	free(sink.sum);
	return 0;
}
