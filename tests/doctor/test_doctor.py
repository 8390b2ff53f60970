"""The doctor finds what is broken, says what to do, and does not break with it."""

from __future__ import annotations

import io
import json
import sys
import time
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

from babelclip import doctor
from babelclip.doctor import machine, packages
from babelclip.doctor.judge import judge_devices, judge_hub, judge_torch, judge_torchvision
from babelclip.doctor.start import read_answers, start_probe
from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.hub.answers import knock, shown_endpoint
from tests.cli.test_cli import call
from tests.models.checkpoints.conftest import hub as hub

TORCH = {
    "version": "2.13.0+cpu", "built_for_cuda": None, "kernels": "AVX2", "instructions": ["AVX2"], "threads": 2,
    "devices": [{"name": "cpu", "bfloat16": False}],
}  # fmt: skip


def modules(folder: Path, **sources: str) -> str:
    """Makes modules in a folder, and returns it."""
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    return str(folder)


def test_a_machine_that_runs_these_tests_has_no_problem_but_a_broken_torchvision(tmp_path):
    broken = modules(tmp_path, torchvision="raise RuntimeError('operator torchvision::nms does not exist')")
    code, out, error = call("doctor", "--json", cwd=tmp_path, PYTHONPATH=broken, BABELCLIP_CACHE=f"{tmp_path}/cache")
    said = json.loads(out)
    findings = {finding["topic"]: finding for finding in said["findings"]}
    assert [topic for topic, finding in findings.items() if finding["state"] == "problem"] == ["torchvision"], out
    assert (code, said["ok"], error) == (1, False, "")
    assert "torchvision::nms" in findings["torchvision"]["found"]
    assert "pip uninstall torchvision" in findings["torchvision"]["advice"]
    assert "torchvision" not in sys.modules
    import torch

    assert findings["torch"]["facts"]["version"] == torch.__version__
    assert findings["devices"]["facts"]["auto"] in ("float32", "bfloat16")
    assert "HF_HUB_OFFLINE" in findings["hub"]["found"]
    assert findings["packages"]["facts"]["transformers"] == metadata.version("transformers")
    assert {"extra train", "extra search", "memory", "terminal", "cache", "here", "hub cache"} <= findings.keys()
    assert "babelclip starter" in findings["model"]["advice"]


def test_a_torch_that_ends_the_process_is_told_and_the_rest_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", modules(tmp_path, torch="import os, signal; os.kill(os.getpid(), signal.SIGILL)"))
    findings = {finding.topic: finding for finding in doctor.examine()}
    assert findings["torch"].state == "problem"
    assert "instruction" in findings["torch"].found
    assert "older torch" in findings["torch"].advice
    assert "HF_HUB_OFFLINE" in findings["hub"].found  # a process of its own, without torch
    assert findings["memory"].facts["cores"] >= 1


def test_a_torch_that_fails_is_told_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", modules(tmp_path, torch="raise OSError('libcudart.so.13: cannot open')"))
    facts, end = start_probe()(30)
    found = judge_torch(facts, end)
    assert (found.state, "libcudart.so.13" in found.found, "torch==" in found.advice) == ("problem", True, True)


def test_a_probe_that_hangs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", modules(tmp_path, torch="import time; time.sleep(60)"))
    start = time.monotonic()
    facts, end = start_probe()(1)
    assert time.monotonic() - start < 10
    assert "within 1 s" in judge_torch(facts, end).found


def test_a_file_in_the_users_folder_is_not_taken_for_torch(tmp_path, monkeypatch):
    monkeypatch.chdir(modules(tmp_path, torch="raise RuntimeError('not this one')", json="raise RuntimeError"))
    facts, _end = start_probe()(60)
    assert "not this one" not in json.dumps(facts)
    assert "version" in facts["torch"]


def test_half_a_line_of_a_killed_probe_is_left_out():
    facts = read_answers('{"step": "torch", "begins": true}\n{"step": "torch", "ver', "it was ended by signal 9")
    assert facts == {"torch": {"error": "it was ended by signal 9"}}


def test_a_driver_that_torch_cannot_use_is_a_note(monkeypatch):
    monkeypatch.setattr("babelclip.doctor.judge.shutil.which", lambda _: "/usr/bin/nvidia-smi")
    [found] = judge_devices({"torch": TORCH})
    assert found.state == "note"
    assert "without CUDA" in found.advice


def test_a_gpu_is_what_auto_decides_for():
    gpu = {"name": "cuda:0", "model": "H200", "memory": 150e9, "bfloat16": True}
    [found] = judge_devices({"torch": TORCH | {"devices": [*TORCH["devices"], gpu]}})
    assert (found.state, found.facts["auto"], found.facts["default"]) == ("ok", "bfloat16", "cuda:0")
    assert "H200, 150 GB" in found.found


def test_a_working_torchvision_is_no_problem():
    [found] = judge_torchvision({"torchvision": {"installed": True, "version": "0.28.0"}}, "")
    assert found.state == "ok"
    assert judge_torchvision({"torchvision": {"installed": False}}, "") == []


def test_a_hub_that_answers_and_one_that_does_not(hub, monkeypatch):
    assert knock() == ""
    [silent] = judge_hub({"torch": TORCH, "hub": {"offline": False, "silence": "the hub does not answer"}})
    assert (silent.state, "HF_ENDPOINT" in silent.advice) == ("note", True)
    monkeypatch.setenv("HF_ENDPOINT", "http://user:secret@127.0.0.1:1")
    assert "ConnectError" in knock()
    assert "secret" not in knock()
    assert shown_endpoint() == "http://127.0.0.1:1"


def test_a_hub_that_never_answers_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: time.sleep(5))
    start = time.monotonic()
    assert "no answer within 0.1 s" in knock(0.1)
    assert time.monotonic() - start < 3


def test_an_endpoint_that_is_no_address_is_a_problem(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "example.org")
    with pytest.raises(BabelclipError) as caught:
        knock()
    [found] = judge_hub({"torch": TORCH, "hub": {"error": str(caught.value)}})
    assert (found.state, "HF_ENDPOINT" in found.found) == ("problem", True)


def test_every_extra_is_read_and_its_versions_are_compared(monkeypatch):
    versions = {"lancedb": "0.39.0", "fastapi": "0.165.0", "uvicorn": "0.54.0", "prometheus-client": "0.26.0"}
    versions |= {"httptools": "0.9.0", "uvloop": "0.23.0"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(packages.metadata, "version", version)
    found = {finding.topic: finding for finding in packages.look_at_extras()}
    assert found["extra search"].state == "problem"
    assert "lancedb 0.39.0 (needs <0.41,>=0.40)" in found["extra search"].found
    assert found["extras"].state == "ok"
    assert "faiss" in found["extras"].facts["absent"]
    assert "babelclip[NAME]" in found["extras"].found
    del versions["uvicorn"]
    [search] = [finding for finding in packages.look_at_extras() if finding.topic == "extra search"]
    assert (search.state, "uvicorn is missing" in search.found) == ("note", True)
    assert "babelclip[search]" in search.advice
    assert packages.look_at_packages().state == "problem"
    versions["torch"] = "2.5.0+cpu"
    assert "torch 2.5.0+cpu (needs >=2.6)" in packages.look_at_packages().found
    assert "torch==" not in packages.look_at_packages().advice


def test_an_installed_package_is_asked_where_no_checkout_is(monkeypatch, tmp_path):
    lines = ["torch>=2.6", 'lancedb>=0.40; extra == "search"', 'mteb>=2; python_version >= "3.11" and extra == "mteb"']
    monkeypatch.setattr(packages.babelclip, "__file__", str(tmp_path / "babelclip" / "__init__.py"))
    monkeypatch.setattr(packages.metadata, "requires", lambda _: lines)
    packages.asked_for.cache_clear()
    try:
        asked = packages.asked_for()
        assert (asked[""], asked["search"], len(asked["mteb"])) == (lines[:1], lines[1:2], 1)
        assert [package.name for package in packages.needed("search")] == ["lancedb"]
    finally:
        packages.asked_for.cache_clear()


def test_disks_that_are_full_or_take_no_files_are_problems(tmp_path, monkeypatch):
    no_folder = tmp_path / "file"
    no_folder.write_text("")
    monkeypatch.setenv("BABELCLIP_CACHE", str(no_folder / "cache"))
    found = {finding.topic: finding for finding in machine.look_at_disks(tmp_path / "not" / "yet")}
    assert (found["cache"].state, "BABELCLIP_CACHE" in found["cache"].advice) == ("problem", True)
    assert found["hub cache"].facts["free"] > 0
    usage = namedtuple("usage", "total used free")
    for free, state in ((1e8, "problem"), (1e9, "note"), (1e12, "ok")):
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda _, free=free: usage(0, 0, free))
        assert {f.topic: f.state for f in machine.look_at_disks(None)}["here"] == state


def test_little_memory_and_a_small_share_of_cores_are_notes(monkeypatch):
    monkeypatch.setattr(machine, "memory", lambda: (int(8e9), int(1e9)))
    monkeypatch.setattr(machine, "cores_and_quota", lambda: (4, None))
    assert "int8" in machine.look_at_memory().advice
    monkeypatch.setattr(machine, "cores_and_quota", lambda: (16, 2.0))
    assert "OMP_NUM_THREADS=2" in machine.look_at_memory().advice


def test_a_terminal_without_utf8_is_a_problem_that_can_be_printed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    found = machine.look_at_terminal()
    assert (found.state, "PYTHONUTF8=1" in found.advice) == ("problem", True)
    assert "output in latin-1" in found.found
    assert found.found.isascii()
    assert machine.is_utf8("UTF-8")
    assert not machine.is_utf8("ANSI_X3.4-1968")
