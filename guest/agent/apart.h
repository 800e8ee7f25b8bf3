/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A world of the agent's own on a machine that is not ours: its root, network, mounts, pins and
 * tracing are like those of our guests, and go with it.
 */
#ifndef APART_H
#define APART_H

/*
 * Have an empty directory in memory, with the BPF objects of another directory in /bpf, as the root,
 * in a mount namespace of one's own.
 */
void make_root(const char *dir);
/* Mount the pseudo file systems where they belong. */
void mount_all(void);
/*
 * Enter that world with the BPF objects of a directory and return in a child of the process; the
 * process itself takes away behind the child what the kernel does not.
 */
void go_apart(const char *dir);
/*
 * Delete the entries of all cpumaps that are open: an entry whose program redirects to its own map
 * holds that for ever (kernel/bpf/cpumap.c has no map_release_uref). Safe in a signal handler.
 */
void empty_cpumaps(void);

#endif
