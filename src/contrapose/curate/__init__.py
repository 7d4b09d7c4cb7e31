"""Making pairs: degrading prompts, drawing samples, spoiling photographs, filtering."""
