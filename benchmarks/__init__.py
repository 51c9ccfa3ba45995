"""What a sampling step costs, beside peers in one run: `uv run python -m benchmarks`. See README.md."""
