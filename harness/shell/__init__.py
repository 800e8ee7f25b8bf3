"""`cpumap-lab shell`: a prompt in a guest, be it fresh or as a failed run left it."""
