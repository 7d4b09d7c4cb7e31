"""One HTML page with everything that was done and found; it needs no network, no script and no other file."""
