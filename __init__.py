"""CNet, a ComfyUI node pack: spatial control over diffusion models. nodes/__init__.py lists the nodes."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The host's way in."""
    from .nodes import CNetExtension

    return CNetExtension()
