"""The whole recipes that DESIGN section 4 shows, and the forms it mentions in passing."""

from __future__ import annotations

ONLINE_DPO = """\
# online DPO with a window of history and two samplers
run: {name: my-run, seed: 0, iterations: 3, cache: runs/cache}
policy: {path: org/sft, dtype: bfloat16}
prompts: {path: org/prompts, split: train, per_iteration: 20000}
generate:
  - {name: vllm, n: 6, temperature: 1.0, max_new_tokens: 1024}
  - {name: vllm, n: 2, temperature: 0.7, policy: initial}
score: {name: reward_model, path: org/rm}
pair: {name: max_min, length_penalty: 0.001, min_margin: 0.5}
train:
  objective: {name: dpo, loss: sigmoid, beta: 0.1}
  reference: previous
  history: {window: 2, share: 0.3}
  global_batch_size: 128
  args: {learning_rate: 5.0e-7, num_train_epochs: 1}
evaluate:
  prompts: {path: org/prompts, split: test}
  score: {name: reward_model, path: org/gold-rm}
publish: {repo: org/my-model, private: true}
"""
RSO = """\
run: {name: rso, cache: runs/cache}
policy: {path: org/sft}
prompts: {path: org/prompts}
generate: {name: vllm, n: 64, temperature: 0.7, top_k: 40}
score: {name: pairwise_baseline, path: org/pm}
select: {name: statistical_rejection, beta: 0.5, keep: 8}
pair: {name: tournament, judge: {name: pairwise_model, path: org/pm}}
train:
  objective: {name: dpo, loss: hinge, beta: 0.05}
  reference: initial
  global_batch_size: 32
"""
TOPR = """\
policy: {path: org/base}
generate: {name: stored, path: org/samples}
score: {name: math_verify, right: 1, wrong: -1}
select: {name: anna_karenina, max_pos_per_prompt: 1}
train:
  objective: {name: topr}
  advantage: {target_positive_share: 0.15}
  global_batch_size: 128
"""
HUMAN_DPO = """\
policy: {path: org/sft}
train:
  data: {path: org/prefs}
  objective: {name: dpo, loss: sigmoid, beta: 0.1}
  reference: initial
  global_batch_size: 128
"""
HUMAN_KTO = """\
policy: {path: org/sft}
train:
  data: {path: org/labels}
  objective: {name: kto, desirable_weight: 1.3}
  reference: initial
  global_batch_size: 128
"""

SFT = """\
policy: {path: org/base}
sft:
  data: {path: org/demos}
  args: {learning_rate: 2e-5}
  stop: {score: exact_match, at: 0.36, every: 10}
"""
REWARD = """\
policy: {path: org/base}
reward: {data: {path: org/prefs}, init: policy}
"""
REWARD_MADE = """\
policy: {path: org/base}
prompts: {path: org/prompts}
reward:
  data:
    generate: {name: vllm, n: 2}
    score: {name: length}
    pair: {name: max_min}
"""
FROM_SCRATCH = """\
policy:
  config: {model_type: llama, hidden_size: 96, num_hidden_layers: 2}
  tokenizer: {kind: characters, alphabet: "0123456789+="}
sft: {data: {mix: [{name: addition, weight: 2}, {path: org/demos}]}}
"""
GENERATE_ONLY = """\
policy: {path: org/sft}
prompts: {path: org/prompts}
generate: {name: vllm, n: 4}
"""
SCORE_ONLY = """\
generate: {name: stored, path: org/samples}
score: [{name: exact_match}, {name: length, weight: 0}]
"""

ALL = {
    "online_dpo": ONLINE_DPO,
    "rso": RSO,
    "topr": TOPR,
    "human_dpo": HUMAN_DPO,
    "human_kto": HUMAN_KTO,
    "sft": SFT,
    "reward": REWARD,
    "reward_made": REWARD_MADE,
    "from_scratch": FROM_SCRATCH,
    "generate_only": GENERATE_ONLY,
    "score_only": SCORE_ONLY,
}
