"""What there is in a running system that a case could leave changed, and what has changed since.

It is asked of the agent, so it works for whatever machine an agent runs on as root: a guest that
cannot be cloned, or any other. `harness.reset` brings the system back to an inventory and proves it
by another one.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from harness.agent.bpf import (
    ATTR_BYTES,
    BTF_GET_NEXT_ID,
    ENOENT,
    LINK_GET_NEXT_ID,
    MAP_GET_FD_BY_ID,
    MAP_GET_NEXT_ID,
    PROG_GET_FD_BY_ID,
    PROG_GET_NEXT_ID,
    Descriptor,
    bpf,
)
from harness.agent.netlink import attributes, dump
from harness.agent.syscalls import Buffer
from harness.agent.tracer import ROOT as TRACEFS
from harness.errors import GuestError
from harness.trace.events import parse_stats

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from harness.agent.syscalls import Syscalls

RTM_GETLINK, RTM_GETADDR, RTM_GETQDISC, RTM_GETTFILTER = 18, 22, 38, 46
IFLA_IFNAME, IFLA_MTU, IFLA_ADDRESS, IFLA_XDP, IFLA_XDP_PROG_ID = 3, 4, 1, 43, 4
IFA_ADDRESS, TCA_KIND = 1, 1
CLSACT_HOOKS = (0xFFFFFFF2, 0xFFFFFFF3)
"""TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS) and …EGRESS (include/uapi/linux/pkt_sched.h)."""
IFF_CARRIER = 0x40 | 0x10000 | 0x20000
"""IFF_RUNNING, IFF_LOWER_UP and IFF_DORMANT follow the carrier, in their own time."""
SYSCTLS = "/proc/sys"
VOLATILE = re.compile(
    r"/proc/sys/(fs/(dentry-state|file-nr|inode-nr|inode-state|aio-nr|quota/|binfmt_misc/)"
    r"|kernel/(random/|ns_last_pid|pty/nr|\w+_count$|sched_domain/|osrelease$)"
    r"|net/netfilter/nf_conntrack_count|net/ipv4/tcp_fastopen_key|vm/(stat_refresh|nr_hugepages)"
    r"|dev/cdrom/|net/\w+/(conf|neigh)/)"
)
"""Counters and dice; and what interfaces have for themselves: it comes and goes with them."""
OWN_CONF = re.compile(r"/proc/sys/net/\w+/(conf|neigh)/([^/]+)/")
KNOBS = (
    ("/proc/irq", "smp_affinity_list"),
    ("/sys/devices/virtual/workqueue", "cpumask"),
    ("/sys/kernel/debug/sched", "runtime"),
    ("/sys/kernel/debug/failslab", ""),
    ("/sys/kernel/debug/fail_page_alloc", ""),
)
"""Settings outside /proc/sys that the lab touches: directories, and names of files ("": all)."""
SETTINGS = ("buffer_size_kb", "current_tracer", "kprobe_events", "uprobe_events", "set_event_pid",
            "set_ftrace_filter", "trace_clock", "tracing_cpumask", "tracing_on")  # fmt: skip
PINS = "/sys/fs/bpf"
TRANSIENT = ("kworker/", "(udev-worker)", "modprobe", "kauditd")
"""Tasks that the kernel, or udev, starts and ends as it sees fit."""
WATCH = f"{TRACEFS}/instances/cpumap-lab"
POOL = re.compile(r"page_pool_release: page_pool=(\w+) inflight=(-?\d+)")


@dataclass(frozen=True)
class Inventory:
    """What there is, by kind ("program", "sysctl", …): of each thing its name and what it is."""

    kinds: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __getitem__(self, kind: str) -> Mapping[str, str]:
        return self.kinds[kind]

    def differences(self, after: Inventory) -> list[str]:
        """Return what is otherwise in a later inventory, each in a line for people."""
        return [
            told
            for kind, before in self.kinds.items()
            for told in _compare(kind, before, after.kinds[kind])
        ]


def _compare(kind: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    for name in before.keys() | after.keys():
        was, now = before.get(name), after.get(name)
        if was is None:
            yield f"{kind} {name} is new ({now})" if now else f"{kind} {name} is new"
        elif now is None:
            yield f"{kind} {name} is gone ({was})" if was else f"{kind} {name} is gone"
        elif was != now:
            yield f"{kind} {name} was {was!r} and is {now!r}"


def take_inventory(calls: Syscalls) -> Inventory:
    """List all there is. `watch_pools` must have been called in the system before.

    Raises:
        GuestError: the system does not tell; the agent has to be root.
    """
    files = dict(_tree(calls, SYSCTLS))
    return Inventory(
        {
            "program": _objects(calls, PROG_GET_NEXT_ID, PROG_GET_FD_BY_ID),
            "map": _objects(calls, MAP_GET_NEXT_ID, MAP_GET_FD_BY_ID),
            "BPF link": _objects(calls, LINK_GET_NEXT_ID),
            "BTF object": _objects(calls, BTF_GET_NEXT_ID),
            "pinned object": {path: "" for path, _ in _tree(calls, PINS)},
            "task": _tasks(calls),
            "page pool in use": _pools(calls),
            "sysctl": {path: text for path, text in files.items() if not VOLATILE.match(path)},
            "sysctl of an interface": {
                path: text for path, text in files.items() if OWN_CONF.match(path)
            },
            "setting": dict(
                entry for directory, name in KNOBS for entry in _tree(calls, directory, name)
            ),
            "tracing": _tracing(calls),
            "mount": _mounts(calls),
            "CPU": {number: "" for number in sorted(_online(calls))},
            **_network(calls),
        }
    )


def watch_pools(calls: Syscalls) -> None:
    """Have the kernel tell of page pools that are being released, from here on.

    A pool that has pages out when its owner has gone is tried again each second
    (page_pool_release_retry, net/core/page_pool.c); the kernel has no list of those.

    Raises:
        GuestError: the kernel lacks tracefs, or instances of it.
    """
    calls.raw("mkdir", f"{WATCH}\0".encode(), 0o700)
    calls.link.call("write", f"{WATCH}/buffer_size_kb", b"16")
    try:
        calls.link.call("write", f"{WATCH}/events/page_pool/page_pool_release/enable", b"1")
    except GuestError as error:
        if error.errno != ENOENT:
            raise  # without the event there are no page pools


def unwatch_pools(calls: Syscalls) -> None:
    """Take back `watch_pools`.

    Raises:
        GuestError: somebody is at it.
    """
    calls.must("rmdir", f"{WATCH}\0".encode(), why=WATCH)


def read(calls: Syscalls, path: str) -> str:
    """Return the text of a file, stripped.

    Raises:
        GuestError: it cannot be read.
    """
    content: bytes = calls.link.call("read", path, 1 << 20)
    return content.decode("utf-8", "replace").strip()


def _tree(calls: Syscalls, path: str, name: str = "") -> Iterator[tuple[str, str]]:
    for file, content in calls.link.call("tree", path, name):
        yield file, "" if content is None else content.decode("utf-8", "replace").strip()


def _objects(calls: Syscalls, command: int, by_id: int | None = None) -> dict[str, str]:
    """List a kind of BPF objects by id, programs and maps with their names."""
    found: dict[str, str] = {}
    last = 0
    while True:
        answer, last = _next_id(calls, command, last)
        if answer:
            return found
        found[str(last)] = _name(calls, by_id, last) if by_id is not None else ""


def _next_id(calls: Syscalls, command: int, last: int) -> tuple[int, int]:
    """Return errno and the id that follows on another (BPF_*_GET_NEXT_ID).

    Raises:
        GuestError: it may not be asked.
    """
    union = Buffer(struct.pack("<II", last, 0).ljust(ATTR_BYTES, b"\0"), returned=True)
    result = calls.raw("bpf", command, union, ATTR_BYTES)
    if result.errno != ENOENT:
        result.must("BPF_*_GET_NEXT_ID")
    return result.errno, int(struct.unpack_from("<I", union.content, 4)[0])


def _name(calls: Syscalls, by_id: int, number: int) -> str:
    result = bpf(calls, by_id, struct.pack("<I", number))
    if result.errno:
        return ""  # it has gone since
    descriptor = Descriptor(calls, result.value)
    info = descriptor.info()
    descriptor.close()
    at = 64 if by_id == PROG_GET_FD_BY_ID else 24
    return info[at : at + 16].partition(b"\0")[0].decode()


def _tasks(calls: Syscalls) -> dict[str, str]:
    agent = int(read(calls, "/proc/self/stat").split()[0])  # another after each reset
    found = calls.link.call("threads", "")
    return {str(pid): comm for pid, comm in found
            if pid != agent and not comm.startswith(TRANSIENT)}  # fmt: skip


def _pools(calls: Syscalls) -> dict[str, str]:
    """Return the pools whose last release left pages out, and how many."""
    last = dict(POOL.findall(read(calls, f"{WATCH}/trace")))
    return {pool: inflight for pool, inflight in last.items() if inflight != "0"}


def _tracing(calls: Syscalls) -> dict[str, str]:
    found = {}
    for name in SETTINGS:
        try:
            found[name] = read(calls, f"{TRACEFS}/{name}")
        except GuestError as error:
            if error.errno != ENOENT:
                raise  # else the kernel was built without it
    for event in read(calls, f"{TRACEFS}/set_event").split():
        found[f"event {event}"] = ""
    for cpu in _online(calls):
        stats = parse_stats(int(cpu), read(calls, f"{TRACEFS}/per_cpu/cpu{cpu}/stats"))
        found[f"ring of CPU {cpu}"] = f"{stats.entries} unread, {stats.overrun} lost"
    return found


def _online(calls: Syscalls) -> list[str]:
    cpus: list[str] = []
    for part in read(calls, "/sys/devices/system/cpu/online").split(","):
        first, _, last = part.partition("-")
        cpus += [str(cpu) for cpu in range(int(first), int(last or first) + 1)]
    return cpus


def _mounts(calls: Syscalls) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in read(calls, "/proc/self/mountinfo").splitlines():
        front, _, back = line.partition(" - ")
        place = front.split()[4]
        found[place] = " over ".join(filter(None, (back, found.get(place))))
    return found


def _network(calls: Syscalls) -> dict[str, dict[str, str]]:
    links: dict[str, str] = {}
    names: dict[int, str] = {}
    for message in dump(calls, RTM_GETLINK, bytes(16)):
        index, flags = struct.unpack_from("<4xiI", message)
        about = attributes(message[16:])
        name = names[index] = about[IFLA_IFNAME].rstrip(b"\0").decode()
        mtu = int.from_bytes(about[IFLA_MTU], "little")
        mac = about.get(IFLA_ADDRESS, b"").hex(":")
        told = f"index {index}, flags {flags & ~IFF_CARRIER:#x}, MTU {mtu}, address {mac}"
        xdp = attributes(about.get(IFLA_XDP, b"")).get(IFLA_XDP_PROG_ID)
        links[name] = told + (f", XDP program {int.from_bytes(xdp, 'little')}" if xdp else "")
    addresses: dict[str, str] = {}
    for message in dump(calls, RTM_GETADDR, bytes(8)):
        prefix, scope, index = struct.unpack_from("<xBxBI", message)
        address = ip_address(attributes(message[8:])[IFA_ADDRESS])
        addresses[f"{address}/{prefix} of {names.get(index, index)}"] = f"scope {scope}"
    clsacts: dict[str, str] = {}
    filters: dict[str, str] = {}
    for message in dump(calls, RTM_GETQDISC, bytes(20)):
        (index,) = struct.unpack_from("<4xi", message)
        kind = attributes(message[20:])[TCA_KIND].rstrip(b"\0").decode()
        if kind != "clsact":
            continue  # the kernel makes and numbers the others itself
        clsacts[f"clsact of {names.get(index, index)}"] = ""
        for hook in CLSACT_HOOKS:
            asked = struct.pack("<B3xiIII", 0, index, 0, hook, 0)
            for number, rule in enumerate(dump(calls, RTM_GETTFILTER, asked)):
                kind = attributes(rule[20:]).get(TCA_KIND, b"").rstrip(b"\0").decode()
                filters[f"{number} at {hook:#x} of {names.get(index, index)}"] = kind
    return {"interface": links, "address": addresses, "qdisc": clsacts, "filter": filters}
