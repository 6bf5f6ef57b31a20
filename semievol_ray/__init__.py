"""SemiEvol on Ray: semi-supervised fine-tuning of language models at scale."""

__version__ = "0.1.0"
