"""The smallest encoder-decoders of every kind that lmkit trains and exports, and records for them."""

from __future__ import annotations

from typing import Any

import lmkit as lk
from lmkit.scratch import Scratch
from lmkit.tokenizing import Tokenizer

RECORDS = [
    {"article": "오늘 국회는 새 법안을 통과시켰다.", "summary": "새 법안 통과"},
    {"article": "A bill to reform the flood program.", "summary": "Flood reform."},
    {"article": "네", "summary": "네"},
    {"article": "Rain, wind and 눈 👩‍👩‍👧, " * 3, "summary": "Weather 날씨"},
]
SOURCE_LENGTH, TARGET_LENGTH = 160, 48

_T5 = {"d_model": 16, "d_ff": 32, "num_layers": 2, "num_heads": 2, "d_kv": 8}
_BART = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": SOURCE_LENGTH,
}
_BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
ENCODER = {**_BERT, "max_position_embeddings": SOURCE_LENGTH}
DECODER = {**_BERT, "max_position_embeddings": TARGET_LENGTH}

MODELS: dict[str, Scratch] = {
    "t5": lk.scratch("t5", **_T5),
    "t5 v1.1": lk.scratch(
        "t5", **_T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_decoder_layers=1
    ),
    "bart": lk.scratch("bart", **_BART, scale_embedding=True),
    "mbart": lk.scratch("mbart", **_BART),
    "marian": lk.scratch("marian", **_BART),
    "pegasus": lk.scratch("pegasus", **_BART),
    "bert and bert": lk.scratch("encoder-decoder", encoder=ENCODER, decoder=DECODER),
}


def small_tokenizer() -> Tokenizer:
    """Return a tokenizer that frames a text as T5's does: nothing before it, the EOS behind."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import processors

    plain = lk.train_tokenizer(kind="bpe", vocab_size=300, data=RECORDS)
    backend = Backend.from_str(plain.definition)
    end = plain.special["eos_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, plain.eos_id)]
    )
    special = {role: text for role, text in plain.special.items() if role != "bos_token"}
    return Tokenizer(backend.to_str(), special=special)


def bert_like() -> Tokenizer:
    """Return one that frames as BERT's does, and names no BOS and no EOS."""
    from tokenizers import AddedToken, processors
    from tokenizers import Tokenizer as Backend

    plain = lk.train_tokenizer(kind="bpe", vocab_size=300, data=RECORDS)
    backend = Backend.from_str(plain.definition)
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("[CLS]", "[SEP]")])
    ends = [(text, backend.token_to_id(text)) for text in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    special = {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": plain.special["pad_token"],
    }
    return Tokenizer(backend.to_str(), special=special)


def tokenizer_for(name: str) -> Tokenizer:
    return bert_like() if name == "bert and bert" else small_tokenizer()


def stirred(model: Any) -> Any:
    """Return the model with weights so large that it does not write one token over and over."""
    import torch

    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    words = {table.weight.data_ptr() for table in tables}
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                std = 0.1 if parameter.data_ptr() in words else 0.6
                parameter.normal_(std=std, generator=generator)
    return model.eval()
