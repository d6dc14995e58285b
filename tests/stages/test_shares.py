"""Which prompts each sampler of a mixture draws for."""

from __future__ import annotations

from align.records import Prompt
from align.stages.shares import drawn_for

PROMPTS = [Prompt.of(str(number)) for number in range(2000)]
MIXTURE = [{"name": "vllm"}, {"name": "vllm", "share": 0.7}, {"name": "vllm", "share": 0.3}]


def test_shares_divide_the_prompts_and_the_others_have_all() -> None:
    """2000 prompts: a share of 0.7 is 1400, four standard errors are 82."""
    whole, most, rest = (drawn_for(PROMPTS, MIXTURE, number, 5) for number in range(3))
    assert whole == PROMPTS
    assert {p.prompt_id for p in most} | {p.prompt_id for p in rest} == {
        p.prompt_id for p in PROMPTS
    }
    assert len(most) + len(rest) == len(PROMPTS) and abs(len(most) - 1400) < 82


def test_a_prompt_has_the_same_sampler_whatever_the_shard_and_another_in_another_iteration() -> (
    None
):
    whole = drawn_for(PROMPTS, MIXTURE, 1, 5)
    shards = [drawn_for(PROMPTS[i : i + 256], MIXTURE, 1, 5) for i in range(0, 2000, 256)]
    assert [prompt for shard in shards for prompt in shard] == whole
    assert drawn_for(PROMPTS, MIXTURE, 1, 6) != whole


def test_shares_of_thirds_leave_no_prompt_out() -> None:
    thirds = [{"name": "vllm", "share": share} for share in (0.1, 0.2, 0.7)]
    assert sum(len(drawn_for(PROMPTS, thirds, number, 0)) for number in range(3)) == 2000
