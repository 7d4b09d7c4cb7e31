"""The pair store: what was drawn, from which prompt, with which seed; and whether it is sound."""
