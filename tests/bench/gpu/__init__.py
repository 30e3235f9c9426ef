"""Measurements that need a GPU; `python -m tests.bench.gpu` runs them, `--tiny` tries them on a CPU with tiny sizes."""
