"""Hostile inputs, made from seeds: what is written, which commands are tried, and what croc may answer."""
