"""The training loop: optimizer, metrics, saving, resume.

Files without a test file of their own are tested in:
- tests/worker/test_held_out.py: held_out
- tests/worker/test_bad_samples.py: sample_limits
- tests/worker/test_training.py: collectives, handed, saving, stage_module, step_report, trainer
- tests/worker/test_rank_counts.py: universal
- tests/worker/test_calibrate.py: weights
"""
