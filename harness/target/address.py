"""Where a target is: `ssh://[user@]host[:port]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from harness.errors import UserError

HOST = re.compile(r"[A-Za-z0-9_.:%-]+")
USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@\\-]*")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a target is.

    Attributes:
        host: its name or address, or a `Host` of ~/.ssh/config.
        user: who logs in; "" is who ssh(1) would log in as.
        port: 0 is the one that ssh(1) would take.
    """

    host: str
    user: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address.

        Raises:
            UserError: it is none.
        """
        remedy = "write ssh://root@192.0.2.7, or ssh://user@host:2222"
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise UserError(f"{text!r} is no target: {error}", remedy=remedy) from None
        if parts.password is not None:
            raise UserError(
                "a target's address has no password in it",
                remedy="log in with a key: have it in ssh-agent, or name it in ~/.ssh/config",
            )
        host, user = parts.hostname or "", parts.username or ""
        if "[" not in parts.netloc:  # names of ~/.ssh/config have capitals; urlsplit lowers them
            host = parts.netloc.rpartition("@")[2].partition(":")[0]
        sound = HOST.fullmatch(host) and (not user or USER.fullmatch(user))
        rest = parts.path.strip("/") or parts.query or parts.fragment
        if parts.scheme != "ssh" or not sound or rest or port == 0:
            raise UserError(f"{text!r} is no target", remedy=remedy)
        return cls(host, user, port or 0)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        return f"ssh://{user}{host}{f':{self.port}' if self.port else ''}"
