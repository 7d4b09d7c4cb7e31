"""The theory, in pure torch: compare how well two score functions explain a sample. Start at `objective`."""
