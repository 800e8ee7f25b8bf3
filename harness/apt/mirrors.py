"""Where packages come from: the mirrors and the release of the machine's own apt."""

from __future__ import annotations

import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.apt.tool import NO_APT, failure, start
from harness.errors import FetchFailed, ToolMissing

if TYPE_CHECKING:
    from collections.abc import Sequence

SUITES = (
    "bullseye",
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
    "sid",
    "experimental",
)
SECURITY_SUITES = ("bullseye-security", "bookworm-security", "trixie-security")
KEYRINGS: tuple[Path, ...] = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)


def own_codename() -> str:
    """Return the machine's own release, like "bookworm" ("" if it does not say)."""
    try:
        return platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    except OSError:
        return ""


@dataclass(frozen=True)
class Source:
    """One package index that the machine's apt is configured for (apt's index target)."""

    uri: str
    release: str
    component: str
    origin: str


def machine_sources() -> list[Source]:
    """Return the package indices that the machine's own apt is configured for.

    Raises:
        ToolMissing: no apt on this machine.
        FetchFailed: apt does not understand its own configuration.
    """
    fields = "$(CREATED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"
    rows: list[Source] = []
    # With release information only those already downloaded are listed, and a fresh container has
    # none; without, the origin is not known.
    for options in ([], ["--no-release-info"]):
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            command = ["apt-get", "indextargets", *options, "--format", fields]
            code = start(command, stdout=out, stderr=err).wait()
            out.seek(0)
            err.seek(0)
            if code:
                raise failure(" ".join(command), err.read())
            for line in out:
                created_by, *cells = line.strip().split("|")
                if created_by == "Packages" and len(cells) == 4:
                    rows.append(Source(*cells))
        if rows:
            break
    return rows


def pick_mirrors(sources: Sequence[Source], codename: str) -> tuple[str, str | None]:
    """Return the URI of the main Debian archive and that of the security archive, if configured.

    Args:
        sources: what the machine's apt is configured for.
        codename: the machine's own release.

    Raises:
        FetchFailed: no Debian archive among them.
    """
    aliases = {codename, "stable", "oldstable", "testing", "unstable", "sid"}
    updates = {source.uri for source in sources if source.release.endswith("-updates")}
    main = [s for s in sources if s.component == "main" and s.release in aliases]
    # A third party's repository may bear the same release name; only Debian's own has the origin,
    # and (before any index is there) the -updates suite beside it.
    main.sort(key=lambda s: (s.origin != "Debian", s.uri not in updates))
    if not main:
        raise FetchFailed(
            "the machine's apt is not configured for a Debian archive",
            remedy=NO_APT,
        )
    security = [
        s
        for s in sources
        if s.component == "main" and s.release.endswith(("-security", "/updates"))
    ]
    security.sort(key=lambda s: s.origin != "Debian")
    return main[0].uri, security[0].uri if security else None


def source_list() -> str:
    """Return the source list of all suites that kernels and QEMU come from.

    Raises:
        ToolMissing: no apt, or no Debian keyring, on this machine.
        FetchFailed: the machine's apt is configured for no Debian archive.
    """
    keyring = next((path for path in KEYRINGS if path.exists()), None)
    if keyring is None:
        raise ToolMissing(
            f"no Debian archive keyring ({KEYRINGS[0]}) to verify packages with",
            remedy="install the package debian-archive-keyring",
        )
    codename = own_codename()
    main, security = pick_mirrors(machine_sources(), codename)
    # The machine's own release may be newer than this list: QEMU comes from there.
    suites = dict.fromkeys([*SUITES, *([codename, f"{codename}-backports"] if codename else [])])
    security_suites = dict.fromkeys(
        [*SECURITY_SUITES, *([f"{codename}-security"] if codename else [])]
    )
    pairs = [(main, suite) for suite in suites]
    if security:
        pairs += [(security, suite) for suite in security_suites]
    options = f"[arch=amd64 signed-by={keyring}]"
    return "".join(f"deb {options} {uri} {suite} main\n" for uri, suite in pairs)
