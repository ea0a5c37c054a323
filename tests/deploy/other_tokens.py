"""A bundle with golden answers that no model would give, to see that a comparison compares."""

import json
import shutil
from pathlib import Path


def with_other_tokens(bundle: Path, folder: Path) -> Path:
    """Return a copy of a bundle whose golden answers are another model's."""
    shutil.copytree(bundle, folder)
    file = folder / "lmkit.json"
    manifest = json.loads(file.read_text("utf-8"))
    precision = manifest["precisions"][manifest["precision"]]
    precision["golden"] = [[1, 2, 3] for _ in precision["golden"]]
    file.write_text(json.dumps(manifest), "utf-8")
    return folder
