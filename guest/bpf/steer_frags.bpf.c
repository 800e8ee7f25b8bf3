// SPDX-License-Identifier: GPL-2.0-only
/* steer.bpf.c for frames in several buffers. */
#define FRAGS
#include "steer.bpf.c"
