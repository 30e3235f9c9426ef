"""The losses: captions and reconstruction.

Files without a test file of their own are tested in:
- tests/objectives/test_reconstruction.py: baseline, settings
"""
