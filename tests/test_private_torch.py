"""Private names of PyTorch are in one file, so that a new version has one place to break."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastseg

PACKAGE = Path(fastseg.__file__).parent


def private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def private_names(source: str) -> Iterator[str]:
    """Imports of private names of torch, and private attributes of torch and what it imports."""
    tree = ast.parse(source)
    modules = {"torch"}  # local names of torch and of what came from it
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "torch":
                    modules.add(alias.asname or "torch")
                    if private(alias.name):
                        yield alias.name
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            for alias in node.names:
                modules.add(alias.asname or alias.name)
                if private(f"{node.module}.{alias.name}"):
                    yield f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in modules:
                yield ast.unparse(node)


@pytest.mark.parametrize(
    "source",
    [
        "import torch._dynamo",
        "from torch.utils import _pytree as pytree",
        "from torch.nn.modules.batchnorm import _BatchNorm",
        "from torch.autograd import forward_ad\nlevel = forward_ad._current_level",
        "import torch\nstream = torch.cuda._sleep(1)",
        "import torch\nx = torch.ops.mkldnn._is_mkldnn_bf16_supported()",
        "import torch.distributed as dist\ngroup = dist._get_default_group()",
    ],
)
def test_private_names_are_found(source):
    assert list(private_names(source))


def test_no_other_module_has_them():
    found = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "_private_torch.py"
        for name in private_names(path.read_text())
    ]
    assert not found, "\n".join(found)
