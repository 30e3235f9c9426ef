"""Mixes: presets, draws, lengths, and their export.

Files without a test file of their own are tested in:
- tests/sources/mix/test_mix.py: draw, mix_rows
- tests/data/test_lengths.py: lengths
- tests/sources/mix/test_recipe_mix.py: presets
"""
