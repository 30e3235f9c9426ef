"""How the nano backbones were made.

Files without a test file of their own are tested in:
- tests/demo/test_backbones.py: backbones, gates, tower
- tests/demo/pretrain/test_llm.py: tokenizer
"""
