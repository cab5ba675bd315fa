"""The example of embedded hierarchies: files, closures, negatives, ranking, learning, sparse gradients."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import manifoldnorm as mn

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "wordnet_mammals_closure.csv"


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the edges of a binary tree of 63 items."""
    file = tmp_path_factory.mktemp("data") / "tree.tsv"
    file.write_text("\n".join(f"n{child}\tn{child // 2}" for child in range(2, 64)))
    return file


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


# ---- hierarchies


def test_closure_and_negatives_of_a_tree(load: Any, edges: Path) -> None:
    data, training = load("_hierarchy.data"), load("_hierarchy.training")
    tree = data.load(edges, "", True)
    assert len(tree) == 63 and len(tree.direct) == 62
    assert len(tree.pairs) == sum(int(math.log2(item)) for item in range(1, 64))
    assert len(data.load(edges, "", False).pairs) == 62
    pairs = {(tree.names[a], tree.names[b]) for a, b in tree.pairs.tolist()}
    assert {("n63", "n1"), ("n63", "n31"), ("n4", "n2")} <= pairs and ("n4", "n3") not in pairs
    run = load("_common.runs").Run("none", 0, edges.parent)
    drawn = training.Training(run, training.Recipe(batch=50, negatives=20), tree, tree.keys)
    batches = list(drawn.batches())
    assert sum(len(items) for items, _ in batches) == len(tree.pairs)
    items, candidates = (torch.cat(part) for part in zip(*batches, strict=True))
    assert candidates.shape == (len(tree.pairs), 21)
    first = sorted(zip(items.flatten().tolist(), candidates[:, 0].tolist(), strict=True))
    assert first == sorted(map(tuple, tree.pairs.tolist()))
    related = torch.zeros(63, 63, dtype=torch.bool)
    related[tree.pairs[:, 0], tree.pairs[:, 1]] = True
    related.fill_diagonal_(True)
    # after three redraws at most (7 / 63)^4 of the negatives are ancestors
    assert related[items, candidates[:, 1:]].double().mean().item() < 1e-3


def test_ranking_is_that_of_the_definition(load: Any, edges: Path) -> None:
    data, ranking = load("_hierarchy.data"), load("_hierarchy.ranking")
    tree, ball = data.load(edges, "", True), mn.PoincareBall(3)
    points = ball.random_point(63, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ranks, precisions = [], []
    for item in tree.pairs[:, 0].unique().tolist():
        ancestors = tree.pairs[tree.pairs[:, 0] == item, 1].tolist()
        others = [j for j in range(63) if j != item and j not in ancestors]
        far = [float(ball.dist(points[item], points[j])) for j in range(63)]
        own = [1 + sum(far[j] < far[a] for j in others) for a in ancestors]
        ranks += own
        hits = sorted(far[a] for a in ancestors)
        precision = [(k + 1) / (k + 1 + sum(far[j] < hit for j in others)) for k, hit in enumerate(hits)]
        precisions.append(sum(precision) / len(precision))
    want = sum(ranks) / len(ranks), sum(precisions) / len(precisions)
    for elements in (63 * 7, 1 << 20):
        assert ranking.reconstruction(points, ball.dist, tree, elements=elements) == pytest.approx(want, rel=1e-12)
    some = ranking.reconstruction(points, ball.dist, tree, items=20)
    assert some != pytest.approx(want, rel=1e-12) and some[0] > 1


def test_files_of_a_wordnet_database(load: Any, tmp_path: Path) -> None:
    (tmp_path / "index.noun").write_text(
        "  1 licence\nanimal n 1 0 1 0 00000001\ncat n 2 1 @ 2 0 00000009 00000002\nfelix n 1 1 @i 1 0 00000003\n"
        "thing n 1 0 1 0 00000004\nguy n 1 1 @ 1 0 00000009\n"
    )
    (tmp_path / "data.noun").write_text(
        "  1 licence\n00000001 03 n 01 Animal 0 000 | a being\n"
        "00000002 05 n 01 cat 0 002 @ 00000001 n 0000 #p 00000004 n 0000 | purrs\n"
        "00000003 18 n 01 Felix 0 001 @i 00000002 n 0000 | a cat\n00000004 03 n 01 thing 0 000 | all\n"
        "00000009 18 n 02 cat 1 guy 0 001 @ 00000004 n 0000 | a man\n"
    )
    data = load("_hierarchy.data")
    animals = data.load(tmp_path, "animal.n.01", False)
    assert animals.names == ["animal.n.01", "cat.n.02", "felix.n.01"] and len(animals.pairs) == 3
    everything = data.load(tmp_path, "all", False)
    assert len(everything.pairs) == 4 and "cat.n.01" in everything.names
    with pytest.raises(ValueError, match=r"--root dog.n.01: no noun"):
        data.load(tmp_path, "dog.n.01", False)


@pytest.mark.skipif(not SHARED.is_file(), reason="../shared/data/wordnet_mammals_closure.csv is absent")
def test_mammals(load: Any) -> None:
    mammals = load("_hierarchy.data").load(None, "mammal.n.01", False)
    assert (len(mammals), len(mammals.pairs), len(mammals.direct)) == (1182, 6542, 1182)


# ---- the command


@pytest.mark.parametrize("geometry", ["ball", "lorentz"])
def test_embedding_learns_the_tree(geometry: str, load: Any, edges: Path, tmp_path: Path) -> None:
    command = ["--data", str(edges), "--closure", "--norm", "none,gyro", "--no-geoopt", "--seeds", "1", "--dim", "3"]
    command += ["--geometry", geometry, "--epochs", "60", "--batch", "64", "--lr", "0.1", "--out", str(tmp_path)]
    assert load("wordnet_poincare").main(command) == 0
    assert all(float(row["MAP %"]) > 60 for row in _rows(tmp_path / "table.csv"))


def test_sparse_gradients(load: Any, edges: Path, tmp_path: Path) -> None:
    command = ["--data", str(edges), "--closure", "--norm", "none,gyro", "--sparse", "--seeds", "1", "--epochs", "30"]
    assert load("wordnet_poincare").main([*command, "--batch", "64", "--lr", "0.1", "--out", str(tmp_path)]) == 0
    rows = _rows(tmp_path / "table.csv")
    assert len(rows) == 3 and all(float(row["MAP %"]) > 40 for row in rows)
    assert "those of the items in a batch" in (tmp_path / "table.md").read_text()
