"""An OpenAI-compatible server; `tests/serve/test_app.py` covers engine, prompt, protocol and look over real sockets."""
