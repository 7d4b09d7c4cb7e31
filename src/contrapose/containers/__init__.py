"""Where data lies: files, archives and tables, and the images in them."""
