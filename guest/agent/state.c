// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ops.h"

#define DEPTH 16
#define CONTENT 65536

atomic_bool leaving;
bool may_leave;

static uint32_t walk(char *path, size_t end, const char *name, int depth, msgpack_packer *out,
		     char *content)
{
	uint32_t found = 0;
	struct stat st;
	DIR *dir = opendir(path);

	for (struct dirent *e; dir && (e = readdir(dir));) {
		int len = snprintf(path + end, PATH_MAX - end, "/%s", e->d_name);
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || len < 0 ||
		    end + len >= PATH_MAX || lstat(path, &st))
			continue;
		if (S_ISDIR(st.st_mode) && depth < DEPTH) {
			found += walk(path, end + len, name, depth + 1, out, content);
		} else if (S_ISREG(st.st_mode) && (!*name || !strcmp(name, e->d_name))) {
			ssize_t n = -1;
			int fd = -1;
			if (st.st_mode & 0444)
				fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
			if (fd >= 0) {
				n = read(fd, content, CONTENT);
				close(fd);
			}
			msgpack_pack_array(out, 2);
			pack_str(out, path);
			if (n < 0)
				msgpack_pack_nil(out);
			else
				pack_bytes(out, content, n);
			found++;
		}
	}
	if (dir)
		closedir(dir);
	path[end] = 0;
	return found;
}

/*
 * tree(path, name): [[path, bytes] …] of all files below a directory, or of those of this name;
 * nil for the bytes of what cannot be read. No link is followed. Nothing if there is no directory.
 */
int op_tree(const struct args *args, msgpack_packer *out, char *why)
{
	char path[PATH_MAX], name[256];
	msgpack_sbuffer files;
	msgpack_packer pk;

	(void)why;
	if (arg_str(args, 0, path, sizeof(path)) || arg_str(args, 1, name, sizeof(name)))
		return -EINVAL;
	char *content = malloc(CONTENT);
	if (!content)
		return -ENOMEM;
	msgpack_sbuffer_init(&files);
	msgpack_packer_init(&pk, &files, msgpack_sbuffer_write);
	uint32_t found = walk(path, strlen(path), name, 0, &pk, content);
	free(content);
	msgpack_pack_array(out, found);
	msgpack_sbuffer_write(out->data, files.data, files.size);
	msgpack_sbuffer_destroy(&files);
	return 0;
}

/* leave(): the agent ends once it has answered, and another one, all new, serves in its place. */
int op_leave(const struct args *args, msgpack_packer *out, char *why)
{
	(void)args;
	if (!may_leave) {
		strcpy(why, "nobody would take the agent's place");
		return -EPERM;
	}
	leaving = true;
	msgpack_pack_nil(out);
	return 0;
}
