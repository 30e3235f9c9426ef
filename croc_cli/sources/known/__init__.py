"""The catalogue of known sources, and its records.

Files without a test file of their own are tested in:
- tests/sources/known/test_catalog.py: source
- tests/sources/fetch/test_fetch.py: forms, record
"""
