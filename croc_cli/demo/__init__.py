"""The embedded default: drawn scenes, what is said about them, and the nano backbones that learn from them."""
