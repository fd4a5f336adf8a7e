"""PyTorch is not among the dependencies: without it, its tests are not collected unless they are asked for."""

import importlib.util
import os

collect_ignore = (
    []
    if importlib.util.find_spec("torch") is not None or os.environ.get("RGALS_REQUIRE_TORCH")
    else ["test_softmax_torch.py"]
)
