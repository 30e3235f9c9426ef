"""From a row to a micro-batch: conversations, templates, pictures, masks, sampling, collation.

Files without a test file of their own are tested in:
- tests/data/test_conversation.py: sample, pieces, templates, turns
- tests/data/test_lengths.py: local_encoder
- tests/data/test_collate.py: items, micro_batch
- tests/worker/test_held_out.py: held_out, subset
"""
