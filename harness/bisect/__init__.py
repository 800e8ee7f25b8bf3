"""Which build, or which commit, brought a change in behaviour."""
