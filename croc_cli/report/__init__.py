"""From a run folder to the terminal, HTML and SVG.

Files without a test file of their own are tested in:
- tests/report/test_svg.py: charts
- tests/report/test_run_page.py: curves, labels, scores
- tests/report/test_findings.py: spikes
- tests/commands/test_data_show.py: sample_page
- tests/sources/verify/test_stats.py: data_page
- tests/report/test_watch.py: live_page
- tests/report/test_run_list.py: prune
"""
