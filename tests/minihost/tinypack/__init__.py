"""A node pack for minihost's tests, written against the host's API alone."""

from comfy_api.latest import ComfyExtension

from .nodes import NODES


class TinyExtension(ComfyExtension):
    async def get_node_list(self):
        return NODES


async def comfy_entrypoint():
    return TinyExtension()
