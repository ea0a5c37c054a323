"""Answer a bundle's golden prompts in onnxruntime-genai, and compare with what lmkit wrote down.

    pip install onnxruntime-genai
    python genai.py BUNDLE [PRECISION]

The folder is loaded as it is: `genai_config.json` in it says what genai wants to know. Nothing here
needs lmkit, since the golden prompts' ids stand in `lmkit.json`.
"""

import json
import sys
from pathlib import Path

import onnxruntime_genai as og


def opened(folder: Path, manifest: dict, precision: str) -> og.Model:
    """Return the bundle as genai has it; its configuration names the default precision's graph."""
    config = og.Config(str(folder))
    file = manifest["precisions"][precision]["files"].get("model.onnx", "model.onnx")
    config.overlay(json.dumps({"model": {"decoder": {"filename": file}}}))
    return og.Model(config)


def greedy(model: og.Model, prompt_ids: list[int], max_new_tokens: int) -> list[int]:
    """Return the ids that follow a prompt, each the likeliest, the one that ends the answer included."""
    params = og.GeneratorParams(model)
    params.set_search_options(do_sample=False, max_length=len(prompt_ids) + max_new_tokens)
    generator = og.Generator(model, params)
    generator.append_tokens(prompt_ids)
    found: list[int] = []
    while len(found) < max_new_tokens and not generator.is_done():
        generator.generate_next_token()
        found.append(int(generator.get_next_tokens()[0]))
    return found


def main(folder: Path, precision: str | None = None) -> int:
    manifest = json.loads((folder / "lmkit.json").read_text("utf-8"))
    precision = precision or manifest["precision"]
    if precision not in manifest["precisions"]:
        sys.exit(f"no precision {precision!r}; there are: {', '.join(manifest['precisions'])}")
    model = opened(folder, manifest, precision)
    tokenizer = og.Tokenizer(model)
    same = asked = 0
    expected = manifest["precisions"][precision]["golden"]
    for golden, ids in zip(manifest["golden"], expected, strict=True):
        if not ids:
            continue  # the model is not sure enough there for two machines to agree
        asked += 1
        found = greedy(model, golden["prompt_ids"], len(ids))
        same += found == ids
        print("same " if found == ids else "OTHER", found, repr(tokenizer.decode(found)))
    print(f"{same} of {asked} golden prompts answered with lmkit's tokens")
    return 0 if same == asked else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
