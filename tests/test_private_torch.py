"""Private names of PyTorch are in one file, so that a new version has one place to break."""

from __future__ import annotations

import re
from pathlib import Path

import fastseg

PACKAGE = Path(fastseg.__file__).parent
# torch._C, torch.x._y and imports of such names; not classes such as _BatchNorm to derive from.
PRIVATE = re.compile(r"\btorch(\.[a-z_]+)*\._[a-zA-Z]|from torch\._|import torch\._|forward_ad\._")


def test_no_other_module_has_them():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name in ("_private_torch.py", "pickle_scan.py"):  # the latter has them as text
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.split("#")[0]
            if PRIVATE.search(code):
                found.append(f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)
