"""What the guest's tracepoints and notes say, and the ledger that closes the books on it."""
