"""The arrows of the house: who may import whom, and what importing may not do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "skvae"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# What each room may import besides itself and the version, which is nobody's and needs
# nothing. What lies directly in the package and isn't named here is the roof.
BELOW: dict[str, set[str]] = {
    "_version": set(),
    "_backend": set(),
    "table": set(),
    "model": {"_backend"},
    "training": {"_backend", "model", "table"},
    "inference": {"_backend", "model", "table"},
    "estimators": {"_backend", "inference", "model", "table", "training"},
    "roof": {"_backend", "estimators", "inference", "model", "table", "training"},
}
# Inside a function, estimators may call the roof: `save` and the plots.
WHEN_CALLED = {"estimators": {"roof"}}

# Process-wide switches belong to the user. The NumPy names are the legacy functions
# that share one generator; whatever is not one of these makes a private generator.
PRIVATE_GENERATORS = {
    "BitGenerator",
    "Generator",
    "PCG64",
    "PCG64DXSM",
    "Philox",
    "RandomState",
    "SeedSequence",
    "default_rng",
}
GLOBAL_SWITCHES = {
    "numpy.seterr",
    "random.seed",
    "torch.cuda.manual_seed",
    "torch.cuda.manual_seed_all",
    "torch.manual_seed",
    "torch.mps.manual_seed",
    "torch.random.manual_seed",
    "torch.seed",
    "torch.set_default_device",
    "torch.set_default_dtype",
    "torch.set_grad_enabled",
    "torch.set_num_interop_threads",
    "torch.set_num_threads",
    "torch.set_rng_state",
    "torch.use_deterministic_algorithms",
    "warnings.filterwarnings",
    "warnings.simplefilter",
}


def module_of(path: Path) -> str:
    """Dotted name of a file of the package; a package's is that of its folder."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in SOURCES}
PACKAGES = {module_of(path) for path in SOURCES if path.name == "__init__.py"}


def room_of(module: str) -> str:
    """Room in which a module of the package lies."""
    first = module.split(".")[1] if "." in module else "roof"
    return first if first in BELOW else "roof"


def imports(source: str, module: str) -> Iterator[tuple[str, int, bool]]:
    """Yield (imported module, line, is inside a function) for every import.

    A name imported from a package counts as the module of that name, where there is
    one: ``from skvae import _backend`` is an import of ``skvae._backend``.
    """
    home = module.split(".") if module in PACKAGES else module.split(".")[:-1]

    def visit(node: ast.AST, deferred: bool) -> Iterator[tuple[str, int, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = home[: len(home) + 1 - node.level] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in MODULES else base, node.lineno, deferred
        deferred |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, deferred)

    yield from visit(ast.parse(source), False)


def broken_arrows(source: str, module: str) -> list[str]:
    """Imports of ``module`` that point upwards or sideways."""
    room = room_of(module)
    found = []
    for name, line, deferred in imports(source, module):
        if name.split(".")[0] == "skvae":
            allowed = {room, "_version"} | BELOW[room]
            if deferred:
                allowed |= WHEN_CALLED.get(room, set())
            if room_of(name) not in allowed:
                found.append(f"line {line}: {room} imports {name}")
        elif name.split(".")[0] == "torch" and room == "table":
            found.append(f"line {line}: table imports {name}")
    return found


def dotted_uses(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield (full dotted name, line) for every use of something imported."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        chain: list[str] = []
        inner = node
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id in names:
            yield ".".join([names[inner.id], *reversed(chain)]), inner.lineno


def global_effects(source: str) -> list[str]:
    """Uses of process-wide switches and of NumPy's shared generator."""
    found = []
    for name, line in dotted_uses(ast.parse(source)):
        legacy = name.startswith("numpy.random.") and (
            name.split(".")[2] not in PRIVATE_GENERATORS
        )
        if legacy or name in GLOBAL_SWITCHES:
            found.append(f"line {line}: {name}")
    return found


def unasked_prints(source: str) -> list[str]:
    """Calls of ``print`` that no condition on a ``verbose`` stands before."""

    def visit(node: ast.AST, asked: bool) -> Iterator[str]:
        if isinstance(node, ast.If):
            yield from visit(node.test, asked)
            for child in node.body:
                yield from visit(child, asked or "verbose" in ast.unparse(node.test))
            for child in node.orelse:
                yield from visit(child, asked)
            return
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
            and not asked
        ):
            yield f"line {node.lineno}: print"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, asked)

    return list(visit(ast.parse(source), False))


every_source = pytest.mark.parametrize(
    "path", SOURCES, ids=[str(path.relative_to(PACKAGE)) for path in SOURCES]
)


def test_every_room_is_there() -> None:
    rooms = {room_of(module_of(path)) for path in SOURCES}
    assert rooms == set(BELOW)


@every_source
def test_imports_point_downwards(path: Path) -> None:
    assert not broken_arrows(path.read_text("utf-8"), module_of(path))


@every_source
def test_no_process_wide_switch_is_touched(path: Path) -> None:
    assert not global_effects(path.read_text("utf-8"))


@every_source
def test_nothing_prints_unasked(path: Path) -> None:
    if path.name != "__main__.py":  # a program's output is what it is for
        assert not unasked_prints(path.read_text("utf-8"))


@pytest.mark.parametrize("module", ["skvae", "skvae.table"])
def test_import_leaves_torch_out(module: str) -> None:
    program = f"import sys, {module}; print(sorted({{'torch'}} & set(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.stdout.strip(), answer.stderr) == ("[]", "")


# The checks themselves, on sources that they must refuse and sources that they must
# let pass.


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("skvae.model.linear", "import skvae.training"),
        ("skvae.model.linear", "from ..table import Schema"),
        ("skvae.model.linear", "from .. import table"),
        ("skvae.model", "from ..inference.scoring import score"),
        ("skvae.training.loop", "from skvae.inference import scoring"),
        ("skvae.inference.scoring", "def f():\n    from skvae import persistence"),
        ("skvae.estimators._base", "from skvae import persistence"),
        ("skvae.table.schema", "from .._backend import as_array"),
        ("skvae.table.schema", "import torch.nn"),
        ("skvae.table.schema", "def f():\n    from torch import Tensor"),
        ("skvae._backend", "from skvae import VAETransformer"),
        ("skvae._version", "from skvae import _backend"),
    ],
)
def test_upward_import_is_refused(module: str, source: str) -> None:
    assert len(broken_arrows(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("skvae.model.linear", "import numpy as np\nfrom .priors import Normal"),
        ("skvae.model", "from .linear import ppca\nimport torch"),
        ("skvae.training.loop", "from .. import _backend\nfrom ..model import latent"),
        ("skvae.inference.scoring", "from skvae.table.schema import Schema"),
        ("skvae.estimators._base", "def f():\n    from ..persistence import save"),
        ("skvae", "from skvae.estimators.anomaly import VAEAnomalyDetector"),
        ("skvae.plotting", "from . import inference"),
    ],
)
def test_downward_import_passes(module: str, source: str) -> None:
    assert not broken_arrows(source, module)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.manual_seed(0)",
        "import torch as t\nt.set_num_threads(1)",
        "from torch import manual_seed as seed\nseed(0)",
        "import numpy as np\nnp.random.seed(0)",
        "import numpy as np\nx = np.random.standard_normal(3)",
        "from numpy import random\nrandom.shuffle([])",
        "import random\nrandom.seed(0)",
    ],
)
def test_global_effect_is_refused(source: str) -> None:
    assert global_effects(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ng = torch.Generator().manual_seed(0)",
        "import numpy as np\nr = np.random.default_rng(0)\nr.shuffle([])",
        "import numpy as np\ns = np.random.SeedSequence(1).generate_state(1)",
    ],
)
def test_private_generator_passes(source: str) -> None:
    assert not global_effects(source)


def test_print_needs_a_verbose_before_it() -> None:
    assert unasked_prints("def f():\n    print(1)")
    assert unasked_prints("if self.verbose:\n    pass\nelse:\n    print(1)")
    assert not unasked_prints("if self.verbose and new:\n    print(1)")
