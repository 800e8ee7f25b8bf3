"""A running system brought back to what an inventory found in it, and the proof that it is.

For whatever cannot be cloned: the same system serves one case after the other. The agent is made
anew, and with it go all that only it held: descriptors (and so BPF objects), threads, children,
namespaces, capabilities, scheduling. What outlives a process is put back piece by piece. Then
everything is listed once more; a difference that stays is an error that names it, for the next
case would not have begun where this one did.
"""

from __future__ import annotations

import contextlib
import re
import struct
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING

from harness.agent.netlink import ask, attribute
from harness.agent.tracer import ROOT as TRACEFS
from harness.errors import GuestError, NotReset
from harness.inventory import WATCH, take_inventory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.agent.syscalls import Syscalls
    from harness.inventory import Inventory

RTM_DELLINK, RTM_SETLINK, RTM_NEWADDR, RTM_DELADDR, RTM_DELQDISC = 17, 19, 20, 21, 37
RTM_NEWQDISC = 36
NLM_F_CREATE = 0x400
IFLA_IFNAME, IFLA_MTU, IFLA_XDP, IFLA_XDP_FD = 3, 4, 43, 1
IFA_ADDRESS, IFA_LOCAL, TCA_KIND = 1, 2, 1
TC_H_CLSACT, CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
MNT_DETACH = 2
CLEAR_ONCE = "/sys/kernel/debug/clear_warn_once"
"""Has WARN_ONCE and pr_warn_once tell once more (kernel/panic.c, clear_warn_once_set; 4.15)."""
AF_INET, AF_INET6, SOCK_DGRAM = 2, 10, 2
LOOPBACK, DISCARD_PORT = b"\x7f\0\0\1", 9
CPUSET_BYTES = 1024
FEW = 10
POLL_S = 0.05


def reset(calls: Syscalls, before: Inventory, *, deadline_s: float) -> None:
    """Bring a system back to an inventory of it, and prove it.

    Args:
        calls: the agent; it is another process afterwards, without the descriptors of this one.
        before: what has to be there again.
        deadline_s: for what ends asynchronously: RCU grace periods, kthreads, page pools.

    Raises:
        NotReset: something is otherwise; it is named.
        GuestError: the system does not let itself be listed.
        AgentLost: it does not answer.
    """
    renew_agent(calls)
    put_back(calls, before, take_inventory(calls))
    deadline = time.monotonic() + deadline_s
    while left := before.differences(now := take_inventory(calls)):
        if time.monotonic() >= deadline:
            more = f" (and {len(left) - FEW} more)" if len(left) > FEW else ""
            raise NotReset(f"the run left behind: {'; '.join(sorted(left)[:FEW])}{more}")
        put_back(calls, before, now)
        if now["page pool in use"]:
            free_deferred(calls, now["CPU"])
        time.sleep(POLL_S)
    clear_trace(calls, WATCH)
    _try_write(calls, CLEAR_ONCE, b"1")


def renew_agent(calls: Syscalls) -> None:
    """Have the agent's process replaced by another one, which has nothing of the first's.

    Raises:
        GuestError: it is the system's init, whose guest is to be cloned.
        AgentLost: none answers.
    """
    calls.link.call("leave")
    calls.link.call("read", "/proc/uptime", 64)


def clear_trace(calls: Syscalls, root: str = TRACEFS) -> None:
    """Empty the trace buffers of an instance of tracefs and zero what they have counted.

    Raises:
        GuestError: there is no such instance.
    """
    calls.link.call("write", f"{root}/trace", b"\n")  # opened with O_TRUNC


def free_deferred(calls: Syscalls, cpus: Iterable[str]) -> None:
    """Have each CPU free the buffers that others have left to it, with a frame over loopback.

    What a socket's reader frees goes back to the CPU that allocated it, and is freed there when
    that receives something the next time (skb_attempt_defer_free, net/core/skbuff.c, 5.19).

    Raises:
        GuestError: the agent cannot be bound to a CPU.
    """
    masks = [1 << int(cpu) for cpu in cpus]
    fd = calls.must("socket", AF_INET, SOCK_DGRAM, 0).value
    discard = struct.pack("<H", AF_INET) + struct.pack(">H4s8x", DISCARD_PORT, LOOPBACK)
    for mask in [*masks, sum(masks)]:
        packed = mask.to_bytes(CPUSET_BYTES, "little")
        calls.must("sched_setaffinity", 0, CPUSET_BYTES, packed)
        calls.raw("sendto", fd, b"-", 1, 0, discard, len(discard))
    calls.must("close", fd)


def put_back(calls: Syscalls, before: Inventory, now: Inventory) -> None:
    """Put back what is otherwise now and can be, once; what the kernel refuses stays for the proof.

    Raises:
        AgentLost: the agent does not answer.
    """
    for cpu in before["CPU"].keys() ^ now["CPU"].keys():
        online = b"1" if cpu in before["CPU"] else b"0"
        _try_write(calls, f"/sys/devices/system/cpu/cpu{cpu}/online", online)
    _put_back_interfaces(calls, before, now)
    for kind in ("sysctl", "sysctl of an interface", "setting"):
        for path, text in before[kind].items():
            if now[kind].get(path, text) != text:
                _try_write(calls, path, text.encode())
    for path in now["pinned object"].keys() - before["pinned object"].keys():
        calls.raw("unlink", f"{path}\0".encode())
    for place, what in now["mount"].items():
        was = before["mount"].get(place)
        if was is None or what.endswith(f" over {was}"):
            calls.raw("umount2", f"{place}\0".encode(), MNT_DETACH)
    _put_back_tracing(calls, before, now)


def _put_back_tracing(calls: Syscalls, before: Inventory, now: Inventory) -> None:
    was, has = before["tracing"], now["tracing"]
    if was == has:
        return
    for name in was.keys() & has.keys():
        if was[name] != has[name] and " " not in name:
            chosen = re.search(r"\[(\w+)\]", was[name])  # one of several, as in trace_clock
            text = chosen[1] if chosen else was[name]
            _try_write(calls, f"{TRACEFS}/{name}", text.encode())
    for names, value in ((has.keys() - was.keys(), b"0"), (was.keys() - has.keys(), b"1")):
        for name in names:
            kind, _, event = name.partition(" ")
            if kind == "event":
                _try_write(calls, f"{TRACEFS}/events/{event.replace(':', '/')}/enable", value)
    with contextlib.suppress(GuestError):
        clear_trace(calls)


def _put_back_interfaces(calls: Syscalls, before: Inventory, now: Inventory) -> None:
    were, are = before["interface"], now["interface"]
    index = {name: _number("index", told) for name, told in are.items()}
    called = {_number("index", told): name for name, told in were.items()}
    for name, number in index.items():
        if number not in called:
            ask(calls, RTM_DELLINK, _link(number))
        elif called[number] != name:  # its flags and the rest are put back in the next round
            ask(calls, RTM_SETLINK, _link(number, 0))
            label = attribute(IFLA_IFNAME, f"{called[number]}\0".encode())
            ask(calls, RTM_SETLINK, _link(number) + label)
    for name in were.keys() & are.keys():
        if were[name] == are[name] or called.get(index[name]) != name:
            continue
        if "XDP" in are[name] and "XDP" not in were[name]:
            off = attribute(IFLA_XDP, attribute(IFLA_XDP_FD, struct.pack("<i", -1)))
            ask(calls, RTM_SETLINK, _link(index[name]) + off)
        mtu = attribute(IFLA_MTU, struct.pack("<I", _number("MTU", were[name])))
        ask(calls, RTM_SETLINK, _link(index[name], _number("flags", were[name])) + mtu)
    for request, names in (
        (RTM_DELADDR, now["address"].keys() - before["address"].keys()),
        (RTM_NEWADDR, before["address"].keys() - now["address"].keys()),
    ):
        for name in names:
            if (interface := name.partition(" of ")[2]) in index:
                scope = {**before["address"], **now["address"]}[name]
                _ask_address(calls, request, name, index[interface], scope)
    for name, number in index.items():
        clsact = f"clsact of {name}"
        had, has = clsact in before["qdisc"], clsact in now["qdisc"]
        changed = _filters(before, name) != _filters(now, name)
        if has and (changed or not had):
            ask(calls, RTM_DELQDISC, _clsact(number))  # and its filters
        if had and (changed or not has):
            ask(calls, RTM_NEWQDISC, _clsact(number), NLM_F_CREATE)


def _ask_address(calls: Syscalls, request: int, name: str, index: int, scope: str) -> None:
    address, _, prefix = name.partition(" of ")[0].partition("/")
    raw = ip_address(address).packed
    family = AF_INET if len(raw) == 4 else AF_INET6
    head = struct.pack("<BBBBI", family, int(prefix), 0, int(scope.split()[1]), index)
    ask(calls, request, head + attribute(IFA_LOCAL, raw) + attribute(IFA_ADDRESS, raw))


def _filters(inventory: Inventory, interface: str) -> list[tuple[str, str]]:
    return sorted(item for item in inventory["filter"].items() if item[0].endswith(f" {interface}"))


def _link(index: int, flags: int | None = None) -> bytes:
    """Pack a `struct ifinfomsg`; with flags, all of them are set."""
    change = 0 if flags is None else 0xFFFFFFFF
    return struct.pack("<BxHiII", 0, 0, index, flags or 0, change)


def _clsact(index: int) -> bytes:
    """Pack a `struct tcmsg` and its kind."""
    where = struct.pack("<B3xiIII", 0, index, CLSACT_HANDLE, TC_H_CLSACT, 0)
    return where + attribute(TCA_KIND, b"clsact\0")


def _number(what: str, told: str) -> int:
    """Return a number out of what an inventory tells of an interface."""
    match = re.search(rf"{what} (\w+)", told)
    return int(match[1], 0) if match else 0


def _try_write(calls: Syscalls, path: str, content: bytes) -> None:
    with contextlib.suppress(GuestError):  # the proof tells
        calls.link.call("write", path, content)
