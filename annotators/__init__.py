"""From images to hints. Imports nothing of the other rooms."""
