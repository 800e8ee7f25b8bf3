/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tasks run the host's requests. Task 0 is the main loop itself: quick and in order. Others are
 * threads, for calls that may block (a map update waits for the new kthread's first run).
 *
 * While the main loop is at a request it is away, and another thread may lead the loop instead: a
 * kernel that keeps the one for good leaves the other for questions about it.
 *
 * Requests are remembered: one that comes again (the host resends when it hears nothing, as a
 * virtio console can lose a wake-up) is answered from memory or left to finish, never run twice.
 */
#ifndef TASK_H
#define TASK_H

#include <stdbool.h>
#include <stddef.h>

/* The descriptor that becomes readable when a thread has an answer. */
int task_init(void);
/* Take a request; the body is ours from here. */
void task_submit(char *body, size_t len);
/* The next answer to send; 0 when there is none. The caller frees it. */
int task_answer(char **body, size_t *len);
/* Lead the loop from here on, until it is left to another. */
void task_lead(void);
void task_leave(void);
/* Whether the main loop is away, and how often it has been so far. */
bool task_away(unsigned *times);

#endif
