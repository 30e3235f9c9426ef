"""Checkpoints: found, checked, opened, saved, converted and published.

Files without a test file of their own are tested in:
- tests/checkpoint/test_convert.py: fit, norm_loss
- tests/checkpoint/test_load.py: opened
- tests/checkpoint/test_validate.py: headers, values
"""
