"""Several nodes: two network namespaces with one cable between them are two hosts that share the
disk. Training is ZeRO-3, one rank a host.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from align.data.shards import parts
from tests.end_to_end.conftest import TINY_POLICY, contents, start_align

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(900)]

RECIPE = (
    "\nrun: {name: nodes, seed: 3, iterations: 1}\n"
    + TINY_POLICY
    + """\
sft:
  data: {name: addition, digits: 2, split: train, limit: 64}
  global_batch_size: 8
  max_length: 16
  args: {learning_rate: 1.0e-2, max_steps: 12, save_steps: 4}
prompts: {name: addition, digits: 2, split: prompts, per_iteration: 260}
generate: {name: transformers, n: 2, temperature: 1.0, max_new_tokens: 4}
score: {name: length}
pair: {name: max_min, truncated: keep}
train:
  objective: {name: dpo, loss: sigmoid, beta: 1.0}
  global_batch_size: 4
  args: {learning_rate: 1.0e-3, max_steps: 8, save_steps: 3}
"""
)
"""Its 260 prompts are two shards, so that each node samples and scores one."""

ADDRESSES = ("10.213.7.1", "10.213.7.2")


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[str, str]]:
    """Two hosts, by the names of their namespaces; fails where the kernel does not allow them."""
    names = (f"align-{os.getpid()}-0", f"align-{os.getpid()}-1")
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip(
            "-n",
            names[0],
            "link",
            "add",
            "cable",
            "type",
            "veth",
            "peer",
            "cable",
            "netns",
            names[1],
        )
        for name, address in zip(names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            for link in ("lo", "cable"):
                _ip("-n", name, "link", "set", link, "up")
        yield names
    finally:
        for name in names:
            subprocess.run([_ip_path(), "netns", "delete", name], check=False, capture_output=True)


def _ip(*words: str) -> None:
    finished = subprocess.run([_ip_path(), *words], check=False, capture_output=True, text=True)
    if finished.returncode:
        pytest.fail(
            f"two hosts cannot be built on this machine: `ip {' '.join(words)}` says "
            f"{finished.stderr.strip()!r}; it takes root and a kernel with network namespaces"
        )


def _ip_path() -> str:
    found = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.fail("two hosts cannot be built on this machine: install iproute2 (`ip`)")
    return found


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "nodes.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def one_host(
    recipe: Path, tmp_path_factory: pytest.TempPathFactory, run_align: Callable[..., str]
) -> Path:
    """The run on one host with two ranks."""
    out = tmp_path_factory.mktemp("one") / "run"
    run_align(*("run", recipe, "--out", out, "--accelerate-config", "zero3"), *("--processes", 2))
    return out


def start_nodes(hosts: Sequence[str], recipe: Path, out: Path) -> list[subprocess.Popen[str]]:
    """The same command on both hosts."""
    where = ("--nodes", 2, "--main-address", ADDRESSES[0])
    how = ("--accelerate-config", "zero3", "--processes", 1)
    return [
        start_align(
            ("run", recipe, "--out", out, *where, "--node-rank", rank, *how),
            (_ip_path(), "netns", "exec", host),
        )
        for rank, host in enumerate(hosts)
    ]


def finish(nodes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """What each printed; both must exit 0."""
    outputs = [node.communicate(timeout=600)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(outputs)
    return outputs


def kill_when(nodes: Sequence[subprocess.Popen[str]], victim: int, file: Path) -> tuple[str, float]:
    """Kills one node as soon as `file` exists; the other's last line, and the seconds until it."""
    while not file.exists():
        assert all(node.poll() is None for node in nodes), [node.communicate()[0] for node in nodes]
        time.sleep(0.02)
    nodes[victim].kill()
    began = time.monotonic()
    survivor = nodes[1 - victim]
    output, _ = survivor.communicate(timeout=300)
    seconds = time.monotonic() - began
    nodes[victim].communicate()
    assert survivor.returncode == 3, output
    return output.splitlines()[-1], seconds


def test_two_hosts_losing_each_node_once_end_with_the_content_of_one_host(
    hosts: tuple[str, str], recipe: Path, one_host: Path, tmp_path: Path
) -> None:
    """Node 1 is killed in SFT, then node 0 in the policy stage; each time the other one exits 3
    and says who is gone, and the same commands go on.
    """
    out = tmp_path / "run"
    for victim, step in ((1, "sft"), (0, "iter-000/checkpoint")):
        marks = {"sft": "checkpoint-4", "iter-000/checkpoint": "checkpoint-3"}
        nodes = start_nodes(hosts, recipe, out)
        line, seconds = kill_when(nodes, victim, out / step / ".trainer" / marks[step] / "complete")
        assert line.startswith(f"node {victim} has stopped answering; here: "), line
        survivor = f"{step.replace('/', '.')}.node{1 - victim}.log"
        assert line.endswith(f"(log: {out / 'logs' / survivor})"), line
        assert seconds < 60
        assert not (out / step / "manifest.json").exists()
    first, second = finish(start_nodes(hosts, recipe, out))
    assert "done iter-000/checkpoint" in first and f"run    {out}" in first
    assert "align.launch.policy" in second and "report" not in second
    assert contents(out) == contents(one_host)
    assert len(parts(out / "iter-000" / "samples")) == 2
    assert (out / "logs" / "iter-000.samples.node1.log").is_file()


@pytest.mark.slow
def test_two_hosts_undisturbed_make_what_one_host_makes(
    hosts: tuple[str, str], recipe: Path, one_host: Path, tmp_path: Path
) -> None:
    finish(start_nodes(hosts, recipe, tmp_path / "run"))
    assert contents(tmp_path / "run") == contents(one_host)
