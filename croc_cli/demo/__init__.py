"""The embedded default: drawn scenes, what is said about them, and the nano backbones that learn from them.

Files without a test file of their own are tested in:
- tests/demo/test_questions.py: language
"""
