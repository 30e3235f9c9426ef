"""The paper's ablations as tables: rows, the stages that they share, statistics, results.

Files without a test file of their own are tested in:
- tests/ablation/test_results.py: layout
"""
