"""One file a model family, and the table of them."""
