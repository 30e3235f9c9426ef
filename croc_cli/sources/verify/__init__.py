"""Checks of data: rows, pictures, overlap with evaluation, the clean copy.

Files without a test file of their own are tested in:
- tests/sources/verify/test_verify.py: checked_rows, findings, image_cache, image_check, image_pass, layout,
  verify_fix
"""
