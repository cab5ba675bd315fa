"""Hierarchies as pairs (descendant, ancestor): an edge list, or the files of a WordNet database."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

Edge = tuple[str, str]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "wordnet_mammals_closure.csv"
DEBIAN = Path("/usr/share/wordnet")


@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """Names, pairs (P, 2) of the transitive closure, descendant first and sorted, and the direct edges (E, 2)."""

    name: str
    names: list[str]
    pairs: Tensor
    direct: Tensor

    def __len__(self) -> int:
        return len(self.names)

    @property
    def keys(self) -> Tensor:
        """One sorted number per pair, and per item with itself: what is no negative sample."""
        items = torch.arange(len(self)).expand(2, -1).mT
        both = torch.cat([self.pairs, items])
        return (both[:, 0] * len(self) + both[:, 1]).unique()

    def digest(self) -> str:
        text = "\n".join(self.names).encode() + self.pairs.numpy().tobytes()
        return hashlib.sha256(text).hexdigest()[:16]


def load(path: Path | None, root: str, closure: bool) -> Hierarchy:
    """Return the hierarchy in a file or folder; by default the mammals, from where they are."""
    if path is None:
        path = next((place for place in (SHARED, DEBIAN) if place.exists()), None)
        if path is None:
            raise ValueError(
                "no hierarchy found: pass --data FILE, an edge list (descendant, ancestor), or --data FOLDER with "
                "WordNet's data.noun and index.noun, such as Debian's package wordnet-base installs"
            )
    if path.is_dir():
        edges = _below(_wordnet_edges(path), root)
        return _hierarchy(f"WordNet {root}", _closure(edges), edges)
    edges, direct = _edge_list(path)
    return _hierarchy(path.stem, _closure(edges) if closure else edges, direct)


def _hierarchy(name: str, pairs: Iterable[Edge], direct: Iterable[Edge]) -> Hierarchy:
    pairs = sorted({pair for pair in pairs if pair[0] != pair[1]})
    if len(pairs) < 2:
        raise ValueError(f"{name}: needs at least two pairs of different items, found {len(pairs)}")
    names = sorted({item for pair in pairs for item in pair})
    number = {item: i for i, item in enumerate(names)}
    numbered = [[number[a], number[b]] for a, b in pairs]
    edges = [[number[a], number[b]] for a, b in direct if a in number and b in number]
    return Hierarchy(name, names, torch.tensor(numbered), torch.tensor(edges).reshape(-1, 2))


def _edge_list(path: Path) -> tuple[list[Edge], list[Edge]]:
    """Return all pairs, and those whose third column, where there is one, is not 0."""
    lines = path.read_text(encoding="utf-8").splitlines()
    delimiter = next((mark for mark in (",", "\t") if lines and mark in lines[0]), None)
    rows = list(csv.reader(lines, delimiter=delimiter)) if delimiter else [line.split() for line in lines]
    rows = [row for row in rows if row and not row[0].startswith("#")]
    if rows and [cell.lower() for cell in rows[0][:2]] == ["hyponym", "hypernym"]:
        rows = rows[1:]
    short = next((i for i, row in enumerate(rows) if len(row) < 2), None)
    if short is not None:
        raise ValueError(f"{path}: row {short + 1} has no second column: expected descendant, ancestor")
    edges = [(row[0], row[1]) for row in rows]
    return edges, [(row[0], row[1]) for row in rows if len(row) < 3 or row[2] != "0"]


def _wordnet_edges(folder: Path) -> list[Edge]:
    """Return the direct hypernyms and instance hypernyms of every noun synset."""
    for name in ("data.noun", "index.noun"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: {name} is missing; WordNet's folder has data.noun and index.noun")
    senses: dict[tuple[str, str], int] = {}
    for line in (folder / "index.noun").read_text(encoding="latin-1").splitlines():
        if not line.startswith("  "):
            fields = line.split()
            offsets = fields[-int(fields[2]) :]
            senses |= {(fields[0], offset): sense for sense, offset in enumerate(offsets, 1)}
    names: dict[str, str] = {}
    above: list[Edge] = []
    for line in (folder / "data.noun").read_text(encoding="latin-1").splitlines():
        if line.startswith("  "):
            continue
        fields = line.split(" | ")[0].split()
        offset, words = fields[0], int(fields[3], 16)
        lemma = fields[4].lower()
        names[offset] = f"{lemma}.n.{senses[lemma, offset]:02d}"
        pointers = fields[5 + 2 * words :]
        kinds, targets = pointers[: 4 * int(fields[4 + 2 * words]) : 4], pointers[1::4]
        above += [(offset, b) for kind, b in zip(kinds, targets, strict=False) if kind in ("@", "@i")]
    return [(names[a], names[b]) for a, b in above]


def _below(edges: list[Edge], root: str) -> list[Edge]:
    """Return the edges between descendants of ``root``, which may be ``all``."""
    if root == "all":
        return edges
    children = defaultdict(list)
    for a, b in edges:
        children[b].append(a)
    if root not in children:
        raise ValueError(f"--root {root}: no noun of that name has hyponyms; write it like mammal.n.01, or all")
    inside, queue = {root}, [root]
    while queue:
        fresh = [child for child in children[queue.pop()] if child not in inside]
        inside.update(fresh)
        queue += fresh
    return [(a, b) for a, b in edges if a in inside and b in inside]


def _closure(edges: Iterable[Edge]) -> list[Edge]:
    """Return every pair (descendant, ancestor)."""
    parents: dict[str, list[str]] = defaultdict(list)
    for a, b in edges:
        parents[a].append(b)
    pairs = []
    for item in list(parents):
        found: set[str] = set()
        queue = list(parents[item])
        while queue:
            ancestor = queue.pop()
            if ancestor not in found:
                found.add(ancestor)
                queue += parents.get(ancestor, [])
        pairs += [(item, ancestor) for ancestor in found]
    return pairs
