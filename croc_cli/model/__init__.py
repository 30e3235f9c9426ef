"""The model: tower, projector, LLM, token pool, masks of attention, assignment.

Files without a test file of their own are tested in:
- tests/model/test_assignment.py: transfers
- tests/model/test_build.py: stock_names, vision_tower, vocabulary
- tests/checkpoint/test_validate.py: values
- tests/worker/test_checkpointing.py: recompute
"""
