"""What a control says and how it is weighed: residuals, hints, strength over time, and merging."""
