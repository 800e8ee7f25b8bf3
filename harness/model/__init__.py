"""The executable cpumap: what kernel/bpf/cpumap.c must answer, per kernel version and config.

Pure: no QEMU, no guest. Methods bear the names of the C functions; a leading `__` is left out,
since Python would mangle it. What answers with an errno answers 0 or a positive number.
"""
