"""The contract of kernel/bpf/cpumap.c as the cases state it: what does what, since when."""
