"""The host's end of the guest agent: typed calls, one class per noun."""
