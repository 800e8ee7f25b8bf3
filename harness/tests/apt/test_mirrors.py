"""Which archive is this machine's own."""

from __future__ import annotations

import pytest

from harness.apt import own_codename
from harness.apt.mirrors import Source, pick_mirrors
from harness.errors import FetchFailed


def test_own_archive_is_told_from_a_third_party() -> None:
    sources = [
        Source("third/", "bookworm", "main", "Vendor"),
        Source("own/", "bookworm", "main", "Debian"),
        Source("own/", "bookworm-updates", "main", "Debian"),
        Source("vendor-sec/", "bookworm-security", "main", "Vendor"),
        Source("sec/", "bookworm-security", "main", "Debian"),
    ]
    assert pick_mirrors(sources, "bookworm") == ("own/", "sec/")


def test_own_archive_is_told_before_any_index_is_there() -> None:
    sources = [
        Source("third/", "bookworm", "main", "$(ORIGIN)"),
        Source("own/", "bookworm", "main", "$(ORIGIN)"),
        Source("own/", "bookworm-updates", "main", "$(ORIGIN)"),
    ]
    assert pick_mirrors(sources, "bookworm") == ("own/", None)


def test_no_debian_archive() -> None:
    with pytest.raises(FetchFailed, match="not configured for a Debian archive"):
        pick_mirrors([Source("x/", "noble", "universe", "Ubuntu")], "noble")


def test_own_codename_is_a_word() -> None:
    assert own_codename().replace("-", "").isalnum() or not own_codename()
