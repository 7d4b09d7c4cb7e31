"""From images to evidence: verdicts, rows, intervals and tests."""
