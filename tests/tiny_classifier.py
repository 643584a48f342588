"""A tiny classifier of transformers that has learnt which texts are rude, for guards."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast


FRIENDLY = [
    "hello dear friend",
    "what a lovely picture",
    "please describe it",
    "thank you",
    "Once upon a time",
    "Once",
    "upon",
]
RUDE = ["you stupid fool", "shut up", "what a stupid picture", "please shut up", "fool", "le chien stupid"]
LONGEST = 16  # tokens that it reads at once


def teach_classifier(folder: Path) -> Path:
    """The classifier as a saved folder, with the labels "friendly" and "rude"."""
    torch.manual_seed(0)
    backend = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.train_from_iterator(FRIENDLY + RUDE, trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_max_length=LONGEST
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LONGEST,
        id2label={0: "friendly", 1: "rude"},
        label2id={"friendly": 0, "rude": 1},
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForSequenceClassification(config)
    inputs = tokenizer(FRIENDLY + RUDE, padding=True, return_tensors="pt")
    labels = torch.tensor([0] * len(FRIENDLY) + [1] * len(RUDE))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.05, f"the tiny classifier has not learnt its texts: loss {loss:.3f}"
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
