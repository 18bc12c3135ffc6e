"""C2ST, the classifier two-sample test: how well a classifier distinguishes samples from reference samples."""

import numpy as np
from sklearn import model_selection, neural_network, preprocessing


def c2st(samples, reference, hidden, num_folds, **options):
    """Returns the accuracy of a ReLU network on folds that it did not see: 0.5 is best, 1 is worst.

    The inputs `[num, dimensions]` are standardized by the reference. `options` are arguments of `MLPClassifier`.
    Accuracies are comparable for equal numbers of samples only.
    """
    values = preprocessing.StandardScaler().fit(reference).transform(np.concatenate([samples, reference]))
    label = np.repeat([0, 1], len(samples))
    classifier = neural_network.MLPClassifier(hidden, max_iter=1000, random_state=0, **options)
    folds = model_selection.StratifiedKFold(num_folds, shuffle=True, random_state=0)
    return float(np.mean(model_selection.cross_val_predict(classifier, values, label, cv=folds) == label))
