"""What manycore and its peers cost, measured side by side. Start with `python -m benchmarks --help`."""
