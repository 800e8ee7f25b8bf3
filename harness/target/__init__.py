"""Any reachable machine instead of a guest of ours: over SSH, in a world apart on it."""
