"""Tests against a real ComfyUI, over HTTP and in its own frontend."""
