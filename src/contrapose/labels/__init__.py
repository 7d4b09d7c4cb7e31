"""Groups judged: scores for each of their samples, and labels by scores."""
