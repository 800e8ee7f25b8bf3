"""Which lines and branches of cpumap.c the cases reach, on a kernel built with gcov."""
