"""What the table of annotators says to people: `uv run python -m annotators.docs` writes it anew.

That is README's table, the help pages of the annotators' nodes, and with --sheet the picture of what those
without weights make of a few photos. The tests check that table and pages are up to date.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .parameters import Bool, Choice, Parameter
from .registry import Annotator
from .table import ANNOTATORS

ROOT = Path(__file__).parent.parent
_BEGIN, _END = "<!-- annotators.docs -->", "<!-- /annotators.docs -->"

_OUTPUTS = {
    "depth": "the depth as the network gives it, larger is nearer, not within 0..1",
    "labels": "the class of each pixel, its number / 255 as grey; 1 is none",
    "regions": "the region of each pixel, its number from 1, / 65535 as grey; 0 is none",
    "mask": "the mask, of the hint's size",
    "lines": "the lines of each picture as JSON, [[x0, y0, x1, y1], ...] in pixels of the hint",
    "keypoints": "the poses in OpenPose's format, in pixels of the hint, with scores",
}


def table() -> str:
    """The annotators as a table in Markdown."""
    rows = ["| Node | id | Makes | Weights |", "|---|---|---|---|"]
    for one in ANNOTATORS.values():
        rows.append(f"| {one.title} (CNet) | {one.id} | {_makes(one)} | {_weights_in_short(one)} |")
    return "\n".join(rows)


def page(annotator: Annotator) -> str:
    """The help page of an annotator's node, in Markdown."""
    return "\n".join(_lines(annotator)) + "\n"


def readme(text: str) -> str:
    """README with the table as it is now. Raises ValueError if it has no place for it."""
    before, begin, rest = text.partition(_BEGIN)
    _old, end, after = rest.partition(_END)
    if not end:
        raise ValueError(f"README.md has no {_BEGIN} with {_END} after it; the table goes between them.")
    return f"{before}{begin}\n\n{table()}\n\n{end}{after}"


def page_path(annotator: Annotator) -> Path:
    return ROOT / "web" / "docs" / f"{annotator.node}.md"


def _makes(annotator: Annotator) -> str:
    more = f"; {', '.join(annotator.makes)}" if annotator.makes else ""
    return f"{annotator.condition}: {annotator.convention}{more}"


def _weights_in_short(annotator: Annotator) -> str:
    licences = ", ".join(dict.fromkeys(weight.licence for weight in annotator.weights))
    repositories = ", ".join(dict.fromkeys(weight.repository for weight in annotator.weights))
    if not annotator.weights:
        return f"in the package {annotator.extra}" if annotator.extra else "none"
    return f"{repositories} ({licences})"


def requirement(extra: str) -> str:
    """What must be installed for one of the pack's extras of a single package, from pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    (found,) = re.findall(rf'^{extra} = \["(.+)"\]$', text, re.MULTILINE)
    return found


def _lines(annotator: Annotator) -> Iterator[str]:
    yield f"# {annotator.title} (CNet)"
    yield ""
    yield f"{annotator.description} The hint's convention: {annotator.convention}."
    yield ""
    yield "| Input | |"
    yield "|---|---|"
    opaque = "" if annotator.masked else " Transparent places count as black."
    yield f"| **image** | Pictures; every image of a batch is done.{opaque} |"
    for parameter in annotator.parameters:
        yield f"| **{parameter.name}** | {parameter.tooltip} {_range(parameter)} |"
    if annotator.masked:
        yield "| **mask** | Where the picture shall be painted anew: white. Without it what is transparent. |"
    if annotator.seedable:
        yield "| **seed** | The same seed gives the same hint; each picture of a batch has its own. |"
    if annotator.build is not None:
        yield "| **download** | Download the weights, once, if they are not there yet. |"
        yield "| **precision** | How the network computes; fp16 and bf16 need half the memory. |"
    yield (
        "| **size** | As the image; or exactly a **width** and **height**, or the size of a **latent** or of "
        "another image (**like**); where the shapes differ, **resize_mode** crops, fills or stretches. |"
    )
    yield (
        "| **resolution** | The short side at which the annotator looks at the picture: less for coarser "
        "hints. 0: pixel perfect. |"
    )
    if annotator.makes:
        yield ""
        yield "Beside the hint it makes:"
        yield ""
        for name in annotator.makes:
            text = "regions" if name == "labels" and annotator.regions else name
            yield f"- **{name}**: {_OUTPUTS[text]}."
    if annotator.suits:
        yield ""
        yield f"For such ControlNets as {' and '.join(f'`{one}`' for one in annotator.suits)}."
    if annotator.weights:
        yield ""
        yield "It needs weights, which the pack does not bring:"
        yield ""
        for weight in annotator.weights:
            yield f"- `{weight.file}` of `{weight.repository}` on the model hub, licence {weight.licence}"
        yield ""
        yield (
            "They are looked for in `models/controlnet_annotators`, comfyui_controlnet_aux's `ckpts`, "
            "`~/.cache/cnet/annotators` and the hub's cache. Switch **download** on, or fetch them with "
            f"`python -m uv run python -m annotators fetch {annotator.id}` in the pack's folder."
        )
    if annotator.extra:
        yield ""
        yield (
            "It also needs a Python package, in ComfyUI's environment: "
            f'`python -m pip install "{requirement(annotator.extra)}"`.{_CAUTIONS.get(annotator.extra, "")}'
        )


# What installing a package does to others.
_CAUTIONS = {
    "mediapipe": " It needs Python 3.12 or older, and puts numpy 1 in the place of numpy 2, which other "
    "packs may need."
}


def _range(parameter: Parameter) -> str:
    if isinstance(parameter, Bool):
        return f"Default {str(parameter.default).lower()}."
    if isinstance(parameter, Choice):
        told = len(parameter.options) > 8 or all(f"{one}:" in parameter.tooltip for one in parameter.options)
        return f"Default {parameter.default}{'' if told else ', of ' + ', '.join(parameter.options)}."
    return f"Default {parameter.default}, from {parameter.minimum} to {parameter.maximum}."


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m annotators.docs", description=__doc__)
    parser.add_argument("--sheet", action="store_true", help="the picture docs/annotators.jpg too")
    options = parser.parse_args(arguments)
    path = ROOT / "README.md"
    path.write_text(readme(path.read_text("utf-8")), "utf-8", newline="\n")
    for annotator in ANNOTATORS.values():
        page_path(annotator).write_text(page(annotator), "utf-8", newline="\n")
    if options.sheet:
        from .sheet import write

        print(write(ROOT / "docs" / "annotators.jpg"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
