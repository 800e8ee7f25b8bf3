// SPDX-License-Identifier: GPL-2.0-only
/* entry_look.bpf.c for frames in several buffers. */
#define FRAGS
#include "entry_look.bpf.c"
