"""A support vector machine for handwritten digits is chosen by cross-validation, in joblib's two processes."""

import sys
from itertools import product

from joblib import Parallel, delayed
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC


def cases(widths, folds):
    settings = product([1, 3, 10, 30], [0.0001 * 2**n for n in range(widths)])
    return list(product(settings, range(folds)))


def fit(pixels, digits, setting, folds, fold):
    c, gamma = setting
    learn, judge = list(StratifiedKFold(folds).split(pixels, digits))[fold]
    model = SVC(C=c, gamma=gamma).fit(pixels[learn], digits[learn])
    return model.score(pixels[judge], digits[judge])


def main(widths, folds):
    pixels, digits = load_digits(return_X_y=True)
    calls = [(pixels, digits, setting, folds, fold) for setting, fold in cases(widths, folds)]
    found = Parallel(n_jobs=2)(delayed(fit)(*call) for call in calls)
    accuracies = {}
    for (_, _, setting, _, _), accuracy in zip(calls, found, strict=True):
        accuracies[setting] = accuracies.get(setting, 0) + accuracy / folds
    best = max(accuracies, key=accuracies.get)
    print(f"best: {best} with {accuracies[best]:.4f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
