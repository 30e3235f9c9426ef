"""The launch of ranks: layout, checks before it, start, watch, failure. Light: no torch.

Files without a test file of their own are tested in:
- tests/checkpoint/test_metadata.py: known_files
- tests/launch/test_run_lock.py: process
- tests/launch/test_job.py: session, watch
"""
