// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include "ops.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "link.h"

#define BUFFERS 16

int arg_int(const struct args *args, uint32_t at, int64_t *value)
{
	if (at >= args->count)
		return -EINVAL;
	const msgpack_object *o = &args->item[at];
	if (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER)
		*value = (int64_t)o->via.u64;
	else if (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
		*value = o->via.i64;
	else
		return -EINVAL;
	return 0;
}

int arg_bin(const struct args *args, uint32_t at, const char **data, uint32_t *len)
{
	if (at >= args->count || args->item[at].type != MSGPACK_OBJECT_BIN)
		return -EINVAL;
	*data = args->item[at].via.bin.ptr;
	*len = args->item[at].via.bin.size;
	return 0;
}

int arg_str(const struct args *args, uint32_t at, char *value, size_t size)
{
	if (at >= args->count || args->item[at].type != MSGPACK_OBJECT_STR ||
	    args->item[at].via.str.size >= size)
		return -EINVAL;
	memcpy(value, args->item[at].via.str.ptr, args->item[at].via.str.size);
	value[args->item[at].via.str.size] = 0;
	return 0;
}

void pack_str(msgpack_packer *out, const char *text)
{
	msgpack_pack_str(out, strlen(text));
	msgpack_pack_str_body(out, text, strlen(text));
}

void pack_bytes(msgpack_packer *out, const void *data, size_t len)
{
	msgpack_pack_bin(out, len);
	msgpack_pack_bin_body(out, data, len);
}

/*
 * syscall(nr, [a0 … a5], buffers, pointers, returned): any system call, its memory marshalled.
 * An argument is an integer, or [i] for the address of buffer i. A buffer is bytes, or a number
 * of zero bytes. A pointer [i, offset, j, at] stores the address of what is at `at` in buffer j in
 * buffer i. `returned` lists the buffers wanted back. Result: [return value, errno, buffers].
 */
int op_syscall(const struct args *args, msgpack_packer *out, char *why)
{
	char *buffer[BUFFERS] = { 0 };
	size_t size[BUFFERS] = { 0 };
	long a[6] = { 0 };
	int64_t nr;
	int err = -EINVAL;

	strcpy(why, "malformed syscall request");
	if (args->count != 5 || arg_int(args, 0, &nr))
		return -EINVAL;
	for (int i = 1; i < 5; i++)
		if (args->item[i].type != MSGPACK_OBJECT_ARRAY)
			return -EINVAL;
	const msgpack_object_array *values = &args->item[1].via.array;
	const msgpack_object_array *buffers = &args->item[2].via.array;
	const msgpack_object_array *pointers = &args->item[3].via.array;
	const msgpack_object_array *returned = &args->item[4].via.array;
	if (values->size > 6 || buffers->size > BUFFERS)
		return -EINVAL;

	for (uint32_t i = 0; i < buffers->size; i++) {
		const msgpack_object *o = &buffers->ptr[i];
		bool bytes = o->type == MSGPACK_OBJECT_BIN;
		if (!bytes && o->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
			goto done;
		size[i] = bytes ? o->via.bin.size : o->via.u64;
		if (size[i] > BODY_MAX)
			goto done;
		buffer[i] = calloc(1, size[i] + 1);
		if (!buffer[i]) {
			err = -ENOMEM;
			goto done;
		}
		if (bytes)
			memcpy(buffer[i], o->via.bin.ptr, size[i]);
	}
	for (uint32_t i = 0; i < pointers->size; i++) {
		const msgpack_object *o = &pointers->ptr[i];
		int64_t in, offset, to, at;
		if (o->type != MSGPACK_OBJECT_ARRAY)
			goto done;
		struct args p = { o->via.array.ptr, o->via.array.size };
		if (arg_int(&p, 0, &in) || arg_int(&p, 1, &offset) || arg_int(&p, 2, &to) ||
		    arg_int(&p, 3, &at))
			goto done;
		if (in < 0 || in >= buffers->size || to < 0 || to >= buffers->size || offset < 0 ||
		    (uint64_t)offset + 8 > size[in] || at < 0 || (uint64_t)at > size[to])
			goto done;
		char *address = buffer[to] + at;
		memcpy(buffer[in] + offset, &address, sizeof(address));
	}
	for (uint32_t i = 0; i < values->size; i++) {
		const msgpack_object *o = &values->ptr[i];
		struct args list = { values->ptr, values->size };
		int64_t value;
		if (o->type == MSGPACK_OBJECT_ARRAY) {
			struct args p = { o->via.array.ptr, o->via.array.size };
			if (arg_int(&p, 0, &value) || value < 0 || value >= buffers->size)
				goto done;
			a[i] = (long)buffer[value];
		} else if (arg_int(&list, i, &value)) {
			goto done;
		} else {
			a[i] = value;
		}
	}
	for (uint32_t i = 0; i < returned->size; i++)
		if (returned->ptr[i].type != MSGPACK_OBJECT_POSITIVE_INTEGER ||
		    returned->ptr[i].via.u64 >= buffers->size)
			goto done;

	errno = 0;
	long ret = syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
	int failed = errno;
	msgpack_pack_array(out, 3);
	msgpack_pack_int64(out, ret);
	msgpack_pack_int(out, ret < 0 ? failed : 0);
	msgpack_pack_array(out, returned->size);
	for (uint32_t i = 0; i < returned->size; i++)
		pack_bytes(out, buffer[returned->ptr[i].via.u64], size[returned->ptr[i].via.u64]);
	err = 0;
done:
	for (int i = 0; i < BUFFERS; i++)
		free(buffer[i]);
	return err;
}

/* Read fd until it ends, would block, or `limit` bytes are there. */
static int slurp(int fd, size_t limit, char **data, size_t *len)
{
	size_t cap = 0;

	*data = NULL;
	*len = 0;
	while (*len < limit) {
		if (cap - *len < 65536) {
			cap = cap * 2 + 131072;
			char *more = realloc(*data, cap);
			if (!more)
				return -ENOMEM;
			*data = more;
		}
		size_t want = cap - *len < limit - *len ? cap - *len : limit - *len;
		ssize_t n = read(fd, *data + *len, want);
		if (n > 0)
			*len += n;
		else if (n == 0 || errno == EAGAIN)
			return 0;
		else if (errno != EINTR)
			return *len ? 0 : -errno;
	}
	return 0;
}

/* read(path, limit): the bytes of a file, whole or its first `limit`. */
int op_read(const struct args *args, msgpack_packer *out, char *why)
{
	char path[4096];
	int64_t limit;

	if (arg_str(args, 0, path, sizeof(path)) || arg_int(args, 1, &limit))
		return -EINVAL;
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0) {
		int err = -errno;
		snprintf(why, WHY_MAX, "open %s", path);
		return err;
	}
	char *data;
	size_t len;
	int err = slurp(fd, limit, &data, &len);
	close(fd);
	if (err)
		snprintf(why, WHY_MAX, "read %s", path);
	else
		pack_bytes(out, data, len);
	free(data);
	return err;
}

/* write(path, data): one write(2), as sysfs, procfs and tracefs want it; creates plain files. */
int op_write(const struct args *args, msgpack_packer *out, char *why)
{
	char path[4096];
	const char *data;
	uint32_t len;

	if (arg_str(args, 0, path, sizeof(path)) || arg_bin(args, 1, &data, &len))
		return -EINVAL;
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	ssize_t n = fd < 0 ? -1 : write(fd, data, len);
	int err = n < 0 ? -errno : 0;
	if (fd >= 0)
		close(fd);
	if (err)
		snprintf(why, WHY_MAX, "write %s", path);
	else
		msgpack_pack_int64(out, n);
	return err;
}

/* drain([fd …], limit): from each descriptor what can be read now, at most `limit` bytes. */
int op_drain(const struct args *args, msgpack_packer *out, char *why)
{
	int64_t limit, fd = -1;

	if (!args->count || args->item[0].type != MSGPACK_OBJECT_ARRAY || arg_int(args, 1, &limit))
		return -EINVAL;
	struct args fds = { args->item[0].via.array.ptr, args->item[0].via.array.size };
	msgpack_pack_array(out, fds.count);
	for (uint32_t i = 0; i < fds.count; i++) {
		char *data = NULL;
		size_t len = 0;
		int err = arg_int(&fds, i, &fd) ? -EINVAL : slurp(fd, limit, &data, &len);
		if (err == -ENODEV) /* the trace buffer of a CPU that was never online */
			err = 0;
		if (!err)
			pack_bytes(out, data, len);
		free(data);
		if (err) {
			snprintf(why, WHY_MAX, "drain descriptor %lld", (long long)fd);
			return err;
		}
	}
	return 0;
}

/* threads(prefix): [[pid, comm] …] of all processes whose comm starts with `prefix`. */
int op_threads(const struct args *args, msgpack_packer *out, char *why)
{
	char prefix[64], path[320], comm[64];

	(void)why;
	if (arg_str(args, 0, prefix, sizeof(prefix)))
		return -EINVAL;
	DIR *proc = opendir("/proc");
	if (!proc)
		return -errno;
	int pid[1024];
	char name[1024][64];
	uint32_t found = 0;
	for (struct dirent *e; (e = readdir(proc)) && found < 1024;) {
		if (e->d_name[0] < '0' || e->d_name[0] > '9')
			continue;
		snprintf(path, sizeof(path), "/proc/%s/comm", e->d_name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t n = fd < 0 ? 0 : read(fd, comm, sizeof(comm) - 1);
		if (fd >= 0)
			close(fd);
		if (n <= 0)
			continue; /* it ended in the meantime */
		comm[n] = 0;
		comm[strcspn(comm, "\n")] = 0;
		if (strncmp(comm, prefix, strlen(prefix)))
			continue;
		pid[found] = atoi(e->d_name);
		strcpy(name[found++], comm);
	}
	closedir(proc);
	msgpack_pack_array(out, found);
	for (uint32_t i = 0; i < found; i++) {
		msgpack_pack_array(out, 2);
		msgpack_pack_int(out, pid[i]);
		pack_str(out, name[i]);
	}
	return 0;
}

/* Take memory and keep it, in pages that none others are moved for. */
static int hoard(const char *bytes)
{
	size_t size = strtoull(bytes, NULL, 10);
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return -errno;
	madvise(memory, size, MADV_NOHUGEPAGE);
	memset(memory, 1, size);
	return 0;
}

static void become(const char *what, int cpu, char **argv)
{
	/* whoever burns a CPU or hoards memory keeps no map, program or link alive */
	if (!strcmp(what, "spin") || !strcmp(what, "hoard"))
		syscall(SYS_close_range, 0, ~0U, 0);
	if (!strcmp(what, "spin")) {
		/* driven from a CPU that goes offline, it would starve another */
		while (cpu < 0 || sched_getcpu() == cpu)
			__asm__ volatile("" ::: "memory");
		_exit(0);
	}
	if (!strcmp(what, "pause") || !strcmp(what, "hoard"))
		for (;;)
			pause();
	signal(SIGPIPE, SIG_DFL); /* what is ignored stays so across execve(2) */
	execve(argv[0], argv, (char *[]){ "PATH=/bin:/sbin:/usr/bin:/usr/sbin", NULL });
	_exit(127);
}

/*
 * spawn(what, argv, cpu, policy, priority): a child process that runs argv ("exec"), burns its
 * CPU ("spin", until that goes offline), holds the agent's descriptors open ("pause") or has
 * argv[0] bytes of memory ("hoard"). cpu < 0 leaves the affinity alone. Result: its pid. The class,
 * the CPU and the memory are set before this returns.
 */
int op_spawn(const struct args *args, msgpack_packer *out, char *why)
{
	char what[16];
	int64_t cpu, policy, priority;
	int ready[2], err = 0;

	if (arg_str(args, 0, what, sizeof(what)) || args->count != 5 ||
	    args->item[1].type != MSGPACK_OBJECT_ARRAY || arg_int(args, 2, &cpu) ||
	    arg_int(args, 3, &policy) || arg_int(args, 4, &priority))
		return -EINVAL;
	struct args given = { args->item[1].via.array.ptr, args->item[1].via.array.size };
	for (uint32_t i = 0; i < given.count; i++)
		if (given.item[i].type != MSGPACK_OBJECT_STR)
			return -EINVAL;
	bool takes = !strcmp(what, "exec") || !strcmp(what, "hoard");
	if (takes ? !given.count : strcmp(what, "spin") && strcmp(what, "pause"))
		return -EINVAL;
	if (pipe2(ready, O_CLOEXEC))
		return -errno;
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* nobody of ours outlives the agent */
		char *argv[64] = { 0 };
		for (uint32_t i = 0; i < given.count && i < 63; i++)
			argv[i] = strndup(given.item[i].via.str.ptr, given.item[i].via.str.size);
		struct sched_param param = { .sched_priority = priority };
		cpu_set_t set;
		CPU_ZERO(&set);
		if (cpu >= 0)
			CPU_SET(cpu, &set);
		if ((cpu >= 0 && sched_setaffinity(0, sizeof(set), &set)) ||
		    (policy && sched_setscheduler(0, policy, &param)))
			err = -errno;
		if (!err && !strcmp(what, "hoard"))
			err = hoard(argv[0]);
		if (write(ready[1], &err, sizeof(err)) < 0 || err)
			_exit(126);
		become(what, cpu, argv);
	}
	if (pid < 0 || read(ready[0], &err, sizeof(err)) != sizeof(err))
		err = -ECHILD;
	close(ready[0]);
	close(ready[1]);
	if (err)
		snprintf(why, WHY_MAX, "spawn %s on cpu %lld", what, (long long)cpu);
	else
		msgpack_pack_int(out, pid);
	return err;
}
