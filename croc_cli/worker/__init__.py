"""The process of a rank: what it builds from a recipe, and what it runs.

Files without a test file of their own are tested in:
- tests/worker/test_figures.py: attention
- tests/worker/test_training.py: build, device
- tests/worker/test_rank_counts.py: prepare
- tests/estimate/test_speed.py: speed
- tests/worker/test_stalls.py: watch
- tests/worker/test_families.py: sound
"""
