"""What scores an image: published networks on this machine, and formulas."""
