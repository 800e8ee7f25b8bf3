"""The fixtures come with the package (harness/pytest_plugin.py); here is what the tests need."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control has those in its background ignore it, and so do their children:
    # tests that interrupt a command of ours would wait for ever
    signal.signal(signal.SIGINT, signal.default_int_handler)
