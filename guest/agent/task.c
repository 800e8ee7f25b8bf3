// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include "task.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ops.h"

#define TASKS 32

static const struct {
	const char *name;
	op_fn fn;
} ops[] = {
	{ "syscall", op_syscall },	 { "read", op_read },
	{ "write", op_write },		 { "drain", op_drain },
	{ "threads", op_threads },	 { "spawn", op_spawn },
	{ "bpf_load", op_bpf_load },	 { "tc_attach", op_tc_attach },
	{ "sink_start", op_sink_start }, { "sink_stop", op_sink_stop },
};

struct bytes {
	char *data;
	size_t len;
};

static struct task {
	pthread_t thread;
	bool started;
	uint64_t seq; /* of the newest request */
	struct bytes request; /* waiting for the thread */
	struct bytes answer; /* to `seq`, kept for a resend */
	bool unsent;
} tasks[TASKS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static int bell;

static void fail(msgpack_packer *pk, int err, const char *why)
{
	msgpack_pack_false(pk);
	msgpack_pack_array(pk, 2);
	msgpack_pack_int(pk, -err);
	pack_str(pk, why);
}

/* A request is [task, seq, op, args]; its answer [task, seq, ok, result or [errno, why]]. */
static int head(const msgpack_object *o, uint64_t *task, uint64_t *seq)
{
	if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size != 4)
		return -EINVAL;
	const msgpack_object *part = o->via.array.ptr;
	if (part[0].type != MSGPACK_OBJECT_POSITIVE_INTEGER || part[0].via.u64 >= TASKS ||
	    part[1].type != MSGPACK_OBJECT_POSITIVE_INTEGER ||
	    part[2].type != MSGPACK_OBJECT_STR || part[3].type != MSGPACK_OBJECT_ARRAY)
		return -EINVAL;
	*task = part[0].via.u64;
	*seq = part[1].via.u64;
	return 0;
}

static struct bytes execute(const msgpack_object *o, uint64_t task, uint64_t seq)
{
	static __thread char why[WHY_MAX];
	const msgpack_object *part = o->via.array.ptr;
	struct args args = { part[3].via.array.ptr, part[3].via.array.size };
	msgpack_sbuffer answer, result;
	msgpack_packer pk, rpk;
	op_fn fn = NULL;

	msgpack_sbuffer_init(&answer);
	msgpack_packer_init(&pk, &answer, msgpack_sbuffer_write);
	msgpack_pack_array(&pk, 4);
	msgpack_pack_uint64(&pk, task);
	msgpack_pack_uint64(&pk, seq);
	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
		if (part[2].via.str.size == strlen(ops[i].name) &&
		    !memcmp(part[2].via.str.ptr, ops[i].name, part[2].via.str.size))
			fn = ops[i].fn;
	if (!fn) {
		fail(&pk, -ENOSYS, "the agent has no such operation");
		return (struct bytes){ answer.data, answer.size };
	}
	msgpack_sbuffer_init(&result);
	msgpack_packer_init(&rpk, &result, msgpack_sbuffer_write);
	why[0] = 0;
	int err = fn(&args, &rpk, why);
	if (err) {
		fail(&pk, err, why[0] ? why : "wrong arguments");
	} else {
		msgpack_pack_true(&pk);
		msgpack_sbuffer_write(&answer, result.data, result.size);
	}
	msgpack_sbuffer_destroy(&result);
	return (struct bytes){ answer.data, answer.size };
}

static struct bytes serve(struct bytes request)
{
	struct bytes answer = { 0 };
	msgpack_unpacked message;
	uint64_t task, seq;

	msgpack_unpacked_init(&message);
	if (msgpack_unpack_next(&message, request.data, request.len, NULL) == MSGPACK_UNPACK_SUCCESS &&
	    !head(&message.data, &task, &seq))
		answer = execute(&message.data, task, seq);
	msgpack_unpacked_destroy(&message);
	free(request.data);
	return answer;
}

static void *run(void *arg)
{
	struct task *t = arg;

	pthread_mutex_lock(&lock);
	for (;;) {
		while (!t->request.data)
			pthread_cond_wait(&work, &lock);
		struct bytes request = t->request;
		t->request = (struct bytes){ 0 };
		pthread_mutex_unlock(&lock);
		struct bytes answer = serve(request);
		pthread_mutex_lock(&lock);
		t->answer = answer;
		t->unsent = true;
		eventfd_write(bell, 1);
	}
	return NULL;
}

int task_init(void)
{
	bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return bell;
}

void task_submit(char *body, size_t len)
{
	msgpack_unpacked message;
	uint64_t id = 0, seq = 0;

	msgpack_unpacked_init(&message);
	bool good = msgpack_unpack_next(&message, body, len, NULL) == MSGPACK_UNPACK_SUCCESS &&
		    !head(&message.data, &id, &seq);
	msgpack_unpacked_destroy(&message);
	if (!good) {
		fprintf(stderr, "cpumap-lab: a malformed request was dropped\n");
		free(body);
		return;
	}
	struct task *t = &tasks[id];
	pthread_mutex_lock(&lock);
	if (seq <= t->seq) { /* seen before: answer again, or let it finish */
		t->unsent = seq == t->seq && t->answer.data;
		pthread_mutex_unlock(&lock);
		free(body);
		return;
	}
	t->seq = seq;
	free(t->answer.data);
	t->answer = (struct bytes){ 0 };
	if (id == 0) {
		pthread_mutex_unlock(&lock);
		struct bytes answer = serve((struct bytes){ body, len });
		pthread_mutex_lock(&lock);
		t->answer = answer;
		t->unsent = true;
	} else {
		t->request = (struct bytes){ body, len };
		if (!t->started)
			t->started = !pthread_create(&t->thread, NULL, run, t);
		pthread_cond_broadcast(&work);
	}
	pthread_mutex_unlock(&lock);
}

int task_answer(char **body, size_t *len)
{
	eventfd_t count;
	int found = 0;

	eventfd_read(bell, &count);
	pthread_mutex_lock(&lock);
	for (int i = 0; i < TASKS && !found; i++) {
		struct task *t = &tasks[i];
		if (!t->unsent || !t->answer.data)
			continue;
		*body = malloc(t->answer.len);
		if (!*body)
			abort();
		memcpy(*body, t->answer.data, t->answer.len);
		*len = t->answer.len;
		t->unsent = false;
		found = 1;
	}
	pthread_mutex_unlock(&lock);
	return found;
}
