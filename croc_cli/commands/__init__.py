"""One file per command: parse, call one function, print.

Files without a test file of their own are tested in:
- tests/commands/test_app.py: chat, doctor, groups, usage, options, data
- tests/pipeline/test_stage.py: align, finetune, reconstruct, stage_flags
- tests/pipeline/test_recipe_run.py: run, demo
- tests/pipeline/test_init.py: init
- tests/chat/test_compare.py: compare_answers
- tests/report/test_run_list.py: runs
- tests/report/test_watch.py: watch
- tests/commands/test_data_fetch.py: data_sources
- tests/commands/test_data_show.py: data_stats
- tests/test_readme.py: push
- tests/serve/test_run.py: serve
"""
