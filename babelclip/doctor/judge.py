"""What the probe's answers mean, and what to do about them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from babelclip.doctor.finding import Finding

_NVIDIA = Path("/proc/driver/nvidia/version")


def judge_torch(facts: dict[str, Any], end: str) -> Finding:
    """Returns whether torch can be imported, and what it found out about the processor."""
    torch = facts.get("torch") or {"error": end or "it was not tried"}
    if "error" in torch:
        advice = "install it again: pip install -c constraints.txt torch==2.13.0"
        if "signal 4" in torch["error"]:
            advice = (
                "this build is for a newer processor: install an older torch (2.6 or newer), or use another machine"
            )
        return Finding("torch", "problem", f"torch cannot be imported: {torch['error']}", advice, torch)
    sets = ", ".join(torch["instructions"]) or "no vector instructions that torch asks for"
    found = f"torch {torch['version']}, {torch['threads']} threads, kernels for {torch['kernels']}; processor: {sets}"
    return Finding("torch", "ok", found, facts=torch)


def judge_torchvision(facts: dict[str, Any], end: str) -> list[Finding]:
    """Returns a finding where torchvision is there: a broken one breaks transformers' models too."""
    torchvision = facts.get("torchvision", {})
    if "error" in torchvision:
        return [
            Finding(
                "torchvision",
                "problem",
                f"torchvision is installed, does not work with this torch, and takes transformers with it "
                f"({torchvision['error']})",
                "babelclip does not need it: pip uninstall torchvision. If something else does, install the build for "
                "this torch",
                torchvision,
            )
        ]
    if torchvision.get("installed"):
        return [Finding("torchvision", "ok", f"torchvision {torchvision['version']} works", facts=torchvision)]
    return []


def judge_devices(facts: dict[str, Any]) -> list[Finding]:
    """Returns the devices, and which numbers `dtype="auto"` would take on them."""
    torch = facts.get("torch", {})
    if "devices" not in torch:
        return []
    named = ", ".join(_device(device) for device in torch["devices"])
    default = next((d for d in torch["devices"] if d["name"].startswith("cuda")), torch["devices"][0])
    dtype = "bfloat16" if default["bfloat16"] else "float32"
    why = (
        "has instructions for it; each model's vectors are compared with float32 first"
        if default["bfloat16"]
        else 'has no bfloat16 instructions; dtype="int8" halves the time of texts'
        if default["name"] == "cpu"
        else "is older than those with bfloat16"
    )
    found = f'{named}; dtype="auto" takes {dtype} on {default["name"]}, which {why}'
    devices = {"devices": torch["devices"], "default": default["name"], "auto": dtype}
    if default["name"] == "cpu" and (_NVIDIA.exists() or shutil.which("nvidia-smi")):
        built = f"is built for CUDA {torch['built_for_cuda']}" if torch["built_for_cuda"] else "is built without CUDA"
        advice = f"torch {torch['version']} {built}: install the build for your driver, which nvidia-smi shows"
        return [
            Finding("devices", "note", f"{found}. An NVIDIA driver is here, and torch cannot use it", advice, devices)
        ]
    return [Finding("devices", "ok", found, facts=devices)]


def judge_hub(facts: dict[str, Any]) -> list[Finding]:
    """Returns whether models can be fetched; where nothing answers, folders work all the same."""
    hub = facts.get("hub", {})
    if "error" in hub:
        advice = "correct or unset the variable that it names"
        if "HF_ENDPOINT" not in hub["error"]:
            advice = "install it again: pip install -c constraints.txt huggingface_hub"
        return [Finding("hub", "problem", hub["error"], advice, hub)]
    if "offline" not in hub:
        return []
    if hub["offline"]:
        return [
            Finding("hub", "ok", "not asked: HF_HUB_OFFLINE forbids it; folders and the hub's cache work", facts=hub)
        ]
    if hub["silence"]:
        advice = (
            "folders and what is in the cache work without it. Behind a proxy set HTTPS_PROXY, for a mirror "
            "HF_ENDPOINT; HF_HUB_OFFLINE=1 saves the waiting"
        )
        return [Finding("hub", "note", hub["silence"], advice, hub)]
    return [Finding("hub", "ok", "answers", facts=hub)]


def _device(device: dict[str, Any]) -> str:
    if "model" not in device:
        return str(device["name"])
    return f"{device['name']} ({device['model']}, {device['memory'] / 1e9:.0f} GB)"
