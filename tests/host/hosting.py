"""Starting a real ComfyUI on a free port with a temporary base directory, and talking to it over HTTP."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

REPO = Path(__file__).resolve().parents[2]
PROBES = Path(__file__).resolve().parent / "probe_nodes"
# The shipped workflows, by the names of their files.
WORKFLOWS = sorted(path.stem for path in (REPO / "workflows").glob("*.json"))
HOW_TO_GET_A_HOST = (
    "no ComfyUI found. Clone https://github.com/comfyanonymous/ComfyUI, make an environment in its .venv "
    "(python -m venv .venv), install its requirements.txt and this pack's requirements there, and set "
    f"COMFYUI_PATH to the clone (several: separated by {os.pathsep!r})."
)


def find_hosts() -> list[Path]:
    """ComfyUI folders with their own .venv: those in $COMFYUI_PATH, else ~/ComfyUI."""
    named = os.environ.get("COMFYUI_PATH")
    folders = named.split(os.pathsep) if named else ["~/ComfyUI"]
    paths = [Path(folder).expanduser().resolve() for folder in folders if folder]
    return [path for path in paths if (path / "main.py").is_file() and host_python(path).is_file()]


def host_python(root: Path) -> Path:
    """The interpreter of a host's own environment."""
    return root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def host_label(root: Path) -> str:
    """The host's version, for test ids."""
    lines = (root / "comfyui_version.py").read_text().splitlines()
    versions = [line.split("=")[1].strip(" \"'") for line in lines if line.startswith("__version__")]
    return versions[0] if versions else root.name


class RejectedError(Exception):
    """The host refused a prompt (HTTP 400); `body` is its answer."""

    def __init__(self, body: dict[str, Any]):
        super().__init__(json.dumps(body, indent=1)[:4000])
        self.body = body

    def errors(self, node: str) -> list[dict[str, Any]]:
        """The validation errors of one node."""
        return self.body["node_errors"].get(node, {}).get("errors", [])


@dataclass
class Run:
    """The host's history entry of one prompt."""

    host: "Host"
    entry: dict[str, Any]

    @property
    def messages(self) -> dict[str, dict[str, Any]]:
        return dict(self.entry["status"]["messages"])

    @property
    def error(self) -> dict[str, Any] | None:
        """The execution_error message, if there was one."""
        return self.messages.get("execution_error")

    @property
    def interrupted(self) -> bool:
        return "execution_interrupted" in self.messages

    def checked(self) -> "Run":
        """This run, after failing the test with the host's own words if it did not succeed."""
        if self.entry["status"]["status_str"] != "success":
            what = self.error or self.messages.get("execution_interrupted") or {}
            raise AssertionError(f"{what.get('node_type')}: {what.get('exception_message', what)}")
        return self

    def ui(self, node: str) -> dict[str, Any]:
        """What a node sent to the frontend."""
        return self.entry["outputs"][node]

    def latent(self, node: str) -> torch.Tensor:
        """The latent that a SaveLatent node wrote."""
        (item,) = self.entry["outputs"][node]["latents"]
        return safetensors.torch.load(self.host.file(item))["latent_tensor"]


@dataclass
class Host:
    """One running ComfyUI. `base` holds its models, input, output, temp, user and custom_nodes, and
    `elsewhere`, which extra_model_paths.yaml names as a folder of annotators' weights."""

    root: Path
    base: Path
    port: int = 0
    process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def elsewhere(self) -> Path:
        return self.base / "elsewhere"

    @property
    def log(self) -> str:
        return (self.base / "host.log").read_text(errors="replace")

    def start(self, timeout: float = 300.0) -> "Host":
        for name in (
            "models/controlnet",
            "models/diffusion_models",
            "input",
            "output",
            "temp",
            "custom_nodes",
        ):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        user = self.base / "user" / "default"
        user.mkdir(parents=True, exist_ok=True)
        # A first visit opens the template browser over the graph; these tests are a returning user, and one
        # who reads the small print of a whole graph.
        settings = {"Comfy.TutorialCompleted": True, "LiteGraph.Canvas.MinFontSizeForLOD": 0}
        (user / "comfy.settings.json").write_text(json.dumps(settings))
        extra = self.base / "extra_model_paths.yaml"
        extra.write_text(f"elsewhere:\n  controlnet_annotators: {self.elsewhere}\n")
        for name, target in (("CNet", REPO), ("host_probes", PROBES)):
            (self.base / "custom_nodes" / name).symlink_to(target, target_is_directory=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [
            str(host_python(self.root)), "main.py", "--cpu", "--listen", "127.0.0.1",
            "--port", str(self.port), "--base-directory", str(self.base), "--disable-auto-launch",
            "--disable-api-nodes", "--extra-model-paths-config", str(extra),
            # The default on GPUs. The one of CPUs differs from it by rounding, which is 2e-5 in a latent.
            "--use-pytorch-cross-attention",
        ]  # fmt: skip
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        with open(self.base / "host.log", "wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.root, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                self.get("/system_stats")
                return self
            except OSError:
                time.sleep(0.3)
        self.stop()
        raise RuntimeError(f"ComfyUI in {self.root} did not come up:\n{self.log[-3000:]}")

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def file(self, item: dict[str, str]) -> bytes:
        """The bytes of an output that the host names by filename, subfolder and type."""
        query = urllib.parse.urlencode({key: item[key] for key in ("filename", "subfolder", "type")})
        with urllib.request.urlopen(f"{self.url}/view?{query}", timeout=60) as answer:
            return answer.read()

    def object_info(self) -> dict[str, Any]:
        return self.get("/object_info")

    def submit(self, prompt: dict[str, Any], workflow: dict[str, Any] | None = None) -> str:
        """Queue a prompt in API format and return its id. Raises RejectedError with the host's answer."""
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        try:
            answer = json.loads(self.post("/prompt", {"prompt": prompt, "extra_data": extra}))
        except urllib.error.HTTPError as problem:
            raise RejectedError(json.load(problem)) from None
        if answer["node_errors"]:
            raise RejectedError(answer)
        return answer["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 300.0) -> Run:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return Run(self, history[prompt_id])
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError(f"the host died:\n{self.log[-3000:]}")
            time.sleep(0.1)
        self.interrupt()
        raise TimeoutError(f"the host did not finish within {timeout:.0f} s:\n{self.log[-3000:]}")

    def queue(self, prompt: dict[str, Any], timeout: float = 300.0) -> Run:
        """Run a prompt to its end."""
        return self.wait(self.submit(prompt), timeout)

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def free(self) -> None:
        """Let the host drop its models and cached outputs before the next prompt."""
        self.post("/free", {"unload_models": True, "free_memory": True})


@functools.cache
def minihost(*arguments: str | Path) -> str:
    """What `python -m minihost ARGUMENTS` prints, run once; fails the test with its error output."""
    command = [sys.executable, "-m", "minihost", *map(str, arguments)]
    done = subprocess.run(command, check=False, cwd=REPO, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def workflow_file(name: str) -> Path:
    return REPO / "workflows" / f"{name}.json"


def api_prompt(name: str) -> dict[str, Any]:
    """A shipped workflow in API format, as minihost converts it."""
    return json.loads(minihost("convert", workflow_file(name)))


def nodes_of(prompt: dict[str, Any], class_type: str) -> list[str]:
    """Ids of the prompt's nodes of one type, in the prompt's order."""
    return [node for node, body in prompt.items() if body["class_type"] == class_type]
