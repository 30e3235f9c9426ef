"""Pure scoring functions: texts and ground truth in, numbers out; no file, no model, no network.

Files without a test file of their own are tested in:
- tests/benchmarks/test_golden.py: anls, vqa, yes_no
- tests/benchmarks/test_variants.py: choices
- tests/benchmarks/test_mmmu.py: mmmu
- tests/benchmarks/test_ocrbench.py: ocr
"""
