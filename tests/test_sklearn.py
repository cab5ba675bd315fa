"""The scikit-learn estimator: data, labels, norms, domains, searches, and what it says about bad input."""

from __future__ import annotations

import copy
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="needs the extra sklearn")
pytest.importorskip("skorch", reason="needs the extra sklearn")

import sklearn
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, LeaveOneGroupOut, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import manifoldnorm as mn
from manifoldnorm.sklearn import METRICS, SPDNetClassifier

Array = np.ndarray[Any, Any]
QUICK = {"epochs": 15, "lr": 3e-2, "random_state": 0}
LEM = mn.nn.LieBatchNorm.of(mn.LogEuclidean)


def signals(samples: int = 48, channels: int = 4, seed: int = 0, is_complex: bool = False) -> tuple[Array, Array]:
    """Signals of three classes, each with power in another channel."""
    rng = np.random.default_rng(seed)
    y = np.array(["rock", "paper", "scissors"])[np.arange(samples) % 3]
    X = rng.standard_normal((samples, channels, 60))
    if is_complex:
        X = X + 1j * rng.standard_normal(X.shape)
    for k, label in enumerate(("rock", "paper", "scissors")):
        X[y == label, k] *= 3.0
    return X, y


def covariances(*args: Any, **options: Any) -> tuple[Array, Array]:
    X, y = signals(*args, **options)
    return X @ X.conj().transpose(0, 2, 1) / X.shape[-1], y


def shifted(samples: int = 60, seed: int = 0) -> tuple[Array, Array, Array]:
    """Covariances from three sessions, each with a gain per channel of its own that hides the class."""
    X, y = covariances(samples, seed=seed)
    session = np.repeat(["mon", "tue", "wed"], samples // 3)
    for label, gain in (("mon", [1, 1, 1, 1]), ("tue", [8, 1, 1 / 8, 1]), ("wed", [1 / 8, 8, 1, 1])):
        scale = np.sqrt(np.array(gain, dtype=float))
        X[session == label] *= np.outer(scale, scale)
    return X, y, session


@pytest.fixture
def routing() -> Iterator[None]:
    with sklearn.config_context(enable_metadata_routing=True):
        yield


# ---- data and labels


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("make", [signals, covariances])
def test_learns_from_matrices_and_signals(make: Any, is_complex: bool) -> None:
    X, y = make(is_complex=is_complex)
    test, answers = make(seed=1, is_complex=is_complex)
    model = SPDNetClassifier(**QUICK).fit(X, y)
    assert model.score(test, answers) > 0.9
    assert model.n_features_in_ == 4 and model.domains_ is None
    assert model.net_.module_.classifier.weight.dtype == torch.float32
    probabilities = model.predict_proba(test)
    assert probabilities.shape == (48, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert (model.classes_[probabilities.argmax(1)] == model.predict(test)).all()


def test_signals_are_their_covariances() -> None:
    X, y = signals()
    C = mn.nn.Covariance("oas")(torch.from_numpy(X))
    first, second = SPDNetClassifier(**QUICK).fit(X, y), SPDNetClassifier(**QUICK).fit(C, y)
    assert (first.predict_proba(X) == second.predict_proba(C)).all()
    assert first.predict(X[:, :, :50]).shape == (48,)  # any length of time


@pytest.mark.parametrize("labels", [[3, 7, 1000], [-1, 1, 0], [True, False], ["b", "a", "ü"], [2.0, 5.0, 3.0]], ids=str)
def test_any_class_labels(labels: list[Any]) -> None:
    X, _ = covariances()
    y = np.array(labels)[np.arange(48) % len(labels)]
    model = SPDNetClassifier(epochs=2, random_state=0).fit(X, y)
    assert model.classes_.tolist() == sorted(labels)
    assert set(model.predict(X).tolist()) <= set(labels) and model.predict(X).dtype == y.dtype


def test_tensors_lists_and_arrays_give_the_same() -> None:
    X, y = covariances()
    reference = SPDNetClassifier(**QUICK).fit(X, y).predict_proba(X)
    for form in (torch.from_numpy(X), X.tolist(), np.asfortranarray(X)):
        assert (SPDNetClassifier(**QUICK).fit(form, list(y)).predict_proba(form) == reference).all()
    numbers = np.arange(48) % 3
    same = SPDNetClassifier(**QUICK).fit(X, torch.from_numpy(numbers))
    assert (same.predict(X) == SPDNetClassifier(**QUICK).fit(X, numbers).predict(X)).all()


@pytest.mark.parametrize("unit", [1e-12, 1e9])
def test_the_unit_of_the_data_does_not_matter(unit: float) -> None:
    X, y = covariances()
    reference = SPDNetClassifier(**QUICK).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(SPDNetClassifier(**QUICK).fit(unit * X, y).predict_proba(unit * X), reference, atol=1e-3)


def test_input_stays_as_it_is() -> None:
    for make in (signals, covariances):
        X, y = make()
        before = X.copy()
        SPDNetClassifier(epochs=1).fit(X, y).predict(X)
        assert np.array_equal(X, before)


# ---- norms


@pytest.mark.parametrize(
    "norm",
    [
        *METRICS,
        None,
        LEM,
        mn.nn.BuresWassersteinBatchNorm,
        mn.nn.MomentumBatchNorm.of(mn.AffineInvariant, schedule=mn.nn.MomentumSchedule(15, 0.2)),
    ],
    ids=str,
)
def test_norms_by_name_and_by_factory(norm: Any) -> None:
    X, y = covariances()
    assert SPDNetClassifier(norm, **QUICK).fit(X, y).score(X, y) > 0.9


def test_names_are_those_of_pyriemann() -> None:
    pyriemann = pytest.importorskip("pyriemann.geometry.distance")
    assert set(METRICS) <= set(pyriemann.distance_functions)
    expected = {"riemann": mn.AffineInvariant, "logeuclid": mn.LogEuclidean, "logchol": mn.LogCholesky}
    X = mn.AffineInvariant(4).random_point(2, dtype=torch.float64)
    for name, geometry in {**expected, "wasserstein": mn.BuresWasserstein}.items():
        manifold = METRICS[name](4).manifold
        assert manifold == geometry(4)
        theirs = pyriemann.distance_functions[name](X[0].numpy(), X[1].numpy())
        np.testing.assert_allclose(manifold.dist(X[0], X[1]).item(), theirs, rtol=1e-9)


def test_layers_and_precision() -> None:
    X, y = covariances()
    model = SPDNetClassifier(layer_sizes=[3], dtype="float64", epochs=2).fit(X, y)
    assert [tuple(p.shape) for p in model.net_.module_.features[0].parameters()] == [(4, 3)]
    assert model.net_.module_.classifier.weight.dtype == torch.float64
    assert SPDNetClassifier(epochs=1).fit(X[:, :1, :1], y).predict(X[:, :1, :1]).shape == (48,)


def test_weights_stay_orthonormal_and_only_they_decay() -> None:
    X, y = covariances()
    model = SPDNetClassifier(**QUICK).fit(X, y)
    weight = model.net_.module_.features[0].weight
    torch.testing.assert_close(weight.mT @ weight, torch.eye(3), rtol=0, atol=1e-5)
    groups = model.net_.optimizer_.param_groups
    assert [group["weight_decay"] for group in groups] == [1e-2, 0.0]
    assert all(group["lr"] < 3e-2 for group in groups)  # the cosine moved it


# ---- reproducibility and scikit-learn's protocol


def test_random_state_decides_everything() -> None:
    X, y = covariances()
    make = lambda seed: SPDNetClassifier(epochs=3, random_state=seed).fit(X, y).predict_proba(X)  # noqa: E731
    before = torch.get_rng_state()
    first = make(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert (make(3) == first).all() and (make(4) != first).any()
    assert (make(np.random.RandomState(3)) == first).all()


def test_clone_and_parameters() -> None:
    norm = mn.nn.DomainBatchNorm.of(LEM, min_samples=3)
    model = SPDNetClassifier(norm, lr=0.1)
    twin = clone(model)
    assert twin.get_params() == model.get_params() and twin.norm == norm
    assert twin.set_params(epochs=3).epochs == 3 and model.epochs == 60
    assert "norm=DomainBatchNorm.of(LieBatchNorm.of(LogEuclidean), 1, min_samples=3)" in repr(model)


@pytest.mark.parametrize("revive", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_predict_the_same_and_are_independent(revive: Any) -> None:
    X, y, session = shifted()
    model = SPDNetClassifier(**QUICK).fit(X, y, session)
    twin, before = revive(model), model.predict_proba(X, session)
    assert (twin.predict_proba(X, session) == before).all()
    twin.adapt(X[:20] * 3, "mon")
    assert (model.predict_proba(X, session) == before).all()


def test_searches_and_pipelines() -> None:
    X, y = signals()
    model = make_pipeline(FunctionTransformer(lambda x: 2 * x), SPDNetClassifier(epochs=8, lr=3e-2, random_state=0))
    grid = {"spdnetclassifier__norm": [None, "logeuclid", LEM], "spdnetclassifier__layer_sizes": [None, (3,)]}
    search = GridSearchCV(model, grid, cv=2).fit(X, y)
    assert search.best_score_ > 0.8 and len(search.cv_results_["params"]) == 6
    assert (cross_val_score(model, X, y, cv=3) > 0.6).all()


def test_with_a_transformer_of_pyriemann() -> None:
    estimation = pytest.importorskip("pyriemann.estimation")
    X, y = signals()
    assert make_pipeline(estimation.Covariances("oas"), SPDNetClassifier(**QUICK)).fit(X, y).score(X, y) > 0.9


def test_not_fitted() -> None:
    X, _ = covariances()
    for call in ("predict", "predict_proba", "adapt"):
        with pytest.raises(NotFittedError):
            getattr(SPDNetClassifier(), call)(X)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ctrl-C in the second epoch of a fit, once; returns the list of epochs begun."""
    begun: list[int] = []

    def press(self: Any, net: Any, **kwargs: Any) -> None:
        begun.append(len(net.history))
        if begun == [1, 2]:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("manifoldnorm.sklearn._training.Epochs.on_epoch_begin", press)
    return begun


def test_an_interrupted_fit_leaves_no_half_trained_network(interrupted: list[int]) -> None:
    X, y = covariances()
    model = SPDNetClassifier(epochs=5, random_state=0)
    with pytest.raises(KeyboardInterrupt, match="interrupted in epoch 2"):
        model.fit(X, y)
    with pytest.raises(NotFittedError):
        model.predict(X)
    before = model.fit(X, y).predict_proba(X)
    interrupted.clear()
    with pytest.raises(KeyboardInterrupt):
        model.set_params(random_state=1).fit(X[:, :3, :3], y == "rock")
    assert (model.predict_proba(X) == before).all() and model.classes_.tolist() == ["paper", "rock", "scissors"]


def test_an_interruption_stops_a_search(interrupted: list[int]) -> None:
    X, y = covariances()
    with pytest.raises(KeyboardInterrupt):
        GridSearchCV(SPDNetClassifier(epochs=3), {"lr": [1e-2, 1e-3]}, cv=2).fit(X, y)
    assert interrupted == [1, 2]


def test_importing_the_package_imports_neither() -> None:
    code = "import sys, manifoldnorm; print([n for n in ('sklearn', 'skorch') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


# ---- domains


@pytest.mark.parametrize("norm", ["riemann", LEM, mn.nn.DomainBatchNorm.of(LEM, 7, min_samples=3)], ids=str)
def test_statistics_per_domain_undo_the_shift(norm: Any) -> None:
    X, y, session = shifted()
    test, answers, _ = shifted(seed=1)
    model = SPDNetClassifier(norm, **QUICK).fit(X, y, session)
    assert model.domains_ == ["mon", "tue", "wed"]
    assert model.score(test, answers, domain=session) > 0.9
    order = np.random.default_rng(0).permutation(60)
    np.testing.assert_allclose(
        model.predict_proba(test[order], session[order]), model.predict_proba(test, session)[order], atol=1e-5
    )


DOMAINS = {
    "strings": ["x", "y", "ä"],
    "gaps": [10, -3, 400],
    "tuples": [("a", 1), ("a", 2), ("b", 1)],
    "mixed": ["x", 3, ("b", 1)],
}


@pytest.mark.parametrize("kind", DOMAINS)
def test_any_domain_labels(kind: str) -> None:
    X, y, session = shifted()
    names = DOMAINS[kind]
    labels = [names[["mon", "tue", "wed"].index(each)] for each in session]
    model = SPDNetClassifier(**QUICK).fit(X, y, labels)
    reference = SPDNetClassifier(**QUICK).fit(X, y, session)
    assert set(model.domains_) == set(names)
    assert model.score(X, y, domain=labels) == pytest.approx(reference.score(X, y, domain=session), abs=0.1)
    if kind == "gaps":
        for form in (torch.tensor(labels), np.array(labels), np.array(labels)[:, None]):
            assert (model.predict_proba(X, form) == model.predict_proba(X, labels)).all()
        for one in (400, np.int64(400), np.array(400), torch.tensor(400)):
            assert (model.predict_proba(X, one) == model.predict_proba(X, [400] * 60)).all()


def test_one_tuple_as_the_label_of_all_samples() -> None:
    X, y, session = shifted()
    model = SPDNetClassifier(epochs=2).fit(X, y, [("p", each) for each in session.tolist()])
    for call in (model.predict, model.adapt):
        with pytest.raises(ValueError, match=r"one label of all samples: \[\('p', 'mon'\)\] \* 20\."):
            call(X[:20], ("p", "mon"))
    assert model.predict(X[:20], [("p", "mon")] * 20).shape == (20,)
    with pytest.raises(ValueError, match="domain 'mon' has no statistics"):  # as documented: a tuple is a sequence
        model.predict(X[:2], ("p", "mon"))


def test_adapting_to_an_unseen_domain() -> None:
    X, y, session = shifted()
    old = session != "wed"
    model = SPDNetClassifier("logeuclid", **QUICK).fit(X[old], y[old], session[old])
    before = model.predict_proba(X[old], session[old])
    with pytest.raises(ValueError, match=r"domain 'wed' has no statistics, the fit saw 'mon', 'tue'. Call adapt\("):
        model.predict(X, session)
    assert model.adapt(X[~old], "wed") is model
    assert model.domains_ == ["mon", "tue", "wed"]
    assert model.score(X[~old], y[~old], domain="wed") > 0.9
    assert (model.predict_proba(X[old], session[old]) == before).all()  # the others stay
    again = model.predict_proba(X[~old], "wed")
    assert (model.adapt(X[~old], session[~old]).predict_proba(X[~old], "wed") == again).all()


def test_adapting_for_one_prediction_changes_nothing() -> None:
    X, y, session = shifted()
    old = session != "wed"
    model = SPDNetClassifier("logeuclid", adapt_unseen=True, **QUICK).fit(X[old], y[old], session[old])
    predicted = model.predict_proba(X, session)
    assert model.domains_ == ["mon", "tue"]
    model.adapt(X[~old], "wed")
    np.testing.assert_allclose(model.predict_proba(X, session), predicted, atol=1e-6)


def test_adapting_without_domains() -> None:
    X, y, session = shifted()
    old = session == "mon"
    model = SPDNetClassifier("riemann", **QUICK).fit(X[old], y[old])
    shift = np.sqrt(np.outer([8, 1, 1 / 8, 1], [8, 1, 1 / 8, 1]))
    assert model.score(X[old] * shift, y[old]) < 0.8 < model.adapt(X[old] * shift).score(X[old] * shift, y[old])
    with pytest.raises(ValueError, match="norm=None has no statistics to adapt"):
        SPDNetClassifier(None, epochs=1).fit(X, y).adapt(X)


def test_no_norm_ignores_domains() -> None:
    X, y, session = shifted()
    model = SPDNetClassifier(None, epochs=2, random_state=0).fit(X, y, session)
    assert model.domains_ is None
    assert (model.predict_proba(X, session) == model.predict_proba(X)).all()


def test_small_domains_take_part() -> None:
    X, y, _ = shifted()
    domain = ["big"] * 54 + ["small"] * 6
    for norm, per_batch in (("logeuclid", 4), (mn.nn.DomainBatchNorm.of(LEM, min_samples=6), 6)):
        model = SPDNetClassifier(norm, epochs=2, batch_size=8, random_state=0).fit(X, y, domain)
        assert model.predict(X, domain).shape == (60,)
        tracked = model.net_.module_.features[1].norm.num_batches_tracked
        full, rest = divmod(54, per_batch)
        assert tracked.tolist() == [2 * (full + (rest >= 2)), 2 * (6 // per_batch + (6 % per_batch >= 2))]
    with pytest.raises(ValueError, match=r"domain 'small' has 6 samples, too few .*min_samples=7"):
        SPDNetClassifier(mn.nn.DomainBatchNorm.of(LEM, min_samples=7)).fit(X, y, domain)


def test_cross_validation_with_groups(routing: None) -> None:
    X, y, session = shifted()
    model = SPDNetClassifier("logeuclid", adapt_unseen=True, **QUICK)
    model = model.set_fit_request(domain=True).set_score_request(domain=True)
    params = {"domain": session, "groups": session}
    for splits in (LeaveOneGroupOut(), GroupKFold(3)):
        scores = cross_val_score(model, X, y, cv=splits, params=params, error_score="raise")
        assert scores.shape == (3,) and (scores > 0.9).all()
    model.set_params(adapt_unseen=False)
    mixed = StratifiedKFold(3, shuffle=True, random_state=0)  # no session is unseen
    assert (cross_val_score(model, X, y, cv=mixed, params={"domain": session}, error_score="raise") > 0.8).all()


def test_searches_and_pipelines_route_the_domain(routing: None) -> None:
    X, y, session = shifted()
    model = SPDNetClassifier(**QUICK).set_fit_request(domain=True).set_score_request(domain=True)
    model.set_predict_request(domain=True)
    pipeline = make_pipeline(FunctionTransformer(), model).fit(X, y, domain=session)
    assert pipeline.score(X, y, domain=session) > 0.9
    assert (pipeline.predict(X, domain=session) == pipeline[-1].predict(X, session)).all()
    mixed = StratifiedKFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(model, {"norm": ["logeuclid", mn.nn.DomainBatchNorm.of(LEM)]}, cv=mixed, error_score="raise")
    assert search.fit(X, y, domain=session).best_score_ > 0.9


# ---- bad input


def broken(kind: str) -> Array:
    X, _ = covariances()
    if kind == "nan":
        X[5, 0, 0] = np.nan
    elif kind == "infinite":
        X[5, 0, 0] = np.inf
    elif kind == "indefinite":
        X[5] = -X[5]
    elif kind == "singular":
        X[5, 0], X[5, :, 0] = 0.0, 0.0
    elif kind == "asymmetric":
        X[5, 0, 1] += 1.0
    return X


BAD = {
    "nan": "X contains NaN or infinity, first in sample 5. Repair it",
    "infinite": "X contains NaN or infinity, first in sample 5",
    "indefinite": r"X: sample 5 is not positive definite .*Shrink the covariance",
    "singular": r"X: sample 5 is numerically singular",
    "asymmetric": r"X: sample 5 is not symmetric .*Symmetrise",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_samples(kind: str) -> None:
    X, y = covariances()
    with pytest.raises(ValueError, match=f"SPDNetClassifier: {BAD[kind]}"):
        SPDNetClassifier(epochs=1).fit(broken(kind), y)
    model = SPDNetClassifier(epochs=1).fit(X, y)
    for call in (model.predict, model.predict_proba, model.adapt):
        with pytest.raises(ValueError, match=BAD[kind]):
            call(broken(kind))


def test_signals_whose_covariance_is_singular() -> None:
    X, y = signals()
    with pytest.raises(ValueError, match=r"covariances of X: sample 0 is numerically singular .*shrinkage"):
        SPDNetClassifier(shrinkage=None, epochs=1).fit(X[:, :, :3], y)
    assert SPDNetClassifier(epochs=1).fit(X[:, :, :3], y).predict(X[:, :, :3]).shape == (48,)


def test_matrices_that_only_double_precision_can_hold() -> None:
    X, y = covariances()
    X[:, 0, :], X[:, :, 0] = 1e-6 * X[:, 0, :], 1e-6 * X[:, :, 0]
    with pytest.raises(ValueError, match=r"X in single precision: .*dtype='float64'"):
        SPDNetClassifier(epochs=1).fit(X, y)
    assert SPDNetClassifier("logeuclid", epochs=1, dtype="float64").fit(X, y).predict(X).shape == (48,)


@pytest.mark.parametrize("shape", [(48,), (48, 4), (48, 2, 4, 4), (0, 4, 4), (48, 0, 4)], ids=str)
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"matrices \(samples, n, n\) or signals|0 sample\(s\)"):
        SPDNetClassifier().fit(np.ones(shape), np.arange(48) % 2)


def test_data_unlike_those_of_the_fit() -> None:
    X, y = covariances()
    model = SPDNetClassifier(epochs=1).fit(X, y)
    with pytest.raises(ValueError, match="X has 3 features, but SPDNetClassifier is expecting 4 features"):
        model.predict(X[:, :3, :3])
    with pytest.raises(ValueError, match=r"X holds real signals \(N, 4, time\), but the fit saw real matrices"):
        model.predict(signals()[0])
    with pytest.raises(ValueError, match=r"complex matrices .* but the fit saw real matrices"):
        model.predict(X.astype(complex))
    over_complex = SPDNetClassifier(epochs=1, random_state=0).fit(covariances(is_complex=True)[0], y)
    assert (over_complex.predict(X) == over_complex.predict(X.astype(complex))).all()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed, but the target y is None"),
        (["a"] * 48, "y holds only one class, 'a'"),
        (["a", "b"], "y has 2 labels, X has 48 samples"),
        (np.linspace(0, 1, 48), "Unknown label type"),
        ([np.nan] * 48, "NaN"),
    ],
    ids=["missing", "one class", "length", "continuous", "nan"],
)
def test_wrong_targets(y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SPDNetClassifier(epochs=1).fit(covariances()[0], y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "euclid"}, "'euclid' is not one of 'riemann', 'logeuclid', 'logchol', 'wasserstein'"),
        ({"norm": mn.nn.DomainBatchNorm.of(LEM, 3)}, r"statistics per domain: pass fit\(X, y, domain=...\)"),
        ({"epochs": 0}, "epochs must be an integer of at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be an integer of at least 2"),
        ({"dtype": "float16"}, "dtype must be 'float32' or 'float64'"),
        ({"layer_sizes": [5]}, "5"),
        ({"device": "cpx"}, r"device 'cpx' cannot be used on this machine \(.*Pass 'cpu'"),
        ({"device": "cuda:99"}, r"device 'cuda:99' cannot be used on this machine \(.*Pass 'cpu'"),
        ({"device": 1.5}, r"device 1.5 cannot be used"),
        ({"lr": 1e30}, r"training failed in epoch \d: .* Lower lr"),
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    X, y = covariances()
    with pytest.raises(ValueError, match=message):
        SPDNetClassifier(**{"epochs": 3, **options}).fit(X, y)
    with pytest.raises(TypeError, match="norm must be a factory"):
        SPDNetClassifier(3).fit(X, y)
    for value in ("no", None, 1):
        with pytest.raises(TypeError, match="adapt_unseen must be True or False, got"):
            SPDNetClassifier(adapt_unseen=value).fit(X, y)


def test_wrong_domains() -> None:
    X, y, session = shifted()
    with pytest.raises(ValueError, match="domain has 59 labels, X has 60 samples"):
        SPDNetClassifier(epochs=1).fit(X, y, session[1:])
    with pytest.raises(ValueError, match="label 0 is NaN"):
        SPDNetClassifier(epochs=1).fit(X, y, [np.nan] * 60)
    with pytest.raises(TypeError, match="label 0 is not hashable"):
        SPDNetClassifier(epochs=1).fit(X, y, [["a"]] * 60)
    with pytest.raises(ValueError, match=r"one label for each sample, got shape \(30, 2\).*list of tuples"):
        SPDNetClassifier(epochs=1).fit(X, y, session.reshape(30, 2))
    model = SPDNetClassifier(epochs=1).fit(X, y, session)
    with pytest.raises(ValueError, match=r"pass predict\(X, domain\) the domain of each sample, one of 'mon', 'tue'"):
        model.predict(X)
    with pytest.raises(ValueError, match=r"pass adapt\(X, domain\)"):
        model.adapt(X)
    before = model.predict_proba(X, session)
    with pytest.raises(ValueError, match=r"domain 'thu' has 1 samples, too few .*min_samples=2"):
        model.adapt(X[:3], ["mon", "thu", "mon"])
    assert model.domains_ == ["mon", "tue", "wed"] and (model.predict_proba(X, session) == before).all()
    plain = SPDNetClassifier(epochs=1).fit(X, y)
    for call in (plain.predict, plain.adapt):
        with pytest.raises(ValueError, match="domain was given, but the fit had none"):
            call(X, session)
