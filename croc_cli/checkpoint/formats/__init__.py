"""Other forms of a checkpoint: original LLaVA, Croc and ViCToR, LoRA, GGUF, and the stock form.

Files without a test file of their own are tested in:
- tests/checkpoint/test_convert.py: gguf, original_write, stock
- tests/checkpoint/test_convert_victor.py: victor
- tests/checkpoint/formats/test_original_load.py: original_parts
"""
