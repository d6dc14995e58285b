"""The client against a server with faults, and both our ends against each other."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from align import cli
from align.errors import SetupError, StageError
from align.records import Json, Prompt
from align.rewards.http import Http, text_of
from align.rewards.posting import pauses
from align.rewards.protocol import Group
from tests.rewards.builders import group_of, sample_of, values_of
from tests.rewards.reward_stand_in import RewardStandIn


def test_request_has_the_remote_form_and_order_is_kept() -> None:
    """A query is prompt + completion; the stand-in rewards its length: 1 + 1, 1 + 2, 2 + 1."""
    groups = [group_of("a", "A", "x", "xx"), group_of("bb", None, "y")]
    with RewardStandIn() as server:
        scorer = Http(url=server.url).open()
        assert values_of(scorer.score(groups)) == [[2.0, 3.0], [3.0]]
        scorer.close()
    body = server.bodies[0]
    assert body["query"] == ["ax", "axx", "bby"]
    assert (body["prompts"], body["labels"]) == (["a", "a", "bb"], ["A", "A", None])
    assert body["messages"][2] == [{"role": "text", "content": "bb"}]
    assert server.tokens == [None]


def test_batches_over_several_connections_keep_the_order() -> None:
    groups = [group_of("", None, *("x" * (10 * g + i) for i in range(5))) for g in range(6)]
    with RewardStandIn(0.2) as server:
        scorer = Http(url=server.url, batch_size=7, connections=3).open()
        values = values_of(scorer.score(groups))
        scorer.close()
    assert values == [[float(10 * g + i) for i in range(5)] for g in range(6)]
    assert sorted(len(body["query"]) for body in server.bodies) == [2, 7, 7, 7, 7]


@pytest.mark.parametrize("fault", [500, 503, 429, 4.0])
def test_what_a_server_may_recover_from_is_tried_again(fault: object) -> None:
    """A status, or an answer later than the timeout of two seconds; the second try succeeds."""
    with RewardStandIn(fault) as server:
        scorer = Http(url=server.url, timeout=2.0, retries=1).open()
        assert values_of(scorer.score([group_of("a", None, "x")])) == [[2.0]]
        scorer.close()
    assert len(server.bodies) == 2


def test_pauses_double_up_to_half_a_minute() -> None:
    assert list(pauses(8)) == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_rewards_that_are_no_numbers_fail_alone() -> None:
    rewards, errors = '[NaN, null, "high", 1.5, true]', '[null, "too long", null, null, null]'
    answer = f'{{"rewards": {rewards}, "errors": {errors}}}'
    with RewardStandIn(answer) as server:
        scorer = Http(url=server.url).open()
        scores = scorer.score([group_of("a", None, *"vwxyz")])[0]
        scorer.close()
    assert [score.value for score in scores] == [None, None, None, 1.5, None]
    assert [score.error for score in scores] == [
        "http: the reward is nan",
        "http: too long",
        "http: the reward is 'high'",
        None,
        "http: the reward is True",
    ]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"rewards": [1.0]}, "answered 2 queries with 1 rewards"),
        ({"scores": [1.0, 2.0]}, "with no list `rewards`"),
        ([1.0, 2.0], "answered a list, no object"),
        ("<html>", "answered what is not JSON"),
        (401, "refused the request with status 401"),
        (500, r"gave no answer in 1 tries \(status 500\).*the same command goes on"),
        (4.0, r"gave no answer in 1 tries \(ReadTimeout"),
    ],
)
def test_server_that_cannot_be_used_fails_the_stage(fault: object, message: str) -> None:
    with RewardStandIn(fault) as server:
        scorer = Http(url=server.url, retries=0, timeout=2.0).open()
        with pytest.raises(StageError, match=message):
            scorer.score([group_of("a", None, "x", "y")])
        scorer.close()


def test_token_is_sent_and_never_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = Http(url="http://127.0.0.1:1/", token_variable="ALIGN_TEST_TOKEN", retries=0)
    with pytest.raises(SetupError, match="ALIGN_TEST_TOKEN is not set"):
        config.open()
    monkeypatch.setenv("ALIGN_TEST_TOKEN", "very-secret")
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StageError) as lost:
        config.open().score([group_of("a", None, "x")])
    with RewardStandIn(403) as server:
        scorer = Http(url=server.url, token_variable="ALIGN_TEST_TOKEN").open()
        with pytest.raises(StageError) as refused:
            scorer.score([group_of("a", None, "x")])
    assert server.tokens == ["Bearer very-secret"]
    for said in (str(lost.value), str(refused.value), repr(config), caplog.text):
        assert "very-secret" not in said


def test_prompt_of_several_turns_is_one_text() -> None:
    turns: list[dict[str, Json]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]
    assert text_of(Prompt.of(turns)) == "system: Be brief.\n\nuser: Hi\n\nassistant: "
    assert text_of(Prompt.of(turns[1:])) == "Hi"


RECIPE = """
score:
  - {name: exact_match, right: 2}
  - {name: length, unit: characters, slope: -0.5, label: brief}
  - {name: length, weight: 0, label: tokens}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`align serve-reward` in a process of its own, asking for a token."""
    recipe = tmp_path_factory.mktemp("served") / "reward.yaml"
    recipe.write_text(RECIPE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "align", "serve-reward", str(recipe), "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--token-variable", "ALIGN_TEST_TOKEN"],
        env=os.environ | {"ALIGN_TEST_TOKEN": "very-secret"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert said == (
            f"serving exact_match, brief, tokens at http://127.0.0.1:{port}/get_reward\n"
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                health = httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).json()
                assert health == {"status": "ok", "sources": ["exact_match", "brief", "tokens"]}
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/get_reward"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        process.stdout.close()


def test_our_server_scores_for_our_client(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 x [right] - 0.5 x characters: `4` is right: 2 - 0.5; `no` is wrong: 0 - 1.0. The prompt's
    turns and its answer arrive as they were."""
    monkeypatch.setenv("ALIGN_TEST_TOKEN", "very-secret")
    chat = Prompt.of(
        [{"role": "system", "content": "s"}, {"role": "user", "content": "?"}], answer="4"
    )
    groups = [
        group_of("2+2=", "4", "4", "no"),
        Group(chat, (sample_of(chat, 0, "4"),)),
        group_of("1+1=", ["2", "two"], "two"),
    ]
    scorer = Http(url=served, token_variable="ALIGN_TEST_TOKEN", batch_size=2).open()
    assert values_of(scorer.score(groups)) == [[1.5, -1.0], [1.5], [0.5]]
    scorer.close()


def test_server_answers_parts_errors_and_refuses_strangers(served: str) -> None:
    body = {"query": ["2+2=4", "?"], "prompts": ["2+2=", "?"], "labels": ["4", None]}
    assert httpx.post(served, json=body).status_code == 401
    headers = {"Authorization": "Bearer very-secret"}
    answer = httpx.post(served, json=body, headers=headers).json()
    assert answer["rewards"] == [1.5, None]
    assert answer["parts"][0] == {"exact_match": 2.0, "brief": -0.5, "tokens": None}
    assert answer["errors"][0] is None
    assert "has no reference answer" in answer["errors"][1]
    wrong = body | {"labels": ["4"]}
    assert httpx.post(served, json=wrong, headers=headers).status_code == 422


def test_recipe_without_a_reward_to_serve_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "reward.yaml"
    for text, cause in (
        ("policy: {path: x}", "has no score; add e.g. score"),
        ("score: {name: reward_model}", "reward model of its own run"),
        ("score: {name: nothing}", "is not a known reward"),
    ):
        recipe.write_text(text)
        assert cli.main(["serve-reward", str(recipe)]) == 2
        assert cause in capsys.readouterr().err
    recipe.write_text("score: {name: exact_match}")
    assert cli.main(["serve-reward", str(recipe), "--token-variable", "ALIGN_ABSENT"]) == 2
    assert "ALIGN_ABSENT is not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--failed", "nan"], "--failed nan is no number that JSON knows; give a finite one"),
        (["--port", "99999"], "--port 99999 is no port; give one of 1 to 65535"),
        (["--port", "TAKEN"], "Address already in use"),
        (["--host", "nowhere.invalid"], "cannot listen at nowhere.invalid:5000: "),
    ],
)
def test_where_a_server_cannot_listen_is_said_before_the_reward_is_opened(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """This one could not even be opened: its folder holds no model."""
    recipe = tmp_path / "reward.yaml"
    recipe.write_text(f"score: {{name: reward_model, path: {tmp_path}}}")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        words = [port if word == "TAKEN" else word for word in options]
        assert cli.main(["serve-reward", str(recipe), *words]) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1
