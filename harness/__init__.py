"""cpumap-lab: integration tests for kernel/bpf/cpumap.c on real kernels."""
