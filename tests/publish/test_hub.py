"""The real `huggingface_hub` client against a local stand-in of the Hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi

from align.errors import InputError, SetupError, StageError
from align.publish.run import Target, publish_run
from align.publish.verify import hash_file
from tests.publish.hub_stand_in import TOKEN, HubStandIn

TINY = Target(repo="org/tiny")


def test_model_arrives_with_the_same_bytes_and_a_card(
    run_folder: Path, hub: HubStandIn, api: HfApi
) -> None:
    sizes = list[int]()
    published = publish_run(run_folder, TINY, api=api, advance=sizes.append)
    repo = hub.repos["org/tiny"]
    source = run_folder / "iter-000/checkpoint"
    assert repo.private
    assert published.step == "iter-000/checkpoint"
    assert published.place == f"{hub.url}/org/tiny" and published.commit == repo.head
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert repo.files[name] == (source / name).read_bytes()
        assert published.files[name] == hash_file(source / name)
    assert repo.files["README.md"].startswith(b"---\n")
    assert set(repo.files) == {*published.files, ".gitattributes"}
    assert not set(repo.files) & {"training_args.bin", "manifest.json", "result.json"}
    assert sum(sizes) == sum(len(repo.files[name]) for name in published.files)
    assert any(request.startswith("PUT /lfs/") for request in hub.requests)


def test_published_model_loads_from_the_hub(
    run_folder: Path, hub: HubStandIn, api: HfApi, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    publish_run(run_folder, TINY, api=api)
    folder = api.snapshot_download("org/tiny", cache_dir=tmp_path / "cache")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size >= len(tokenizer)
    assert tokenizer.decode(tokenizer.encode("12+3=", add_special_tokens=False)) == "12+3="


def test_publishing_again_changes_nothing_and_new_weights_replace_old_ones(
    run_folder: Path, hub: HubStandIn, api: HfApi
) -> None:
    first = publish_run(run_folder, TINY, api=api)
    assert publish_run(run_folder, TINY, api=api).files == first.files
    hub.repos["org/tiny"].files["model-00002-of-00002.safetensors"] = b"of a larger model"
    hub.repos["org/tiny"].files["LICENSE"] = b"written by its owner"
    publish_run(run_folder, TINY, api=api)
    files = hub.repos["org/tiny"].files
    assert "model-00002-of-00002.safetensors" not in files
    assert files["LICENSE"] == b"written by its owner"


def test_corrupted_upload_is_detected(run_folder: Path, hub: HubStandIn, api: HfApi) -> None:
    hub.corrupt = True
    with pytest.raises(
        StageError, match=r"model\.safetensors read back from org/tiny at \w+ is not"
    ):
        publish_run(run_folder, TINY, api=api)


def test_wrong_token_is_one_line_without_the_token(run_folder: Path, hub: HubStandIn) -> None:
    wrong = "hf_wrongTokenWrongTokenWrong"
    with pytest.raises(SetupError) as caught:
        publish_run(run_folder, TINY, api=HfApi(endpoint=hub.url, token=wrong))
    message = str(caught.value)
    assert message.startswith("the Hub does not let this token write to org/tiny (HTTP 401)")
    assert "\n" not in message and wrong not in message
    assert not hub.repos


def test_public_repository_is_not_filled_where_a_private_one_was_asked_for(
    run_folder: Path, hub: HubStandIn, api: HfApi
) -> None:
    api.create_repo("org/tiny", private=False)
    with pytest.raises(SetupError, match="is public, but a private one was asked for"):
        publish_run(run_folder, TINY, api=api)
    assert set(hub.repos["org/tiny"].files) == {".gitattributes"}
    publish_run(run_folder, Target(repo="org/tiny", private=False), api=api)
    assert "model.safetensors" in hub.repos["org/tiny"].files


def test_unreachable_hub_and_bad_name(run_folder: Path, api: HfApi) -> None:
    nowhere = HfApi(endpoint="http://127.0.0.1:9", token=TOKEN)
    with pytest.raises(SetupError, match="the Hub cannot be reached"):
        publish_run(run_folder, TINY, api=nowhere)
    with pytest.raises(InputError, match="'org/tiny/x' is no name of a repository"):
        publish_run(run_folder, Target(repo="org/tiny/x"), api=api)
