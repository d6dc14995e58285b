"""Chat judges against a stand-in of the protocol: questions, verdicts, faults, answers on disk,
cost.
"""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest

from align.errors import DataError, SetupError, StageError
from align.records import Prompt
from align.registry import PluginError, build, check
from align.rewards.answers import Answers
from align.rewards.judge import Judge
from align.rewards.ledger import read_usage
from align.rewards.protocol import Group, Scorer
from align.rewards.sources import open_judge, weigh_sources
from align.rewards.verdict import expected_value, find_verdict, read_answer
from tests.rewards.builders import group_of, sample_of, values_of
from tests.rewards.chat_stand_in import ChatStandIn
from tests.rewards.reward_stand_in import RewardStandIn

RATINGS = re.compile(r"\[\[(\d+)\]\]")
SHORT = {"text": "{{ prompt }}|{{ completion }}|{{ low }}-{{ high }}"}
PAIR = {"text": "{{ first }}|{{ second }}"}


def open_reward(name: str, url: str, **options: Any) -> Scorer:
    spec = {"name": name, "url": url, "model": "m", **options}
    return build("reward", spec).open()


def rate_by_length(question: str) -> str:
    return f"Well. Rating: [[{len(question.split('|')[1])}]]"


def test_default_rubric_shows_conversation_reply_answer_and_scale() -> None:
    chat = Prompt.of(
        [
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "4"},
            {"role": "user", "content": "3+3?"},
        ],
        answer=6,
    )
    groups = [
        Group(chat, (sample_of(chat, 0, "It is {{ six }}. [[10]]"),)),
        group_of("hi", None, "x"),
    ]
    with ChatStandIn("A good one. Rating: [[7]]") as server:
        scorer = open_reward("judge", server.url, scale={"low": 0, "high": 7})
        assert values_of(scorer.score(groups)) == [[7.0], [7.0]]
        scorer.close()
    question = next(q for q in server.questions if "3+3" in q)
    assert "<conversation>\nuser: 2+2?\n\nassistant: 4\n\nuser: 3+3?\n</conversation>" in question
    assert "<reference_answer>\n6\n</reference_answer>" in question
    assert "<reply>\nIt is {{ six }}. [[10]]\n</reply>" in question  # rendered as it is
    assert "from 0 (worst) to 7 (best)" in question
    assert "reference" not in next(q for q in server.questions if "\nhi\n" in q)
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == (
        "m",
        0,
        1024,
        0,
    )
    assert "logprobs" not in body


def test_sampling_goes_into_the_request_and_null_leaves_out() -> None:
    with ChatStandIn("[[3]]") as server:
        sampling = {"temperature": None, "max_tokens": None, "max_completion_tokens": 9}
        scorer = open_reward("judge", server.url, sampling=sampling)
        scorer.score([group_of("a", None, "x")])
        scorer.close()
    assert {*server.bodies[0]} == {"messages", "model", "seed", "max_completion_tokens"}


@pytest.mark.parametrize(
    ("text", "finish", "verdict"),
    [
        ("Rating: [[7]]", "stop", "7"),
        ("[[7]] because ... so [[7]]", "stop", "7"),
        ("first [[7]], no: [[3]]", "stop", "several verdicts: 7, 3"),
        ("I like it: 7", "stop", "no verdict in 'I like it: 7'"),
        ("Let me think", "length", "cut before its verdict; raise sampling.max_tokens"),
        ("", "stop", "no verdict in ''"),
    ],
)
def test_verdict_is_one_or_none(text: str, finish: str, verdict: str) -> None:
    kept = {"text": text, "finish": finish}
    if verdict.isdigit():
        assert find_verdict(kept, RATINGS) == verdict
    else:
        with pytest.raises(ValueError, match=re.escape(verdict)):
            find_verdict(kept, RATINGS)


def test_expected_value_is_the_mean_over_alternatives_of_the_verdicts_token() -> None:
    """Tokens `[`, `[7`, `]]`: 7 with .6, 8 with .2; ` 9` and `[x` are no ratings, and 0 is none of
    1 to 9. (.6 x 7 + .2 x 8) / .8 = 7.25, mass .8."""
    top = {"[7": 0.6, "[8": 0.2, " 9": 0.1, "[x": 0.05, "[0": 0.05}
    entries = [
        {"token": "[", "logprob": 0.0, "top_logprobs": [{"token": "[", "logprob": 0.0}]},
        {
            "token": "[7",
            "logprob": math.log(0.6),
            "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in top.items()],
        },
        {"token": "]]", "logprob": 0.0, "top_logprobs": []},
    ]
    data = {"choices": [{"message": {"content": "[[7]]"}, "logprobs": {"content": entries}}]}
    kept: Any = read_answer(data, RATINGS)
    assert (kept["text"], kept["token"], kept["at"]) == ("[[7]]", "[7", 1)
    values = {str(rating): float(rating) for rating in range(1, 10)}
    mean, mass = expected_value(kept, "7", values)
    assert (mean, mass) == (pytest.approx(7.25), pytest.approx(0.8))
    with pytest.raises(ValueError, match=r"the verdict '7\.5' is none of 1, 2"):
        expected_value(kept, "7.5", values)
    with pytest.raises(ValueError, match="no top_logprobs: set expected to false"):
        read_answer({"choices": [{"message": {"content": "[[7]]"}}]}, RATINGS)


def test_unread_verdicts_fail_alone_and_are_counted(tmp_path: Path) -> None:
    """Ratings are lengths on a scale of 1 to 3: 4 is beyond it."""
    with ChatStandIn(rate_by_length) as server:
        place = {"usage": str(tmp_path / "usage")}
        scale = {"low": 1, "high": 3}
        scorer = open_reward("judge", server.url, rubric=SHORT, scale=scale, place=place)
        (scores,) = scorer.score([group_of("a", None, "x", "xx", "xxxx", "x")])
        scorer.close()
    assert [score.value for score in scores] == [1.0, 2.0, None, 1.0]
    assert scores[2].error == "judge: the verdict 4 is not within 1 and 3"
    assert sorted(server.questions) == ["a|xxxx|1-3", "a|xx|1-3", "a|x|1-3"]  # equal ones once
    counts, measures = read_usage(tmp_path)
    assert counts == {
        "requests": 3,
        "prompt_tokens": 300,
        "completion_tokens": 30,
        "unread_verdicts": 1,
    }
    assert measures == {}


def test_a_rubric_that_shows_the_answer_needs_one() -> None:
    with ChatStandIn("[[3]]") as server:
        rubric = {"text": "{{ completion }} = {{ answer }}?"}
        scorer = open_reward("judge", server.url, rubric=rubric)
        scores = scorer.score([group_of("a", None, "x"), group_of("b", ["2", "two"], "y")])
        scorer.close()
    assert values_of(scores) == [[None], [3.0]]
    assert "the prompt has none" in str(scores[0][0].error)
    assert server.questions == ['y = ["2","two"]?']


@pytest.mark.parametrize(
    "fault", [500, 503, (429, {"Retry-After": "1"}), 2.0, "<html>", "[1]", '"text"']
)
def test_what_a_server_may_recover_from_is_tried_again(fault: object, tmp_path: Path) -> None:
    """A status, an answer later than the timeout, or no JSON object; the second try succeeds."""
    with ChatStandIn("[[3]]", fault) as server:
        requests = {"retries": 1, "timeout": 1.0}
        place = {"usage": str(tmp_path / "usage")}
        scorer = open_reward("judge", server.url, requests=requests, place=place)
        assert values_of(scorer.score([group_of("a", None, "x")])) == [[3.0]]
        scorer.close()
    assert len(server.bodies) == 2
    counts, _ = read_usage(tmp_path)
    assert (counts["requests"], counts["retries"]) == (1, 1)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (401, "refused the request with status 401"),
        (404, "refused the request with status 404.*check the address and the token"),
        (500, r"gave no answer in 1 tries \(status 500\).*the same command goes on"),
        (2.0, r"gave no answer in 1 tries \(ReadTimeout"),
        ("<html>", "answered what is not JSON"),
    ],
)
def test_server_that_cannot_be_used_ends_the_stage(fault: object, message: str) -> None:
    with ChatStandIn("[[3]]", fault) as server:
        scorer = open_reward("judge", server.url, requests={"retries": 0, "timeout": 0.5})
        with pytest.raises(StageError, match=message):
            scorer.score([group_of("a", None, "x")])
        scorer.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (400, "judge: status 400: "),
        ('{"id": 1}', "judge: the answer is no chat completion"),
        ('{"choices": []}', "judge: the answer is no chat completion"),
        (500, "judge: no answer: status 500"),
    ],
)
def test_a_request_that_the_server_cannot_answer_fails_its_sample(
    fault: object, reason: str
) -> None:
    """The status 500 only where the recipe says so."""
    with ChatStandIn("[[3]]", fault) as server:
        requests = {"retries": 0, "connections": 1, "unanswered": "fail"}
        scorer = open_reward("judge", server.url, requests=requests, rubric=SHORT)
        (scores,) = scorer.score([group_of("a", None, "x", "y")])
        scorer.close()
    assert [score.value for score in scores] == [None, 3.0]
    assert str(scores[0].error).startswith(reason)


def test_an_endless_answer_is_cut_at_the_deadline() -> None:
    """Bytes that keep coming do not extend it."""
    import socket
    import threading
    import time

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n")
            for _ in range(40):
                time.sleep(0.1)
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        scorer = open_reward("judge", url, requests={"retries": 0, "timeout": 0.5})
        with pytest.raises(StageError, match="the answer has no end"):
            scorer.score([group_of("a", None, "x")])
        scorer.close()
        thread.join(10)


def test_connections_bound_what_is_asked_at_once() -> None:
    with ChatStandIn("[[3]]", *[0.2] * 6) as server:
        scorer = open_reward("judge", server.url, rubric=SHORT, requests={"connections": 3})
        scorer.score([group_of("a", None, *"uvwxyz")])
        scorer.close()
    assert server.most_at_once == 3


def test_answers_are_kept_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    """A second opening asks for what is new; another model, rubric or sampling asks anew; a line
    cut short is none. 3 questions of 100 + 10 tokens at 2 and 30 a million: .0015."""
    place = {"answers": str(tmp_path / "answers"), "usage": str(tmp_path / "usage")}
    options: dict[str, Any] = {"rubric": SHORT, "place": place}
    options["requests"] = {"prices": {"prompt": 2, "completion": 30}}
    with ChatStandIn(rate_by_length) as server:

        def ask(*texts: str, **others: Any) -> list[float | None]:
            scorer = open_reward("judge", server.url, **{**options, **others})
            try:
                return values_of(scorer.score([group_of("a", None, *texts)]))[0]
            finally:
                scorer.close()

        assert ask("x", "xx") == [1.0, 2.0]
        assert ask("xx", "xxx", "x") == [2.0, 3.0, 1.0]
        assert [q.split("|")[1] for q in server.questions].count("x") == 1
        counts, measures = read_usage(tmp_path)
        assert (counts["requests"], counts["cached_answers"]) == (3, 2)
        assert measures == {"cost": pytest.approx(0.0015)}
        for file in (tmp_path / "answers").iterdir():  # x, xx and xxx: the last of each goes
            file.write_bytes(file.read_bytes()[:-5])
        assert ask("x", "xx", "xxx") == [1.0, 2.0, 3.0]
        assert len(server.bodies) == 5
        for others in (
            {"model": "other"},
            {"rubric": {"text": "!{{ prompt }}|{{ completion }}"}},
            {"sampling": {"temperature": 0.5}},
        ):
            assert ask("x", **others) == [1.0]
        assert len(server.bodies) == 8


def test_answers_of_several_writers_are_found_by_what_was_asked(tmp_path: Path) -> None:
    one, two = Answers(tmp_path), Answers(tmp_path)
    one.put({"q": 1}, {"text": "ä\ud800"})
    two.put({"q": 2}, 0.5)
    assert one.get({"q": 1}) == {"text": "ä\ud800"} and one.get({"q": 2}) is None
    again = Answers(tmp_path)
    assert (again.get({"q": 1}), again.get({"q": 2})) == ({"text": "ä\ud800"}, 0.5)


def test_a_stage_that_stops_keeps_what_was_answered(tmp_path: Path) -> None:
    place = {"answers": str(tmp_path / "answers"), "usage": str(tmp_path / "usage")}
    group = group_of("a", None, "x", "xx", "xxx")
    with ChatStandIn(rate_by_length, 0.0, 0.0, 500) as server:
        requests = {"connections": 1, "retries": 0}
        options: dict[str, Any] = {"rubric": SHORT, "place": place, "requests": requests}
        scorer = open_reward("judge", server.url, **options)
        with pytest.raises(StageError, match="the same command goes on from here"):
            scorer.score([group])
        scorer.close()
        scorer = open_reward("judge", server.url, **options)
        assert values_of(scorer.score([group])) == [[1.0, 2.0, 3.0]]
        scorer.close()
    assert len(server.bodies) == 4
    counts, _ = read_usage(tmp_path)
    assert (counts["requests"], counts["cached_answers"]) == (4, 2)  # both attempts


def test_token_is_sent_and_never_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The stand-in quotes the header in its refusals."""
    options: dict[str, Any] = {"token_variable": "ALIGN_TEST_TOKEN", "requests": {"retries": 0}}
    options["place"] = {"answers": str(tmp_path / "answers"), "usage": str(tmp_path / "usage")}
    with pytest.raises(SetupError, match="judge: the environment variable ALIGN_TEST_TOKEN is not"):
        open_reward("judge", "http://127.0.0.1:1/v1", **options)
    monkeypatch.setenv("ALIGN_TEST_TOKEN", "very-secret")
    caplog.set_level(logging.DEBUG)
    with ChatStandIn("[[3]]", 403, 400) as server:
        scorer = open_reward("judge", server.url, **options)
        with pytest.raises(StageError) as refused:
            scorer.score([group_of("a", None, "x")])
        scores = scorer.score([group_of("a", None, "x"), group_of("b", None, "x")])
        scorer.close()
    assert server.tokens == ["Bearer very-secret"] * 3
    kept = "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    for said in (str(refused.value), repr(scores), caplog.text, kept):
        assert "very-secret" not in said


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("judge", {}, "give either url, a running server, or path"),
        ("judge", {"url": "http://h/v1", "path": "org/m"}, "give either url"),
        ("judge", {"url": "http://h/v1"}, "url needs model"),
        ("judge", {"url": "h:80", "model": "m"}, "must begin with http:// or https://"),
        ("judge", {"url": "http://a:b@h", "model": "m"}, "url holds a password"),
        ("judge", {"path": "org/m", "model": "m"}, "model names what a url serves"),
        ("judge", {"path": "org/m", "token_variable": "T"}, "token_variable is for a url"),
        (
            "judge",
            {"url": "http://h", "model": "m", "server": {"dtype": "float32"}},
            "server says how path is served",
        ),
        ("judge", {"path": "m", "rubric": {"text": "{{ reply }}"}}, "uses {{ reply }}"),
        ("judge", {"path": "m", "rubric": {"text": "{{ complettion }}"}}, 'mean "completion"'),
        (
            "judge",
            {"path": "m", "rubric": {"text": "{{ prompt }}"}},
            "never shows {{ completion }}",
        ),
        ("judge", {"path": "m", "rubric": {"text": "{% if %}"}}, "is no Jinja template"),
        ("judge", {"path": "m", "rubric": {"text": "a", "path": "b"}}, "path or text, not both"),
        ("judge", {"path": "m", "rubric": {"verdict": r"\d"}}, "needs one group"),
        ("judge", {"path": "m", "rubric": {"verdict": "("}}, "is no regular expression"),
        ("judge", {"path": "m", "scale": {"low": 3, "high": 3}}, "must be less than high"),
        ("judge", {"path": "m", "scale": {"expected": True}}, "whole ratings of one digit"),
        ("judge", {"path": "m", "sampling": {"n": 2}}, "sampling.n cannot be set"),
        ("pairwise_judge", {"path": "m", "rubric": {"text": "{{ first }}"}}, "shows {{ second }}"),
        ("served_reward_model", {"url": "http://h", "model": "m"}, "url needs tokenizer"),
        ("served_reward_model", {"path": "m", "tokenizer": {"path": "t"}}, "brings its own"),
    ],
)
def test_what_cannot_work_is_refused_when_the_recipe_is_read(
    name: str, options: dict[str, object], says: str
) -> None:
    with pytest.raises(PluginError, match=re.escape(says)):
        build("reward", {"name": name, **options})


def test_rubric_from_a_file_is_checked_and_read(tmp_path: Path) -> None:
    file = tmp_path / "rubric.txt"
    options: dict[str, Any] = {"path": "m", "rubric": {"path": str(file)}}
    assert not check("reward", "judge", options).problems  # the check of paths says it is missing
    file.write_text("{{ reply }}")
    (problem,) = check("reward", "judge", options).problems
    assert "uses {{ reply }}" in problem.message
    file.write_text("{{ completion }}!")
    with ChatStandIn("[[3]]") as server:
        scorer = open_reward("judge", server.url, rubric={"path": str(file)})
        scorer.score([group_of("a", None, "x")])
        scorer.close()
    assert server.questions == ["x!"]
    config = build(
        "reward", {"name": "judge", "path": "m", "rubric": {"text": "{{ completion / 2 }}"}}
    )
    assert isinstance(config, Judge)
    with pytest.raises(DataError, match="cannot be rendered"):
        config.question().write({"completion": "x"})


def test_a_server_that_gives_probabilities_is_found_out(tiny_llama: Path) -> None:
    """It ignores `use_activation`: then raw and activated are the same."""
    same = {"data": [{"probs": [0.75]}]}
    options: dict[str, Any] = {"tokenizer": {"path": str(tiny_llama)}}
    options["requests"] = {"connections": 1}
    with RewardStandIn(same, same) as server:
        scorer = open_reward("served_reward_model", server.url, **options)
        with pytest.raises(StageError, match="so its scores are not raw logits"):
            scorer.score([group_of("1+1=", None, "2")])
        scorer.close()
    raw, two = {"data": [{"probs": [1.1]}]}, {"data": [{"probs": [0.1, 0.9]}]}
    with RewardStandIn(raw, same, raw, two) as server:
        scorer = open_reward("served_reward_model", server.url, **options)
        (scores,) = scorer.score([group_of("1+1=", None, "2", "3")])
        scorer.close()
    assert [score.value for score in scores] == [1.1, None]
    assert "the model has 2 labels, a reward model has one" in str(scores[1].error)
    assert server.bodies[0]["use_activation"] is False
    assert all(isinstance(token, int) for token in server.bodies[0]["input"])


def prefer_longer(question: str) -> str:
    one, two = question.split("|")
    return f"[[{'A' if len(one) > len(two) else 'B' if len(two) > len(one) else 'C'}]]"


def test_pairwise_judge_asks_in_both_orders() -> None:
    """Longer is better: 1 against shorter ones, .5 against equals. `x` and `y` tie."""
    group = group_of("q", None, "x", "yyy", "y")
    with ChatStandIn(prefer_longer) as server:
        section = {"name": "pairwise_judge", "url": server.url, "model": "m", "rubric": PAIR}
        judge = open_judge(section, {})
        assert judge.preferences([group])[0] == [[0.5, 0, 0.5], [1, 0.5, 1], [0.5, 0, 0.5]]
        assert sorted(server.questions) == ["x|y", "x|yyy", "yyy|x", "yyy|y", "y|x", "y|yyy"]
        scorer = open_reward("pairwise_judge", server.url, rubric=PAIR)
        assert values_of(scorer.score([group])) == [[0.25, 1.0, 0.25]]
        judge.close()
        scorer.close()


def test_position_bias_cancels_out_and_is_reported(tmp_path: Path) -> None:
    """It takes the first one unless the other begins with `b`: of three pairs the order decides
    (x, y) alone. Verdicts for the first slot: (x, y) 1 + 1, (x, b) 0 + 1, (y, b) 0 + 1: 4 of 6."""

    def first_unless_better(question: str) -> str:
        one, two = question.split("|")
        return "[[B]]" if two.startswith("b") and not one.startswith("b") else "[[A]]"

    place = {"usage": str(tmp_path / "usage")}
    with ChatStandIn(first_unless_better) as server:
        scorer = open_reward("pairwise_judge", server.url, rubric=PAIR, place=place)
        values = values_of(scorer.score([group_of("q", None, "x", "y", "b", "b")]))[0]
        scorer.close()
    # each against (x or y), b, b: (.5 + 0 + 0) / 3 and (1 + 1 + .5) / 3
    assert values == pytest.approx([1 / 6, 1 / 6, 2.5 / 3, 2.5 / 3])
    assert len(server.bodies) == 6  # equal completions are not compared, equal questions asked once
    counts, measures = read_usage(tmp_path)
    assert (counts["comparisons"], counts["order_decided"]) == (5, 1)
    assert measures == {"first_slot_preferred": pytest.approx((2 + 4 * 1) / 10)}


def test_a_comparison_without_a_verdict_is_not_made() -> None:
    with ChatStandIn(lambda q: "[[A]]" if "z" not in q else "I cannot") as server:
        section = {"name": "pairwise_judge", "url": server.url, "model": "m", "rubric": PAIR}
        judge = open_judge(section, {})
        (matrix,) = judge.preferences([group_of("q", None, "x", "y", "z")])
        judge.close()
    assert [[math.isnan(p) for p in row] for row in matrix] == [
        [False, False, True],
        [False, False, True],
        [True, True, False],
    ]


def test_place_reaches_rewards_inside_others(tmp_path: Path) -> None:
    place = {"answers": str(tmp_path / "answers"), "usage": str(tmp_path / "usage")}
    with ChatStandIn("[[3]]") as server:
        judge = {"name": "judge", "url": server.url, "model": "m"}
        sections = [{"name": "clip", "of": judge, "high": 2.0}, {"name": "length", "weight": 0.0}]
        for _ in range(2):
            scorer = weigh_sources(sections, place=place).open()  # pyright: ignore[reportArgumentType]
            assert values_of(scorer.score([group_of("a", None, "x")])) == [[2.0]]
            scorer.close()
    assert len(server.bodies) == 1
    assert [json.loads(f.read_text()) for f in sorted((tmp_path / "usage").iterdir())] != []
