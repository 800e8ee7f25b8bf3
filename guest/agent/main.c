// SPDX-License-Identifier: GPL-2.0-only
/*
 * cpumap-lab's guest agent. As PID 1 of the guest it mounts the pseudo file systems, loads the
 * modules that the initramfs lists, finds its virtio-serial port and serves the host. Started as
 * an ordinary program it serves stdin and stdout, until they close; with `--apart DIR SECONDS` it
 * does so in a world of its own (apart.h), as root of a machine that is not ours, until it has heard
 * nothing for so long: a network may be gone without a word. `--within DIR` is for a
 * guest that has another root and another init: modules and objects lie in DIR, the rest is as for
 * PID 1. Mechanism only.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "apart.h"
#include "link.h"
#include "ops.h"
#include "task.h"

#define PORT_NAME "cpumap-lab.agent"
#define PORTS "/sys/class/virtio-ports"
#define LEFT 75 /* exit status of who leaves its place to another */

static void say_to_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		return;
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	setvbuf(stdout, NULL, _IONBF, 0);
	printf("cpumap-lab: init\n");
}

static void load_modules(void)
{
	char name[256], path[300];
	FILE *order = fopen("modules/order", "re");

	while (order && fgets(name, sizeof(name), order)) {
		name[strcspn(name, "\n")] = 0;
		snprintf(path, sizeof(path), "modules/%s", name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
			fprintf(stderr, "cpumap-lab: module %s: %m\n", name);
		if (fd >= 0)
			close(fd);
	}
	if (order)
		fclose(order);
}

static int open_port(void)
{
	char path[512], name[64];
	int fd = -1;
	DIR *ports = opendir(PORTS);

	for (struct dirent *e; ports && fd < 0 && (e = readdir(ports));) {
		snprintf(path, sizeof(path), PORTS "/%s/name", e->d_name);
		FILE *f = fopen(path, "re");
		if (f && fgets(name, sizeof(name), f) && !strncmp(name, PORT_NAME, strlen(PORT_NAME))) {
			snprintf(path, sizeof(path), "/dev/%s", e->d_name);
			fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		}
		if (f)
			fclose(f);
	}
	if (ports)
		closedir(ports);
	return fd;
}

static struct link host;
static bool stays; /* whether it waits for another host when one has gone */
static unsigned alone_s; /* it ends when it has heard nothing for so long; 0: it waits */

static void finish(void)
{
	empty_cpumaps();
	_exit(0);
}

static void end_alone(int signal)
{
	static const char why[] = "cpumap-lab: nothing was heard from the lab\n";

	(void)signal;
	(void)!write(2, why, sizeof(why) - 1);
	finish();
}
static int bell;

/* Take what the host has sent and send what there is for it; false when it is not there. */
static bool turn(void)
{
	struct pollfd ready[2] = {
		{ .fd = host.from, .events = POLLIN },
		{ .fd = bell, .events = POLLIN },
	};
	char *body;
	size_t len;

	/* the time-out is a second chance for a wake-up that the console driver lost */
	poll(ready, 2, 500);
	size_t before = host.len;
	bool gone = link_fill(&host) < 0;
	if (host.len != before)
		alarm(alone_s);
	while (link_take(&host, &body, &len))
		task_submit(body, len);
	while (task_answer(&body, &len)) {
		link_send(&host, body, len);
		free(body);
	}
	if (leaving)
		_exit(LEFT);
	if (gone && !stays)
		finish();
	return !gone;
}

/* Lead the loop while the main loop is away for long. */
static void *stand_in(void *arg)
{
	unsigned before, now = 0;

	for (;;) {
		before = now;
		usleep(500000);
		if (!task_away(&now) || now != before)
			continue;
		task_lead();
		while (task_away(&now))
			if (!turn())
				usleep(5000);
		task_leave();
	}
	return arg;
}

static void serve(int from, int to)
{
	pthread_t thread;

	host = (struct link){ .from = from, .to = to };
	bell = task_init();
	task_lead();
	if (pthread_create(&thread, NULL, stand_in, NULL))
		fprintf(stderr, "cpumap-lab: nobody can stand in for the main loop\n");
	for (;;)
		if (!turn())
			usleep(5000); /* the host is not there (yet, or any more) */
}

/* As in a guest of ours, 0 and 1 are nothing that the host could miss: cases use them. */
static void serve_standard_streams(void)
{
	int from = fcntl(0, F_DUPFD_CLOEXEC, 3), to = fcntl(1, F_DUPFD_CLOEXEC, 3);

	if (from < 0 || to < 0 || dup2(2, 0) < 0 || dup2(2, 1) < 0) {
		fprintf(stderr, "cpumap-lab: standard streams: %m\n");
		return;
	}
	fcntl(from, F_SETFL, fcntl(from, F_GETFL) | O_NONBLOCK);
	signal(SIGALRM, end_alone);
	alarm(alone_s);
	serve(from, to);
}

/*
 * Return in a child, which is to serve; when it leaves, in another, which has nothing of the
 * first's: no descriptor, thread, child, namespace or capability. When one ends, so do all.
 */
static void supervise(void)
{
	int status;

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	may_leave = true;
	for (;;) {
		pid_t pid = fork();
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			setpgid(0, 0);
			return;
		}
		if (pid < 0 || waitpid(pid, &status, 0) < 0)
			_exit(1);
		kill(-pid, SIGKILL);
		while (waitpid(-1, NULL, 0) > 0)
			;
		if (!WIFEXITED(status) || WEXITSTATUS(status) != LEFT)
			_exit(1);
	}
}

int main(int argc, char **argv)
{
	bool within = argc == 3 && !strcmp(argv[1], "--within");
	int fd = -1;

	signal(SIGPIPE, SIG_IGN);
	setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){ RLIM_INFINITY, RLIM_INFINITY });
	if (getpid() != 1 && !within) {
		if (argc == 4 && !strcmp(argv[1], "--apart")) {
			go_apart(argv[2]);
			alone_s = atoi(argv[3]);
		}
		serve_standard_streams();
		return 0;
	}
	if (within) {
		say_to_console();
		if (chdir(argv[2]))
			fprintf(stderr, "cpumap-lab: %s: %m\n", argv[2]);
		load_modules();
		make_root("bpf");
		mount_all();
	} else {
		mount_all();
		say_to_console();
		load_modules();
	}
	/* the port appears some time after the driver has probed */
	for (int i = 0; fd < 0 && i < 2000; i++) {
		fd = open_port();
		if (fd < 0)
			usleep(10000);
	}
	if (fd < 0) {
		fprintf(stderr, "cpumap-lab: no virtio-serial port named " PORT_NAME "\n");
		sync();
		reboot(RB_POWER_OFF);
	}
	printf("cpumap-lab: agent ready\n");
	if (within)
		supervise();
	stays = true;
	serve(fd, fd);
}
