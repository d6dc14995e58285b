"""Judges and reward models behind a real `vllm serve` on the CPU: one server that chats, held by a
process that is killed at the end, and one that pools, started by the reward itself.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from align.data.chat import encode_prompt
from align.errors import SetupError, StageError
from align.inference.vllm_server import VllmServer
from align.inference.vllm_setup import EngineOptions
from align.models import load_scorer, load_tokenizer, make_policy
from align.recipe.sections import Policy
from align.records import Json, Turn
from align.registry import build
from align.rewards.ledger import read_usage
from align.rewards.protocol import Group
from align.rewards.reward_model import RewardModel
from align.rewards.served_classifier import ServedScorer
from align.rewards.served_reward_model import ServedRewardModel, Tokenizer
from align.rewards.serving_options import Place, Server
from align.rewards.sources import open_judge
from align.rewards.verdict import TOP
from tests.rewards.builders import group_of, values_of

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)
ALPHABET = "0123456789ABC[]|?+=.:ua "
HOLDER = """
import sys
from pathlib import Path
from align.inference.vllm_server import VllmServer
from align.inference.vllm_setup import EngineOptions
server = VllmServer(Path(sys.argv[1]), EngineOptions(), "generate", log=Path(sys.argv[2]))
print(server.url, server.model, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal Llama of random weights with a chat template, context of 256 characters."""
    folder = tmp_path_factory.mktemp("chat-model")
    config: dict[str, object] = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
    }
    tokenizer: dict[str, object] = {"kind": "characters", "alphabet": ALPHABET}
    make_policy(Policy(config=config, tokenizer=tokenizer), folder, seed=1)
    loaded = load_tokenizer(folder)
    loaded.chat_template = TEMPLATE
    loaded.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def reward_model(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward-model")
    load_scorer(chat_model, seed=3).save_pretrained(str(folder))
    load_tokenizer(chat_model).save_pretrained(str(folder))
    return folder


@dataclass(frozen=True)
class Held:
    """A server and the process that started it."""

    holder: subprocess.Popen[str]
    url: str
    model: str

    def group(self) -> list[int]:
        """The live processes of the server's group."""
        found = {pid: words for pid, words in _processes().items() if self.model in words}
        groups = {os.getpgid(pid) for pid in found}
        return [pid for pid in _processes() if _group_of(pid) in groups]


@pytest.fixture(scope="module", autouse=True)
def holder(
    chat_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[subprocess.Popen[str]]:
    """Starts the server that chats; it loads while the other tests run."""
    log = tmp_path_factory.mktemp("logs") / "chat"
    command = [sys.executable, "-c", HOLDER, str(chat_model), str(log)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def chatting(holder: subprocess.Popen[str]) -> Held:
    assert holder.stdout is not None
    url, model = holder.stdout.readline().split()
    return Held(holder, f"{url}/v1", model)


def _processes() -> dict[int, str]:
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if state != "Z":
                found[int(entry.name)] = words
    return found


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def next_token(folder: Path, question: str) -> dict[str, float]:
    """The TOP most likely first tokens of an answer, with their log-probs."""
    tokenizer = load_tokenizer(folder)
    turn: Turn = {"role": "user", "content": question}
    ids = torch.tensor([encode_prompt(tokenizer, [turn], None)])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logps = model(ids).logits[0, -1].log_softmax(-1)
    best = logps.topk(TOP)
    words = tokenizer.convert_ids_to_tokens(best.indices.tolist())
    return dict(zip(words, best.values.tolist(), strict=True))


def sampling_of(folder: Path, labels: str) -> dict[str, object]:
    """One token, one of these: a model of random weights gives a verdict."""
    ids = load_tokenizer(folder).convert_tokens_to_ids(list(labels))
    return {"max_tokens": 1, "allowed_token_ids": ids}


def mean_of(top: dict[str, float], worth: dict[str, float]) -> float:
    masses = {label: math.exp(top[label]) for label in worth if label in top}
    return sum(p * worth[label] for label, p in masses.items()) / sum(masses.values())


def test_what_is_no_reward_model_is_refused_before_vllm_starts(chat_model: Path) -> None:
    with pytest.raises(SetupError, match="is not a reward model"):
        ServedRewardModel(path=str(chat_model)).open()
    with pytest.raises(SetupError, match=r"server\.engine\.max_num_seq is not an option"):
        VllmServer(chat_model, EngineOptions(extra={"max_num_seq": 1}), "generate")


@pytest.fixture(scope="module")
def pooling(
    chat_model: Path, reward_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServedScorer, Path]]:
    """A reward model that serves itself, and the folder of its place."""
    folder = tmp_path_factory.mktemp("run")
    place = Place(str(folder / "answers"), str(folder / "usage"), str(folder / "logs" / "score"))
    scorer = ServedRewardModel(
        path=str(reward_model), policy=str(chat_model), server=Server(dtype="float32"), place=place
    ).open()
    yield scorer, folder
    scorer.close()


def sampled(folder: Path) -> list[Group]:
    """Groups whose ids are not what their text would be encoded to."""
    groups = [group_of("1+1=", None, "2", "31."), group_of("9+", None, "9", "10 = ?", "10 = ?")]
    tokenizer = load_tokenizer(folder)
    return [
        Group(
            group.prompt,
            tuple(
                replace(
                    sample,
                    prompt_ids=tuple(
                        tokenizer.encode("7" + str(group.prompt.messages[0]["content"]))
                    ),
                    completion_ids=tuple(tokenizer.encode(sample.text, add_special_tokens=False)),
                )
                for sample in group.samples
            ),
        )
        for group in groups
    ]


def flat(values: list[list[float | None]]) -> list[float]:
    return [value for group in values for value in group if value is not None]


def test_served_scores_are_those_of_the_model_in_process(
    pooling: tuple[ServedScorer, Path], chat_model: Path, reward_model: Path
) -> None:
    """The sampled ids, then text rendered by a template of the user's; raw logits in both."""
    scorer, folder = pooling
    groups = sampled(chat_model)
    here = RewardModel(path=str(reward_model), policy=str(chat_model)).open()
    assert scorer.scores_ids and here.scores_ids
    expected = flat(values_of(here.score(groups)))
    found = flat(values_of(scorer.score(groups)))
    assert found == pytest.approx(expected, abs=1e-4)
    assert max(expected) > 1 or min(expected) < 0  # no probabilities
    here.close()
    tokens = {(*s.prompt_ids, *s.completion_ids) for group in groups for s in group.samples}
    counts = scorer.endpoint.ledger.entries
    assert (counts["requests"], counts["prompt_tokens"]) == (4, sum(map(len, tokens)))  # 2 equal
    assert list((folder / "logs").glob("score.*.log"))
    assert flat(values_of(scorer.score(groups))) == found
    assert counts["cached_answers"] == 4

    remote = ServedRewardModel(
        url=scorer.endpoint.url.removesuffix("/classify"),
        model=scorer.endpoint.model,
        tokenizer=Tokenizer(str(reward_model)),
        chat_template="plain",
        policy=str(chat_model),
    ).open()
    here = RewardModel(path=str(reward_model), chat_template="plain").open()
    assert not remote.scores_ids
    rendered = flat(values_of(here.score(groups)))
    assert flat(values_of(remote.score(groups))) == pytest.approx(rendered, abs=1e-4)
    assert max(abs(a - b) for a, b in zip(rendered, expected, strict=True)) > 1e-3
    remote.close()
    here.close()


def test_too_long_a_row_fails_alone(pooling: tuple[ServedScorer, Path]) -> None:
    (group,) = [group_of("", None, "1" * 300, "1")]
    long, short = group.samples
    samples = (replace(long, prompt_ids=(1,) * 300), replace(short, completion_ids=(5, 6)))
    (scores,) = pooling[0].score([replace(group, samples=samples)])
    assert "maximum context length is 256" in str(scores[0].error)
    assert scores[0].value is None and scores[1].value is not None


DIGITS = {str(digit): float(digit) for digit in range(10)}


def test_judge_reads_the_models_verdict_and_its_expectation(
    chatting: Held, chat_model: Path, tmp_path: Path
) -> None:
    """Against the model's own log-probs: the likeliest digit, and the mean over digits."""
    group = group_of("1+1=", None, "2", "31")
    section: dict[str, Any] = {
        "name": "judge",
        "url": chatting.url,
        "model": chatting.model,
        "rubric": {"text": "{{ prompt }}|{{ completion }}?", "verdict": r"(\d)"},
        "sampling": sampling_of(chat_model, "0123456789"),
        "place": {"usage": str(tmp_path / "usage")},
    }
    written, expected = (
        build("reward", section | {"scale": {"low": 0, "high": 9, "expected": flag}}).open()
        for flag in (False, True)
    )
    ((first, second),) = values_of(written.score([group]))
    (scores,) = expected.score([group])
    written.close()
    expected.close()
    tops = [next_token(chat_model, f"1+1=|{text}?") for text in ("2", "31")]
    likeliest = [max(DIGITS, key=lambda digit: top.get(digit, -math.inf)) for top in tops]
    assert [first, second] == [float(digit) for digit in likeliest]
    assert [score.value for score in scores] == pytest.approx(
        [mean_of(top, DIGITS) for top in tops], abs=1e-4
    )
    mass = sum(math.exp(tops[0][digit]) for digit in DIGITS if digit in tops[0])
    assert scores[0].parts["mass"] == pytest.approx(mass, abs=1e-4)
    assert scores[0].parts["verdict"] == first
    counts, _ = read_usage(tmp_path)
    question = encode_prompt(
        load_tokenizer(chat_model), [{"role": "user", "content": "1+1=|2?"}], None
    )
    tokens = 2 * (2 * len(question) + 1)
    assert (counts["prompt_tokens"], counts["completion_tokens"]) == (tokens, 4)


def test_pairwise_judge_averages_both_orders_of_the_model(chatting: Held, chat_model: Path) -> None:
    group = group_of("1+1=", None, "2", "31", "444")
    section: dict[str, Json] = {
        "name": "pairwise_judge",
        "url": chatting.url,
        "model": chatting.model,
        "rubric": {"text": "{{ first }}|{{ second }}?", "verdict": "([ABC])"},
        "sampling": sampling_of(chat_model, "ABC"),  # pyright: ignore[reportAssignmentType]
        "expected": True,
    }
    judge = open_judge(section, {})
    (matrix,) = judge.preferences([group])
    judge.close()
    worth = {"A": 1.0, "B": 0.0, "C": 0.5}
    texts = [sample.text for sample in group.samples]
    for i, one in enumerate(texts):
        for j, two in enumerate(texts):
            straight = mean_of(next_token(chat_model, f"{one}|{two}?"), worth)
            turned = mean_of(next_token(chat_model, f"{two}|{one}?"), worth)
            wanted = 0.5 if i == j else (straight + 1 - turned) / 2
            assert matrix[i][j] == pytest.approx(wanted, abs=1e-4)


def test_a_question_beyond_the_context_fails_alone(chatting: Held, chat_model: Path) -> None:
    scorer = build(
        "reward",
        {
            "name": "judge",
            "url": chatting.url,
            "model": chatting.model,
            "rubric": {"text": "{{ completion }}", "verdict": r"(\d)"},
            "sampling": sampling_of(chat_model, "0123456789"),
            "scale": {"low": 0, "high": 9},
        },
    ).open()
    (scores,) = scorer.score([group_of("", None, "1" * 300, "1")])
    scorer.close()
    assert scores[0].value is None and "maximum context length is 256" in str(scores[0].error)
    assert scores[1].value is not None


def test_another_name_than_the_served_one_ends_the_stage(chatting: Held) -> None:
    scorer = build("reward", {"name": "judge", "url": chatting.url, "model": "other"}).open()
    with pytest.raises(StageError, match=r"refused the request with status 404.*other"):
        scorer.score([group_of("", None, "1")])
    scorer.close()


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why(chat_model: Path, tmp_path: Path) -> None:
    """vLLM's own reason, from its log."""
    options = EngineOptions(max_model_len=100_000)
    with pytest.raises(StageError, match=r"did not start: .*max_model_len.*log: ") as failed:
        VllmServer(chat_model, options, "generate", log=tmp_path / "vllm")
    assert "100000" in str(failed.value)


def test_server_dies_with_whoever_started_it(chatting: Held) -> None:
    """SIGKILL leaves no time to say goodbye; vLLM's own children go too. The last test: it ends
    the server.
    """
    assert len(chatting.group()) >= 3  # lifeline, API server, engine
    group = chatting.group()
    chatting.holder.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (alive := [pid for pid in group if pid in _processes()]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert alive == []
