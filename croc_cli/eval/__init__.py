"""Answers of a model to questions, and where it looks.

Files without a test file of their own are tested in:
- tests/serve/test_eval.py: predict, prompts
"""
