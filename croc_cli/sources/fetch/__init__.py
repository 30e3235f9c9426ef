"""Fetching: hub, URLs, archives, img2dataset.

Files without a test file of their own are tested in:
- tests/sources/fetch/test_download.py: feed
- tests/sources/fetch/test_img2dataset_run.py: img2dataset_child
- tests/sources/fetch/test_fetch.py: sam, state
"""
