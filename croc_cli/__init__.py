"""croc: pretrain large multimodal models with masked visual token reconstruction (arXiv:2410.14332v3)."""

__version__ = "0.3.0"
