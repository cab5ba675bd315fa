"""The package as a whole: layers of imports, what an import costs, and the public names."""

import ast
import importlib
import pkgutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import manifoldnorm as mn

ROOT = Path(mn.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
ORDER = ("linalg", "stats", "manifolds", "_geoopt", "nn", "models")  # everything else comes after
DECOMPOSITIONS = {"eigh", "eigvalsh", "eig", "eigvals", "svd", "svdvals", "qr", "cholesky", "cholesky_ex", "lu"}


def _part(module: str) -> str:
    """Return the part of the package that a module such as manifoldnorm.nn.norm belongs to."""
    return ([*module.split("."), ""])[1]


def _rank(part: str) -> int:
    return ORDER.index(part) if part in ORDER else len(ORDER)


def _module(path: Path) -> str:
    parts = ("manifoldnorm", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        yield from _imported(node, path)


def _imported(node: ast.AST, path: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = ("manifoldnorm", *path.relative_to(ROOT).parent.parts)
        source = [*package[: len(package) + 1 - node.level]] if node.level else []
        module = ".".join(source + ([node.module] if node.module else []))
        yield module
        yield from (f"{module}.{alias.name}" for alias in node.names)


def _misplaced(path: Path) -> list[str]:
    """Return the imports of a file that go up in the order of the parts."""
    own = _part(_module(path))
    if own == "":
        return []  # the package's __init__ gathers everything
    wrong = []
    for name in _imports(path):
        if name == "manifoldnorm":
            continue  # its names are checked one by one
        if name.startswith("manifoldnorm."):
            target = _part(name)
            is_part = (ROOT / target).is_dir() or (ROOT / f"{target}.py").is_file()
            if is_part and target != own and own in ORDER and _rank(target) >= _rank(own):
                wrong.append(f"{_module(path)} imports {name}")
    return wrong


def _run(code: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_imports_only_go_down() -> None:
    assert {_part(_module(path)) for path in FILES} >= set(ORDER)
    assert [wrong for path in FILES for wrong in _misplaced(path)] == []


def test_the_walk_would_notice_an_import_that_goes_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for part in ("linalg", "stats", "nn", "datasets", "testing"):
        (tmp_path / part).mkdir()
    wrong = {
        "linalg/a.py": "from manifoldnorm.stats import Exact",
        "stats/a.py": "def f():\n    import manifoldnorm.nn.norm",
        "nn/a.py": "from manifoldnorm import testing",
    }
    right = {"nn/b.py": "from manifoldnorm.linalg import logm", "nn/c.py": "from manifoldnorm import linalg, stats"}
    for name, text in {**wrong, **right}.items():
        (tmp_path / name).write_text(text)
    assert all(_misplaced(tmp_path / name) for name in wrong)
    assert not any(_misplaced(tmp_path / name) for name in right)


def test_geoopt_is_imported_in_one_file_and_inside_a_function() -> None:
    importers = [path.name for path in FILES if any(name.split(".")[0] == "geoopt" for name in _imports(path))]
    assert importers == ["_geoopt.py"]
    path = ROOT / "_geoopt.py"
    outer = [name for node in ast.parse(path.read_text()).body for name in _imported(node, path)]
    assert "geoopt" not in {name.split(".")[0] for name in outer}


def test_only_linalg_decomposes() -> None:
    found = []
    for path in FILES:
        if _part(_module(path)) in ("linalg", "testing", "bench"):  # random rotations; what is compared
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in DECOMPOSITIONS:
                owner = ast.unparse(node.value)
                if owner.startswith("torch"):
                    found.append(f"{_module(path)}: {owner}.{node.attr}")
    assert found == []


def test_files_are_short() -> None:
    long = {p.name: n for p in FILES if (n := len(p.read_text().splitlines())) > 330}
    assert long == {}


def test_importing_is_cheap_silent_and_lazy() -> None:
    code = (
        "import sys, time, torch\n"
        "before = set(sys.modules)\n"
        "start = time.thread_time()\n"
        "import manifoldnorm\n"
        "print(time.thread_time() - start)\n"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))\n"
        "lazy = ('datasets', 'plotting', 'sklearn', 'testing')\n"
        "print([name for name in lazy if f'manifoldnorm.{name}' in sys.modules])"
    )
    lines = [_run(code).splitlines() for _ in range(3)]
    assert all(rest == ["['manifoldnorm']", "[]"] for _, *rest in lines)  # nothing heavy, and no warning was printed
    assert statistics.median(float(first) for first, *_ in lines) < 0.2


def test_every_module_imports_without_a_warning() -> None:
    # -W error: a warning at import would be an exception
    names = [m.name for m in pkgutil.walk_packages([str(ROOT)], "manifoldnorm.")]
    assert len(names) > 30
    _run("import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names))


def test_lazy_parts_load_on_first_use() -> None:
    names = ["datasets", "testing", "plotting", "sklearn"]
    lines = [f"assert 'manifoldnorm.{name}' not in sys.modules\nprint(mn.{name}.__name__)" for name in names]
    printed = _run("\n".join(["import sys, manifoldnorm as mn", *lines]))
    assert printed.split() == [f"manifoldnorm.{name}" for name in names]


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        mn.nonsense  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        mn.optim.nonsense  # noqa: B018


def test_the_package_is_typed_and_has_a_version() -> None:
    assert (ROOT / "py.typed").exists()
    assert mn.__version__.count(".") == 2


PUBLIC = {
    "": "AdaptiveLogEuclidean AffineInvariant BuresWasserstein CholeskyRightInvariant Euclidean "
    "GeneralizedBuresWasserstein LogCholesky LogEuclidean PowerDeformed Stiefel linalg manifolds models nn optim stats "
    "datasets plotting sklearn testing",
    "manifolds": "Manifold LieGroup Gyrogroup Diffeo Pullback Euclidean AffineInvariant LogEuclidean LogCholesky "
    "BuresWasserstein GeneralizedBuresWasserstein CholeskyRightInvariant AdaptiveLogEuclidean PowerDeformed Stiefel",
    "nn": "RiemannianBatchNorm LieBatchNorm GyroBatchNorm BuresWassersteinBatchNorm LearnableManifold Batch BiMap "
    "ReEig LogEig ExpEig SPDVectorize Covariance Sequential convert_sync_batchnorm published",
    "stats": "Exact Newton Karcher FixedPoint Midpoint frechet_mean frechet_variance",
    "linalg": "eigh logm expm sqrtm inv_sqrtm powm clamp_eig sqrtm_inv_sqrtm lyapunov precision cholesky",
    "models": "SPDNet",
    "optim": (
        "ManifoldParameter RiemannianAdam RiemannianSGD SparseRiemannianAdam SparseRiemannianSGD "
        "from_geoopt to_geoopt no_decay_groups"
    ),
    "datasets": "connectomes emg_gestures radar mamem_ssvep load_npz load_folder",
    "sklearn": "METRICS SPDNetClassifier",
    "testing": "check_manifold check_lie_group check_gyrogroup check_norm mutants",
}


@pytest.mark.parametrize("part", PUBLIC)
def test_public_names_exist_and_are_listed(part: str) -> None:
    module = importlib.import_module(f"manifoldnorm.{part}") if part else mn
    names = PUBLIC[part].split()
    assert [name for name in names if not hasattr(module, name)] == []
    listed = set(module.__all__)
    assert set(names) <= listed
    assert [name for name in listed if not hasattr(module, name)] == []
