"""A tokenizer of single characters, for models made from scratch on small alphabets."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from align.errors import DataError

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"


def make_character_tokenizer(alphabet: str, *, max_length: int) -> PreTrainedTokenizerFast:
    """A fast tokenizer with ids 0..3 for `<pad> <bos> <eos> <unk>` and one id a character, in the
    alphabet's order.

    It adds nothing by itself, pads on the right, decodes without spaces between tokens and maps
    what is not in the alphabet to `<unk>`. Raises `DataError` where the alphabet is empty or names
    a character twice.

        make_character_tokenizer("01+=", max_length=8)("1+0=")["input_ids"] == [5, 6, 4, 7]
    """
    repeated = sorted({character for character in alphabet if alphabet.count(character) > 1})
    if not alphabet or repeated:
        fault = f"repeats {repeated}" if repeated else "is empty"
        raise DataError(
            f"policy.tokenizer.alphabet {fault}; name each character once, e.g. 0123456789+="
        )
    vocabulary = {token: index for index, token in enumerate([PAD, BOS, EOS, UNK, *alphabet])}
    # BPE without merges: every character is a token of its own and pre-tokenisation is not needed.
    backend = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token=UNK, fuse_unk=False))
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )
