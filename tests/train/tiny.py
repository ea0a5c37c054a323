"""Records and models' sizes, small enough to train in a second."""

ROWS = [
    {"prompt": f"{n}은 무엇인가요?", "completion": "좋은 수입니다. " * (1 + n % 4)}
    for n in range(12)
]
TINY = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 96}
TINY_BERT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
