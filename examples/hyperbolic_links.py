"""Predict links of real graphs with a hyperbolic graph network and compare norms."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import manifoldnorm as mn

try:
    import matplotlib.figure  # noqa: F401 - asked for now, not after the training
    import networkx as nx
    import tqdm  # noqa: F401
    from sklearn.metrics import roc_auc_score
except ModuleNotFoundError as missing:
    sys.exit(f"hyperbolic_links.py needs {missing.name}: pip install 'manifoldnorm[demo]'")

from _common.cli import Parser, integers, run
from _common.compare import Comparison, Norm, chosen
from _common.files import State, digest
from _common.runs import Run

NORMS = {
    "none": Norm("no norm"),
    "rbn": Norm("RBN, direct transport", functools.partial(mn.nn.RiemannianBatchNorm, route="direct")),
    "gyro": Norm("GyroBN", mn.nn.GyroBatchNorm),
    "midpoint": Norm("midpoint BN", functools.partial(mn.nn.MidpointBatchNorm, route="direct")),
}
GEOMETRIES = {"ball": mn.PoincareBall, "lorentz": mn.Lorentz}
GRAPHS = {
    "karate": nx.karate_club_graph,
    "miserables": nx.les_miserables_graph,
    "women": nx.davis_southern_women_graph,
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train; every node is its own feature."""

    epochs: int = 150
    lr: float = 1e-2
    widths: tuple[int, ...] = (16, 16, 16)
    geometry: str = "ball"
    test: float = 0.2


COMPARISON = Comparison(NORMS, Recipe, "auc", "test AUC %", {"epochs": 20}, seeds=10, quick_seeds=2)


def edges_of(graph: nx.Graph) -> tuple[int, Tensor]:
    """Return the number of nodes and the edges (2, E), each once, without loops."""
    number = {node: i for i, node in enumerate(graph)}
    pairs = sorted({tuple(sorted((number[a], number[b]))) for a, b in graph.edges() if a != b})
    if len(pairs) < 10:
        raise ValueError(f"the graph has {len(pairs)} edges: too few to test on a share of them")
    return len(number), torch.tensor(pairs).mT


class Training:
    """One network and its graph: a share of the edges, and as many pairs that are none, to test; drawn per seed."""

    def __init__(self, run: Run, recipe: Recipe, nodes: int, edges: Tensor) -> None:
        torch.manual_seed(run.seed)
        self.run, self.recipe, self.nodes = run, recipe, nodes
        order = torch.randperm(edges.shape[1])
        held = max(1, round(recipe.test * edges.shape[1]))
        test, self.train = edges[:, order[:held]], edges[:, order[held:]]
        absent = torch.ones(nodes, nodes, dtype=torch.bool).triu(1)
        absent[edges[0], edges[1]] = False
        others = absent.nonzero().mT
        self.others = others[:, torch.randperm(others.shape[1])]
        self.test = torch.cat([test, self.others[:, :held]], 1)
        self.truth = torch.arange(2 * held) < held
        self.others = self.others[:, held:]  # what training draws from
        self.both = torch.cat([self.train, self.train.flip(0)], 1)
        self.features = torch.eye(nodes)
        manifold = GEOMETRIES[recipe.geometry](recipe.widths[0])
        self.model = mn.models.HyperbolicGraphNet(nodes, recipe.widths, norm=NORMS[run.name].factory, manifold=manifold)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=recipe.lr)
        self.order = torch.Generator().manual_seed(run.seed)
        self.history: list[dict[str, float]] = []

    def state(self) -> State:
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer")}
        return {**parts, "order": self.order.get_state()}

    def restore(self, state: State) -> None:
        for name in ("model", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.order.set_state(state["order"])

    def epoch(self) -> None:
        start = time.perf_counter()
        self.model.train()
        self.optimizer.zero_grad()
        count = self.train.shape[1]
        drawn = self.others[:, torch.randint(self.others.shape[1], (count,), generator=self.order)]
        odds = self.model.links(self.model(self.features, self.both), torch.cat([self.train, drawn], 1))
        truth = (torch.arange(2 * count) < count).to(odds)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(odds, truth)
        loss.backward()
        self.optimizer.step()
        if not math.isfinite(loss.item()):
            raise ValueError(f"{self.run.title}: the loss is not finite in epoch {len(self.history) + 1}; lower --lr")
        self.history.append({"training loss": loss.item(), "seconds": time.perf_counter() - start})

    @torch.no_grad()
    def result(self) -> State:
        self.model.eval()
        odds = self.model.links(self.model(self.features, self.both), self.test)
        seconds = sum(row["seconds"] for row in self.history)
        return {"auc": 100 * float(roc_auc_score(self.truth, odds)), "seconds": seconds}


def parser() -> Parser:
    p = Parser(prog="hyperbolic_links.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--graph", default="all", help=f"all, or several of {', '.join(GRAPHS)}; default %(default)s")
    p.add_argument("--data", type=Path, help="an edge list (two columns) instead")
    p.add_argument("--geometry", choices=list(GEOMETRIES), help="default ball")
    p.add_argument("--widths", type=integers, help="dimensions of the points, default 16,16,16")
    COMPARISON.add_options(p, "results/links")
    return p


def load(args: Namespace) -> dict[str, tuple[int, Tensor]]:
    """Return nodes and edges of the graphs that the command line names."""
    if args.data is not None:
        return {args.data.stem: edges_of(nx.read_edgelist(args.data, data=False))}
    return {name: edges_of(GRAPHS[name]()) for name in chosen(args.graph, GRAPHS, "graph")}


def train(args: Namespace) -> str:
    """Train what the command line asks for and return what to print."""
    recipe, graphs = COMPARISON.settings(args), load(args)
    sizes = ", ".join(f"{name} {nodes} nodes, {edges.shape[1]} edges" for name, (nodes, edges) in graphs.items())
    return COMPARISON.carry_out(
        args,
        recipe,
        {name: digest(edges) for name, (_, edges) in graphs.items()},
        lambda run: Training(run, recipe, *graphs[run.part]),
        title="links",
        note=f"{sizes}. Area under the ROC curve for {100 * recipe.test:.0f} % of the edges against as many pairs that "
        f"are none, after the last of {recipe.epochs} epochs; {recipe.geometry}, dimensions "
        f"{', '.join(map(str, recipe.widths))}, step size {recipe.lr}.",
        parts=list(graphs),
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run(parser(), argv, train)


if __name__ == "__main__":
    sys.exit(main())
