"""The embedded default host: runs the pack's workflows without ComfyUI, on the CPU.

It loads the pack as ComfyUI does (by path, through `comfy_entrypoint`) and supplies under the host's own
module names just what the pack's nodes use of a host (`shims/`), and the core nodes of the shipped workflows.
"""
