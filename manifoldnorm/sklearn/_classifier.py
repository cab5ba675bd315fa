"""The classifier of positive-definite matrices and of signals."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from manifoldnorm.nn import DomainBatchNorm, refit
from manifoldnorm.nn._domains import distinct
from manifoldnorm.sklearn import _inputs, _norms, _training

Array = np.ndarray[Any, Any]


class SPDNetClassifier(ClassifierMixin, BaseEstimator):
    """An SPD network with any norm as a scikit-learn classifier, for covariance matrices or signals.

    Samples are positive-definite matrices (N, n, n) or signals (N, channels, time), real or complex, of which the
    covariances are taken. They are divided by their mean eigenvalue in the training data, pass an `SPDNet`, and are
    trained with AdamW and a cosine schedule; the network after the last epoch counts. Class labels and domain labels
    are of any kind.

    With ``fit(X, y, domain)`` the norm's statistics are per domain (person, session, site): the norm is wrapped in a
    `DomainBatchNorm`. `adapt` sets the statistics of a domain from unlabelled samples, before or after it was seen.

    Parameters
    ----------
    norm : factory, {"riemann", "logeuclid", "logchol", "wasserstein"} or None
        Such as ``LieBatchNorm.of(LogEuclidean)`` or ``DomainBatchNorm.of(..., min_samples=4)``, whose number of domains
        is that of the fit; or a metric by pyRiemann's name; or no norm, which ignores domains.
    layer_sizes : sequence of int, optional
        Matrix sizes after each BiMap; default three quarters and half of the channels.
    shrinkage : float, {"ledoit_wolf", "oas"} or None
        Of the covariances of signals.
    epochs, batch_size : int
        Passes over the training data, and samples in a batch (dealt evenly to the domains).
    lr, weight_decay : float
        First step size, and decay of the weights; scales, biases and points have none.
    adapt_unseen : bool
        Whether domains that the fit did not see are adapted to the samples to predict, for this prediction only (which
        then depends on the samples it is made with). If not, they are an error.
    random_state : int, RandomState or None
        Of the initial weights and the batches; an int gives the same network on every run.
    dtype : {"float32", "float64"}
        Precision of the network.
    device : str
        Where it trains and predicts.
    verbose : int
        1 prints the training loss of every epoch.

    Attributes
    ----------
    classes_ : ndarray
        The class labels.
    domains_ : list or None
        The domain labels with statistics of their own, those adapted to included; None where there are none.
    n_features_in_ : int
        Number of channels n.
    net_ : skorch.NeuralNetClassifier
        The trained net: ``net_.module_`` is the `SPDNet`, ``net_.history`` the losses.

    Raises
    ------
    ValueError
        For data that are not matrices or signals, not finite, not positive definite or unlike those of the fit, labels
        that do not fit the samples, and domains without statistics; the message says what to do.

    References
    ----------
    Huang and Van Gool 2017 (SPDNet); Kobler et al. 2022 (statistics per domain).

    Examples
    --------
    >>> import numpy as np, manifoldnorm as mn
    >>> rng = np.random.default_rng(0)
    >>> y = np.array(["rest", "move"] * 30)
    >>> X = rng.standard_normal((60, 4, 100))  # signals
    >>> X[y == "move", 0] *= 3
    >>> session = np.repeat(["monday", "friday"], 30)
    >>> model = mn.sklearn.SPDNetClassifier("logeuclid", epochs=10, lr=2e-2, random_state=0)
    >>> model.fit(X, y, domain=session).score(X, y, domain=session)
    1.0
    >>> model.adapt(X[:20], "sunday").predict(X[:2], "sunday").tolist()
    ['rest', 'move']
    """

    def __init__(
        self,
        norm: Any = "riemann",
        *,
        layer_sizes: Sequence[int] | None = None,
        shrinkage: float | str | None = "oas",
        epochs: int = 60,
        batch_size: int = 32,
        lr: float = 5e-3,
        weight_decay: float = 1e-2,
        adapt_unseen: bool = False,
        random_state: Any = None,
        dtype: Any = "float32",
        device: str = "cpu",
        verbose: int = 0,
    ) -> None:
        self.norm, self.layer_sizes, self.shrinkage = norm, layer_sizes, shrinkage
        self.epochs, self.batch_size, self.lr, self.weight_decay = epochs, batch_size, lr, weight_decay
        self.adapt_unseen, self.random_state = adapt_unseen, random_state
        self.dtype, self.device, self.verbose = dtype, device, verbose

    # ---- fit

    def fit(self, X: Any, y: Any, domain: Any = None) -> SPDNetClassifier:
        """Train a new network.

        Parameters
        ----------
        X : array or Tensor
            Matrices (N, n, n) or signals (N, channels, time).
        y : array
            Class label (N,) of each sample.
        domain : array or sequence, optional
            Domain label (N,) of each sample.
        """
        name = type(self).__name__
        _inputs.check_parameters(self, self._dtype, name)
        x, kind = _inputs.read(X, name)
        labels = _inputs.targets(y, len(x), name)
        where = None if domain is None else _inputs.domains(domain, len(x), name)
        domains = None if where is None or self.norm is None else distinct(where)
        norm = _norms.resolve(self.norm, None if domains is None else len(domains), name)
        x = _inputs.matrices(x, kind, self.shrinkage, name)
        unit = x.diagonal(dim1=-2, dim2=-1).real.mean().item()
        x = _inputs.narrowed(x / unit, self._dtype, name)
        classes, answers = np.unique(labels, return_inverse=True)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        needed = 2 if domains is None else self._check_enough(where or [], norm.min_samples)
        sampler = _training.batches(len(x), None if domains is None else where, self.batch_size, needed, seed)
        net = _training.new_net(
            self,
            sampler,
            module__sizes=self._sizes(kind.channels),
            module__n_outputs=len(classes),
            module__norm=norm,
            module__field=kind.field,
            module__dtype=x.dtype,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            _training.train(net, _samples(x, domains, where), answers, name)
        self.net_, self.classes_ = net, classes
        self.domains_: Any = domains
        self.n_features_in_, self._kind, self._unit = kind.channels, kind, unit
        return self

    @property
    def _dtype(self) -> Any:
        return getattr(torch, self.dtype, None) if isinstance(self.dtype, str) else self.dtype

    def _sizes(self, n: int) -> list[int]:
        least = min(n, 2)
        later = [max(least, -(-3 * n // 4)), max(least, n // 2)] if self.layer_sizes is None else self.layer_sizes
        return [n, *later]

    # ---- predict

    def predict_proba(self, X: Any, domain: Any = None) -> Array:
        """Return the probabilities (N, classes) in the order of ``classes_``.

        Parameters
        ----------
        X : array or Tensor
            As in `fit`.
        domain : array, sequence or label, optional
            Domain label of each sample, or the one of all, where the fit had domains. A tuple is a sequence: where it
            is the label of all, pass ``[label] * len(X)``.
        """
        x, name = self._matrices(X), type(self).__name__
        if self.domains_ is None:
            if domain is not None and self.norm is not None:
                raise ValueError(f"{name}: domain was given, but the fit had none. Leave it out or fit with domains.")
            return self.net_.predict_proba({"x": x})
        where = self._where(domain, len(x), "predict(X, domain)")
        net, domains = self.net_, self.domains_
        unseen = [label for label in distinct(where) if label not in set(domains)]
        if unseen and not self.adapt_unseen:
            raise ValueError(
                f"{name}: domain {unseen[0]!r} has no statistics, the fit saw {_shown(domains)}. Call adapt(X, domain) "
                f"with unlabelled samples of it first, or set adapt_unseen=True to adapt to the samples to predict."
            )
        if unseen:
            new = [position for position, label in enumerate(where) if label in set(unseen)]
            net, domains = self._adapted(x[new], [where[position] for position in new])
        return net.predict_proba(_samples(x, domains, where))

    def predict(self, X: Any, domain: Any = None) -> Array:
        """Return the class label (N,) of each sample; as `predict_proba`."""
        probabilities = self.predict_proba(X, domain)
        return self.classes_[probabilities.argmax(1)]

    def score(self, X: Any, y: Any, sample_weight: Any = None, domain: Any = None) -> float:
        """Return the accuracy; as `predict_proba`."""
        return float(accuracy_score(y, self.predict(X, domain), sample_weight=sample_weight))

    def _matrices(self, X: Any) -> Tensor:
        """Return the network's input."""
        check_is_fitted(self)
        name = type(self).__name__
        x, kind = _inputs.read(X, name, self._kind)
        x = _inputs.matrices(x, kind, self.shrinkage, name)
        return _inputs.narrowed(x / self._unit, self._dtype, name)

    def _where(self, domain: Any, samples: int, call: str) -> Sequence[Hashable]:
        name = type(self).__name__
        if domain is None:
            raise ValueError(
                f"{name}: the statistics are per domain: pass {call} the domain of each sample, one of "
                f"{_shown(self.domains_)} (through scikit-learn: set_predict_request(domain=True) and "
                f"set_score_request(domain=True))."
            )
        return _inputs.domains(domain, samples, name)

    # ---- adapt

    def adapt(self, X: Any, domain: Any = None) -> SPDNetClassifier:
        """Set the norms' statistics from unlabelled samples: of their domains, seen or not; or of all, without domains.

        Parameters
        ----------
        X : array or Tensor
            As in `fit`: all samples of these domains at once. Other domains stay as they are.
        domain : array, sequence or label, optional
            As in `predict_proba`.
        """
        x, name = self._matrices(X), type(self).__name__
        if self.norm is None:
            raise ValueError(f"{name}: norm=None has no statistics to adapt. Fit with a norm.")
        if self.domains_ is None and domain is not None:
            raise ValueError(
                f"{name}: domain was given, but the fit had none. Fit with domains, or leave it out: adapt(X) sets the "
                f"statistics of all samples."
            )
        where = None if self.domains_ is None else self._where(domain, len(x), "adapt(X, domain)")
        self.net_, self.domains_ = self._adapted(x, where)
        return self

    def _adapted(self, x: Tensor, where: Sequence[Hashable] | None) -> tuple[Any, Any]:
        """Return a net with statistics from these samples, and its domains."""
        net, domains = copy.deepcopy(self.net_), self.domains_
        if where is not None:
            norms = [module for module in net.module_.modules() if isinstance(module, DomainBatchNorm)]
            self._check_enough(where, norms[0].norm.min_samples)
            new = [label for label in distinct(where) if label not in set(domains)]
            for norm in norms if new else ():
                norm.add_domain(len(new))
            domains = [*domains, *new]
        refit(net.module_, **{key: value.to(self.device) for key, value in _samples(x, domains, where).items()})
        return net, domains

    def _check_enough(self, where: Sequence[Hashable], needed: int) -> int:
        for label in distinct(where):
            if (count := where.count(label)) < needed:
                raise ValueError(
                    f"{type(self).__name__}: domain {label!r} has {count} samples, too few for statistics of its own "
                    f"(min_samples={needed}). Pass more samples of it, or leave it out."
                )
        return needed

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        return tags


def _samples(x: Tensor, domains: Sequence[Hashable] | None, where: Sequence[Hashable] | None) -> dict[str, Tensor]:
    """Return what the network is called with."""
    if domains is None or where is None:
        return {"x": x}
    index = {label: position for position, label in enumerate(domains)}
    return {"x": x, "domain": torch.tensor([index[label] for label in where])}


def _shown(labels: Sequence[Hashable]) -> str:
    more = ", ..." if len(labels) > 8 else ""
    return ", ".join(map(repr, labels[:8])) + more
