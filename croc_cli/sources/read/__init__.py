"""Reading rows: JSON, tables, tars; a mix's index and manifest.

Files without a test file of their own are tested in:
- tests/sources/read/test_readers.py: reader, tables, tar_ends, tars
- tests/sources/verify/test_verify.py: cache
- tests/sources/mix/test_mix.py: scan, index, manifest
- tests/sources/fetch/test_download.py: content
- tests/data/test_dataset.py: json_index
- tests/sources/read/test_turns.py: picture_cells
- tests/sources/read/test_json_reader.py: spec
"""
