"""Scores of familiarity that are fitted after training, on training examples: what users compare an
energy with.

Higher means more familiar. They take what `evaluate.predict` gives of each example: the main score,
the logits where there are any, and the features before the last dense layer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import numpy as np
from scipy.special import logsumexp
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from ebm_jax.evaluate.predict import View
from ebm_jax.types import Array, Network, Params

TEMPERATURE, NEIGHBOURS = 10.0, 50
LARGEST = 256  # features; of more the first principal components are taken
MEANINGS = {
    'energy_t': f'T logsumexp_c f(x)[c] / T at T = {TEMPERATURE:g} (Liu et al. 2020)',
    'typicality': '-|log p(x) - its mean over training examples| (Nalisnick et al. 2019)',
    'mahalanobis': '-smallest Mahalanobis distance of the features to a class mean (Lee et al. '
    '2018), covariance by Ledoit and Wolf',
    'knn': f'-distance of the normalised features to the {NEIGHBOURS}th nearest training example, '
    'or that of a twentieth of few (Sun et al. 2022)',
}


def features_of(network: Network) -> Callable[[Params, Array], Array | None] | None:
    """(params, x) -> the input [F] of the network's last dense layer, or None where it has none;
    None for networks that are not linen modules."""
    if not isinstance(network.module, nn.Module):
        return None

    def features(params, x):
        seen: list[Array] = []

        def look(call, arguments, keywords, context):
            if isinstance(context.module, nn.Dense) and context.method_name == '__call__':
                seen.append(arguments[0])
            return call(*arguments, **keywords)

        with nn.intercept_methods(look):
            network.apply(params, x)
        # the layer sees a batch of one example
        return seen[-1][0].reshape(-1) if seen and seen[-1].ndim > 1 else None

    return features


def with_features(view: View, network: Network) -> View:
    """The view with the value 'features', where the network has them."""
    features = features_of(network)
    if features is None:
        return view

    def both(params, x):
        found = features(params, x)
        return view(params, x) | ({} if found is None else {'features': found})

    return both


@dataclass(frozen=True)
class PostHoc:
    """Scores fitted by `fit`.

    Attributes:
      main: name of the model's own main score. mean: its mean over training examples.
      projection: of more than LARGEST features to their principal components, else None.
      means: [C, F], of the features of each class; covariance and neighbours as fitted.
    """

    main: str
    mean: float
    projection: Any = None
    means: np.ndarray | None = None
    covariance: Any = None
    neighbours: Any = None

    @property
    def meanings(self) -> dict[str, str]:
        """{score: what it means} of those that this model has."""
        known = {'typicality'}
        if self.main == 'log_px':
            known |= {'energy_t'}
        if self.means is not None:
            known |= {'mahalanobis', 'knn'}
        return {name: text for name, text in MEANINGS.items() if name in known}

    def scores(self, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{score: [N]} of examples, from what `evaluate.predict` gives of them."""
        result = {'typicality': -np.abs(found[self.main] - self.mean)}
        if 'energy_t' in self.meanings:
            logits = np.asarray(found['logits'], np.float64)
            result['energy_t'] = TEMPERATURE * logsumexp(logits / TEMPERATURE, axis=1)
        if self.means is not None:
            features = found['features']
            if self.projection is not None:
                features = self.projection.transform(features)
            distances = np.stack(
                [self.covariance.mahalanobis(features - mean) for mean in self.means], 1
            )
            result['mahalanobis'] = -distances.min(1)
            distance, _ = self.neighbours.kneighbors(_normalised(features))
            result['knn'] = -distance[:, -1]
        return result


def fit(main: str, found: Mapping[str, np.ndarray], labels: np.ndarray) -> PostHoc:
    """Fit on training examples.

    Args:
      main: name of the model's own main score.
      found: what `evaluate.predict` gives of them: the main score [N], and 'features' [N, F] where
        the model has them.
      labels: int [N].
    """
    mean = float(np.mean(found[main]))
    if 'features' not in found:
        return PostHoc(main, mean)
    features, projection = np.asarray(found['features'], np.float64), None
    if features.shape[1] > LARGEST:
        count = min(LARGEST, len(features))
        projection = PCA(count, svd_solver='randomized', random_state=0).fit(features)
        features = projection.transform(features)
    means = np.stack([features[labels == label].mean(0) for label in np.unique(labels)])
    centred = features - means[np.searchsorted(np.unique(labels), labels)]
    covariance = LedoitWolf(assume_centered=True).fit(centred)
    count = max(1, min(NEIGHBOURS, len(features) // 20))
    neighbours = NearestNeighbors(n_neighbors=count).fit(_normalised(features))
    return PostHoc(main, mean, projection, means, covariance, neighbours)


def _normalised(features):
    """Rows of length 1."""
    features = np.asarray(features, np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
