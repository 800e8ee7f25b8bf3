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

#include "../frame.h"

#define BATCH 64
#define HEAD 64

/* One datagram socket whose numbered frames a thread counts: how often each frame came. */
static struct sink {
	pthread_t thread;
	bool running;
	volatile bool stop;
	int fd;
	uint32_t frames;
	uint64_t strays;
	volatile uint64_t received; /* datagrams, strays too */
	uint8_t *count;
} sink;

static void note(struct sink *s, const char *data, size_t len)
{
	struct tag tag;

	if (len >= sizeof(tag))
		memcpy(&tag, data, sizeof(tag));
	if (len < sizeof(tag) || tag.magic != TAG_MAGIC || tag.frame >= s->frames)
		s->strays++;
	else if (s->count[tag.frame] < UINT8_MAX)
		s->count[tag.frame]++;
}

static void *run(void *arg)
{
	struct sink *s = arg;
	char head[BATCH][HEAD];
	struct iovec iov[BATCH];
	struct mmsghdr msgs[BATCH];

	for (;;) {
		bool last = s->stop; /* read before the socket is: what came earlier is counted */
		for (int i = 0; i < BATCH; i++) {
			iov[i] = (struct iovec){ head[i], HEAD };
			msgs[i] = (struct mmsghdr){ .msg_hdr = { .msg_iov = &iov[i], .msg_iovlen = 1 } };
		}
		int n = recvmmsg(s->fd, msgs, BATCH, MSG_DONTWAIT, NULL);
		for (int i = 0; i < n; i++)
			note(s, head[i], msgs[i].msg_len);
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
	sink = (struct sink){ .fd = fd, .frames = frames, .count = calloc(frames + 1, 1) };
	if (!sink.count)
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

/* sink_stop(): [a count (u8) for each frame, datagrams that carried no number of this run]. */
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
	msgpack_pack_uint64(out, sink.strays);
	free(sink.count);
	return 0;
}
