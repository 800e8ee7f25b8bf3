// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include "task.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "link.h"
#include "ops.h"

#define TASKS 33 /* the last is kept for questions about a guest that hangs */

static const struct {
	const char *name;
	op_fn fn;
} ops[] = {
	{ "syscall", op_syscall },	 { "read", op_read },
	{ "write", op_write },		 { "drain", op_drain },
	{ "threads", op_threads },	 { "spawn", op_spawn },
	{ "bpf_load", op_bpf_load },	 { "clsact", op_clsact },
	{ "tc_attach", op_tc_attach },	 { "sink_start", op_sink_start },
	{ "sink_count", op_sink_count }, { "sink_stop", op_sink_stop },
	{ "tree", op_tree },		 { "leave", op_leave },
};

struct bytes {
	char *data;
	size_t len;
};

static struct task {
	pthread_t thread;
	bool started;
	uint64_t session, seq; /* of the newest request */
	struct bytes request; /* waiting for the thread */
	struct bytes answer; /* to `seq`, kept for a resend */
	bool unsent;
} tasks[TASKS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static int bell;
static pthread_mutex_t lead = PTHREAD_MUTEX_INITIALIZER;
static pthread_t main_loop;
static atomic_bool away, stood_in_for;
static atomic_uint times_away;

static void fail(msgpack_packer *pk, int err, const char *why)
{
	msgpack_pack_false(pk);
	msgpack_pack_array(pk, 2);
	msgpack_pack_int(pk, -err);
	pack_str(pk, why);
}

struct head {
	uint64_t session, task, seq;
};

/*
 * A request is [session, task, seq, op, args]; its answer the same three numbers, ok, and the
 * result or [errno, why]. Each host counts its own session's requests from 1.
 */
static int read_head(const msgpack_object *o, struct head *head)
{
	if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size != 5)
		return -EINVAL;
	const msgpack_object *part = o->via.array.ptr;
	for (int i = 0; i < 3; i++)
		if (part[i].type != MSGPACK_OBJECT_POSITIVE_INTEGER)
			return -EINVAL;
	*head = (struct head){ part[0].via.u64, part[1].via.u64, part[2].via.u64 };
	if (head->task >= TASKS || part[3].type != MSGPACK_OBJECT_STR ||
	    part[4].type != MSGPACK_OBJECT_ARRAY)
		return -EINVAL;
	return 0;
}

static struct bytes execute(const msgpack_object *o, const struct head *head)
{
	static __thread char why[WHY_MAX];
	const msgpack_object *part = o->via.array.ptr;
	struct args args = { part[4].via.array.ptr, part[4].via.array.size };
	msgpack_sbuffer answer, result;
	msgpack_packer pk, rpk;
	op_fn fn = NULL;

	msgpack_sbuffer_init(&answer);
	msgpack_packer_init(&pk, &answer, msgpack_sbuffer_write);
	msgpack_pack_array(&pk, 5);
	msgpack_pack_uint64(&pk, head->session);
	msgpack_pack_uint64(&pk, head->task);
	msgpack_pack_uint64(&pk, head->seq);
	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
		if (part[3].via.str.size == strlen(ops[i].name) &&
		    !memcmp(part[3].via.str.ptr, ops[i].name, part[3].via.str.size))
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
	} else if (result.size > BODY_MAX - answer.size - 1) {
		fail(&pk, -EMSGSIZE, "the result is larger than the link takes");
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
	struct head head;

	msgpack_unpacked_init(&message);
	if (msgpack_unpack_next(&message, request.data, request.len, NULL) == MSGPACK_UNPACK_SUCCESS &&
	    !read_head(&message.data, &head))
		answer = execute(&message.data, &head);
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
		free(t->answer.data); /* of another session, whose request was under way */
		t->answer = answer;
		t->unsent = true;
		eventfd_write(bell, 1);
	}
	return NULL;
}

void task_lead(void)
{
	pthread_mutex_lock(&lead);
	stood_in_for = !pthread_equal(pthread_self(), main_loop);
}

void task_leave(void)
{
	stood_in_for = false;
	pthread_mutex_unlock(&lead);
}

bool task_away(unsigned *times)
{
	*times = times_away;
	return away;
}

/* Serve a request of task 0 in its turn; who stands in for the main loop goes on leading. */
static struct bytes serve_here(struct bytes request)
{
	if (!pthread_equal(pthread_self(), main_loop))
		return serve(request);
	times_away++;
	away = true;
	task_leave();
	struct bytes answer = serve(request);
	away = false;
	if (stood_in_for)
		eventfd_write(bell, 1);
	task_lead();
	return answer;
}

int task_init(void)
{
	main_loop = pthread_self();
	bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return bell;
}

void task_submit(char *body, size_t len)
{
	msgpack_unpacked message;
	struct head head = { 0 };

	msgpack_unpacked_init(&message);
	bool good = msgpack_unpack_next(&message, body, len, NULL) == MSGPACK_UNPACK_SUCCESS &&
		    !read_head(&message.data, &head);
	msgpack_unpacked_destroy(&message);
	if (!good) {
		fprintf(stderr, "cpumap-lab: a malformed request was dropped\n");
		free(body);
		return;
	}
	struct task *t = &tasks[head.task];
	pthread_mutex_lock(&lock);
	if (head.session != t->session) {
		t->session = head.session;
		t->seq = 0;
	}
	if (head.seq <= t->seq) { /* seen before: answer again, or let it finish */
		t->unsent = head.seq == t->seq && t->answer.data;
		pthread_mutex_unlock(&lock);
		free(body);
		return;
	}
	t->seq = head.seq;
	free(t->answer.data);
	t->answer = (struct bytes){ 0 };
	if (head.task == 0) {
		pthread_mutex_unlock(&lock);
		struct bytes answer = serve_here((struct bytes){ body, len });
		pthread_mutex_lock(&lock);
		if (head.session != t->session) { /* somebody stood in, and another host came */
			free(answer.data);
		} else {
			t->answer = answer;
			t->unsent = true;
		}
	} else {
		free(t->request.data); /* an older session's that no thread took yet */
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
