"""What a graph looks up is what T5 computes."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from lmkit.export.relative import DistanceTable, tabled_bias  # noqa: E402


@pytest.fixture(scope="module")
def model():
    config = transformers.T5Config(
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        vocab_size=8,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
    )
    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration(config).eval()


def attention(stack):
    return stack.block[0].layer[0].SelfAttention


@pytest.mark.parametrize("length", [1, 2, 20, 21, 22, 70])
def test_an_encoder_s_distances_in_both_directions(model, length):
    module = attention(model.encoder)
    found = DistanceTable(module)

    looked_up = found.table[:, :, found.places(length, length)]

    assert torch.equal(looked_up, module.compute_bias(length, length))


@pytest.mark.parametrize("position", [0, 1, 19, 20, 21, 69])
def test_a_decoder_s_distances_from_any_position(model, position):
    module = attention(model.decoder)
    found = DistanceTable(module)

    looked_up = found.table[:, :, found.places(1, 70, torch.tensor([position]))]

    expected = module.compute_bias(1, 70, past_seen_tokens=torch.tensor([position]))
    seen = slice(position + 1)  # what comes later is never seen
    assert torch.equal(looked_up[..., seen], expected[..., seen])


def test_the_model_computes_them_itself_again_afterwards(model):
    module = attention(model.encoder)
    before = module.compute_bias(3, 3)
    with tabled_bias(model):
        assert module.compute_bias.__self__.__class__ is DistanceTable

    assert torch.equal(module.compute_bias(3, 3), before)
