"""One file per benchmark, and what they share: files, questions, answers, scores, comparison.

Files without a test file of their own are tested in:
- tests/benchmarks/test_golden.py: ai2d, base, docvqa, gqa, judged, mmbench, mme, mmstar, pope, prompts, realworldqa,
  scienceqa, score, seedbench, textvqa, vizwiz, vqav2
- tests/benchmarks/test_mmmu.py: tables
- tests/benchmarks/test_served.py: endpoint
- tests/benchmarks/test_hub_form.py: files
- tests/benchmarks/test_answers.py: predictions, registry, results
"""
