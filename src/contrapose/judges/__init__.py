"""What scores an image: published networks on this machine, servers, formulas, and the model itself."""
