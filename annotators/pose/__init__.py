"""Poses: keypoints as files and sockets carry them, tools on them, their drawing, and how to find them."""
