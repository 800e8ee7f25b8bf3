"""Which kernel a target runs, by its banner."""

from __future__ import annotations

import pytest

from harness.kernels.image import RunningKernel

GCC = "(gcc-10 (Debian 10.2.1-6) 10.2.1 20210110, GNU ld (GNU Binutils for Debian) 2.35.2)"
BY = "(debian-kernel@lists.debian.org)"


@pytest.mark.parametrize(
    ("banner", "numbers"),
    [
        (f"5.10.0-46-amd64 {BY} {GCC} #1 SMP Debian 5.10.262-1 (2026-08-01)", (5, 10, 262)),
        (f"6.9.3 (me@home) {GCC} #7 SMP PREEMPT_DYNAMIC Mon Jun 3 2024", (6, 9, 3)),
        ("6.8.0-31-generic (b@lcy) (x86_64-linux-gnu-gcc-13 13.2.0) #31-Ubuntu SMP", (6, 8, 0)),
    ],
)
def test_it_is_not_the_compiler_whose_version_counts(
    banner: str, numbers: tuple[int, int, int]
) -> None:
    release = banner.partition(" ")[0]
    kernel = RunningKernel("ssh://host", release, f"Linux version {banner}", None)
    assert kernel.numbers == numbers
