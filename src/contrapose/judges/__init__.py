"""What scores an image."""
