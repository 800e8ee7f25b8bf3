"""Debian packages through apt, with a state directory of its own (archive.py says how)."""

from harness.apt.archive import FRESH, Archive, Package
from harness.apt.mirrors import own_codename
from harness.apt.tool import Progress

__all__ = ["FRESH", "Archive", "Package", "Progress", "own_codename"]
