// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include "apart.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRACING "/sys/kernel/tracing"
#define RMDIR_TRIES 500 /* of 20 ms each */

static void die(const char *what)
{
	fprintf(stderr, "cpumap-lab: %s: %m\n", what);
	exit(1);
}

void mount_all(void)
{
	static const char *const table[][3] = {
		{ "proc", "/proc", "proc" },
		{ "sysfs", "/sys", "sysfs" },
		{ "devtmpfs", "/dev", "devtmpfs" },
		{ "tmpfs", "/tmp", "tmpfs" },
		{ "bpf", "/sys/fs/bpf", "bpf" },
		{ "debugfs", "/sys/kernel/debug", "debugfs" },
		{ "tracefs", TRACING, "tracefs" },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		mkdir(table[i][1], 0755);
		if (mount(table[i][0], table[i][1], table[i][2], 0, NULL))
			fprintf(stderr, "cpumap-lab: mount %s: %m\n", table[i][1]);
	}
}

static void copy(const char *from, const char *to)
{
	struct stat size;
	off_t done = 0;
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

	if (in < 0 || out < 0 || fstat(in, &size))
		die(from);
	while (done < size.st_size)
		if (sendfile(out, in, &done, size.st_size - done) <= 0)
			die(to);
	close(in);
	close(out);
}

void make_root(const char *dir)
{
	char root[] = "/tmp", to[300];
	glob_t objects;
	int home = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (home < 0)
		die(dir);
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		die("mounts of one's own (it takes root)");
	if (mount("tmpfs", root, "tmpfs", 0, "mode=0755"))
		die("mount a tmpfs");
	if (fchdir(home) || glob("*.bpf.o", 0, NULL, &objects))
		die("find the BPF objects");
	mkdir("/tmp/bpf", 0755);
	for (size_t i = 0; i < objects.gl_pathc; i++) {
		snprintf(to, sizeof(to), "/tmp/bpf/%s", objects.gl_pathv[i]);
		copy(objects.gl_pathv[i], to);
	}
	globfree(&objects);
	close(home);
	if (chroot(root) || chdir("/"))
		die("chroot");
}

/* Whoever is apart changes nothing of the machine: sysctls, CPUs, drivers; only its own network. */
static void keep_out(void)
{
	static const char *const own[] = { "/proc/sys/net", "/sys/devices/virtual/net" };
	static const char *const others[] = { "/proc", "/sys", "/sys/kernel/debug" };

	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		if (mount(own[i], own[i], NULL, MS_BIND, NULL))
			die(own[i]);
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if (mount(NULL, others[i], NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) &&
		    errno != EINVAL) /* not mounted: there is no debugfs */
			die(others[i]);
}

/* Have a tracing instance of one's own where the machine's is; return where instances are. */
static int trace_apart(const char *name)
{
	char path[100];
	int instances = open(TRACING "/instances", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (instances < 0 || mkdirat(instances, name, 0700))
		die(TRACING "/instances");
	snprintf(path, sizeof(path), TRACING "/instances/%s", name);
	if (mount(path, TRACING, NULL, MS_BIND, NULL)) {
		unlinkat(instances, name, AT_REMOVEDIR);
		die(path);
	}
	return instances;
}

/* The kernel takes away what is in a namespace, but not this. */
static int clear_up(int instances, const char *name)
{
	for (int i = 0; i < RMDIR_TRIES; i++) {
		if (!unlinkat(instances, name, AT_REMOVEDIR) || errno == ENOENT)
			return 0;
		usleep(20000); /* EBUSY: a child of the agent's is about to close it */
	}
	fprintf(stderr, "cpumap-lab: left behind: " TRACING "/instances/%s: %m\n", name);
	return 1;
}

void empty_cpumaps(void)
{
	struct rlimit files;

	getrlimit(RLIMIT_NOFILE, &files);
	for (int fd = 0; fd < (int)files.rlim_cur; fd++) {
		struct bpf_map_info info = {};
		uint32_t len = sizeof(info);
		if (bpf_obj_get_info_by_fd(fd, &info, &len) || info.type != BPF_MAP_TYPE_CPUMAP)
			continue;
		for (uint32_t cpu = 0; cpu < info.max_entries; cpu++)
			bpf_map_delete_elem(fd, &cpu); /* of a program, whose type may be the same, none */
	}
}

void go_apart(const char *dir)
{
	static const int ends[] = { SIGHUP, SIGINT, SIGTERM };
	char name[40];
	int status;

	snprintf(name, sizeof(name), "cpumap-lab-%d", getpid());
	if (unshare(CLONE_NEWNET))
		die("a network of one's own (it takes root)");
	make_root(dir);
	mount_all();
	keep_out();
	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
		signal(ends[i], SIG_IGN);
	int instances = trace_apart(name);
	pid_t parent = getpid(), child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			exit(1);
		for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
			signal(ends[i], SIG_DFL);
		close(instances);
		return;
	}
	close(0);
	close(1);
	if (child > 0)
		waitpid(child, &status, 0);
	exit(clear_up(instances, name));
}
