"""Recipes: files, layers, overrides, schema, checks, and how they are shown. Light: no torch.

Files without a test file of their own are tested in:
- tests/recipe/test_load.py: data_schema, deepspeed_block, layers, reconstruct_schema, schema, text_source, values
- tests/recipe/test_explain.py: repair
- tests/data/test_qwen_template.py: template_options
- tests/estimate/test_resources.py: recomputation
"""
