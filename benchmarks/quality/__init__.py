"""Evidence for what the method promises: each module is a benchmark that asks one question."""
