"""Nothing to set up: the fixtures come with the package (harness/pytest_plugin.py)."""
