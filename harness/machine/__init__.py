"""QEMU: finding it, starting it, watching it, freezing and cloning what runs in it."""
