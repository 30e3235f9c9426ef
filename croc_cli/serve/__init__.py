"""An OpenAI-compatible server, over real sockets in its tests.

Files without a test file of their own are tested in:
- tests/serve/test_app.py: look, prompt, protocol
- tests/serve/test_hostile.py: connection
- tests/serve/test_batch.py: job, rounds
- tests/serve/test_rows.py: cache
"""
