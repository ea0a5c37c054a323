"""Answer from a bundle with numpy, onnxruntime, tokenizers and jinja2: no torch, no transformers."""
