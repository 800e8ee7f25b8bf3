"""Becomes QEMU, with descriptors that the harness hands over.

A program by itself, which virtme-ng is given as its QEMU: on the way through its shells and
programs an inherited descriptor is lost, and so is the leash that ends QEMU with the harness.
`handover.py CONFIG [ARGUMENT…]`; CONFIG is JSON: `argv` and `env` of QEMU, `directory` with the
socket `handover`, `first` (the number that the first descriptor gets), `parent` (the harness), and
`console`, which replaces virtme-ng's own back-end of that name: it would drop what comes there, and
a kernel has but one serial console.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sys

MAX_FDS = 256


def main() -> None:
    """Receive the descriptors, tell the own pid, and become QEMU."""
    with open(sys.argv[1], encoding="utf-8") as file:
        config = json.load(file)
    given = [
        config["console"] if word.startswith("file,id=console,") else word for word in sys.argv[2:]
    ]
    argv = [*config["argv"], *given]
    os.environ.update(config["env"])
    if "-kernel" in argv:  # else it is only asked for its version
        harness = os.pidfd_open(config["parent"])
        own = os.pidfd_open(os.getpid())
        here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        os.chdir(config["directory"])
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect("handover")
            _, received, _, _ = socket.recv_fds(sock, 1, MAX_FDS)
            sock.sendall(b"%d\n" % os.getpid())
        os.fchdir(here)
        for number, fd in enumerate(received, config["first"]):
            # small numbers may be virtme-ng's own
            if fcntl.fcntl(fd, fcntl.F_DUPFD, number) != number:
                raise OSError(f"descriptor {number} is taken")
            os.close(fd)
        if os.fork() == 0:
            _watch(harness, own)
    os.execv(argv[0], argv)


def _watch(harness: int, qemu: int) -> None:
    """End QEMU with the harness, and oneself with QEMU."""
    os.closerange(0, min(harness, qemu))
    ended = [fd for fd, _ in _poll(harness, qemu)]
    if qemu not in ended:
        signal.pidfd_send_signal(qemu, signal.SIGKILL)
    os._exit(0)


def _poll(*fds: int) -> list[tuple[int, int]]:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return poll.poll()


if __name__ == "__main__":
    main()
