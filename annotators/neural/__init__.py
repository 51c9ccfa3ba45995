"""Annotators by networks: each file one, with the pictures' way into its network and out again."""
