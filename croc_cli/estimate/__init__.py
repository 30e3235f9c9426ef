"""What a recipe takes before anything runs: memory, disk, time, and the settings that follow from them.

Files without a test file of their own are tested in:
- tests/estimate/test_resources.py: settle
"""
