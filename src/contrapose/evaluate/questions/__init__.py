"""Prompts judged by questions about the image: GenEval 2 (Soft-TIFA), DPG and lists of one's own, by one engine."""
