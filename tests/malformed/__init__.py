"""Malformed inputs, and what each command says to them."""
