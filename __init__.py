"""CNet, a ComfyUI node pack: spatial control over diffusion models. The list of nodes is in nodes/__init__.py."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The host's way in."""
    from .nodes import CNetExtension

    return CNetExtension()
