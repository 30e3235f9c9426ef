"""Pure scoring functions: texts and ground truth in, numbers out; no file, no model, no network."""
