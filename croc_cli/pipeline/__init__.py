"""The meaning of a command: stages in turn, benchmarks, ablations, figures, preflight.

Files without a test file of their own are tested in:
- tests/commands/test_ablate.py: ablation
- tests/benchmarks/test_foreign.py: answer_files
- tests/commands/test_evaluate.py: hub_model
- tests/commands/test_report.py: figures
- tests/commands/test_data_mix.py: lengths
- tests/benchmarks/test_served.py: served
- tests/commands/test_data_verify.py: tokens
"""
