"""Records and a model's size, small enough to train in a second."""

ROWS = [
    {"prompt": f"{n}은 무엇인가요?", "completion": "좋은 수입니다. " * (1 + n % 4)}
    for n in range(12)
]
TINY = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 96}
