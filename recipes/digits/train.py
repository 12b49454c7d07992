#!/usr/bin/env python3
"""Train one model on the digits data set: one task of an array.

DSPOOL_TASK_INDEX picks the parameter set (1 is the first). The model is judged by
cross-validation on the training part, then fitted on all of it and measured once on
digits it never saw. It learns from every digit five times: as it is, and moved by one
pixel in each direction. Into RESULTS go task-NN.joblib (the model) and task-NN.json.
"""

import argparse
import json
import os
import socket
import sys
import tempfile
import time
import warnings

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, confusion_matrix
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

FOLDS = 5
SEED = 7

PARAMETER_SETS = [
    ("SVC", {"kernel": "linear", "C": 0.01}),
    ("SVC", {"kernel": "poly", "degree": 3, "C": 1.0}),
    ("SVC", {"kernel": "rbf", "C": 1.0, "gamma": 0.02}),
    ("SVC", {"kernel": "rbf", "C": 10.0, "gamma": 0.01}),
    ("MLP", {"hidden_layer_sizes": [16], "alpha": 0.0001}),
    ("MLP", {"hidden_layer_sizes": [64], "alpha": 0.0001}),
    ("MLP", {"hidden_layer_sizes": [64, 32], "alpha": 0.01}),
    ("MLP", {"hidden_layer_sizes": [128], "alpha": 0.1}),
    ("Forest", {"n_estimators": 100, "max_depth": 6}),
    ("Forest", {"n_estimators": 60, "max_depth": None}),
    ("Forest", {"n_estimators": 80, "max_depth": 12}),
    ("Forest", {"n_estimators": 120, "max_depth": None}),
]


def make_model(family, parameters):
    """Return an unfitted model."""
    if family == "SVC":
        return make_pipeline(StandardScaler(), SVC(**parameters, random_state=SEED))
    if family == "MLP":
        return make_pipeline(StandardScaler(), MLPClassifier(**parameters, max_iter=20, random_state=SEED))
    return RandomForestClassifier(**parameters, n_jobs=1, random_state=SEED)


def fit(family, parameters, images, digits):
    """Return a model fitted on the images and on each of them moved by one pixel."""
    square = images.reshape(-1, 8, 8)
    moved = [square]
    for axis, step in ((1, 1), (1, -1), (2, 1), (2, -1)):
        shifted = np.roll(square, step, axis=axis)
        edge = [slice(None)] * 3
        edge[axis] = 0 if step > 0 else -1
        shifted[tuple(edge)] = 0  # what left on one side must not come back on the other
        moved.append(shifted)
    with warnings.catch_warnings():
        # A fixed number of rounds is the limit here, not convergence.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_model(family, parameters).fit(np.concatenate(moved).reshape(-1, 64), np.tile(digits, len(moved)))


def describe(family, parameters):
    """Return a short text for people, such as "SVC  kernel=rbf C=10"."""
    def value(v):
        if isinstance(v, list):
            return "x".join(map(str, v))
        if v is None:
            return "any"
        return f"{v:g}" if isinstance(v, float) else str(v)

    names = {"hidden_layer_sizes": "layers", "n_estimators": "trees", "max_depth": "depth", "max_features": "features"}
    return f"{family}  " + " ".join(f"{names.get(k, k)}={value(v)}" for k, v in parameters.items())


def say(text):
    """Print at once, so that who follows the job sees it live."""
    print(text, flush=True)


def write_whole(path, write):
    """Let path appear complete or not at all: the gathering task may look at any time."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as f:
            write(f)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def task_index():
    text = os.environ.get("DSPOOL_TASK_INDEX", "")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= len(PARAMETER_SETS):
        sys.exit(f"train.py: DSPOOL_TASK_INDEX is {text!r}; it picks one of {len(PARAMETER_SETS)} parameter sets: "
                 f"submit with --array 1-{len(PARAMETER_SETS)}")
    return int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", nargs="?", help="folder for the model and its accuracy; made if missing")
    parser.add_argument("--list", action="store_true", help="print the parameter sets and end")
    arguments = parser.parse_args()
    if arguments.list:
        for i, (family, parameters) in enumerate(PARAMETER_SETS, 1):
            print(f"{i:3}  {describe(family, parameters)}")
        return
    if not arguments.results:
        parser.error("name the results folder")

    index = task_index()
    family, parameters = PARAMETER_SETS[index - 1]
    label = describe(family, parameters)
    os.makedirs(arguments.results, exist_ok=True)
    say(f"task {index} of {len(PARAMETER_SETS)} on {socket.gethostname()}: {label}")

    started = time.monotonic()
    images, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(images, digits, test_size=0.25, stratify=digits, random_state=SEED)
    say(f"  {len(train_y)} digits to train on, {len(test_y)} kept aside")

    scores = []
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    for number, (learn, judge) in enumerate(folds.split(train_x, train_y), 1):
        model = fit(family, parameters, train_x[learn], train_y[learn])
        scores.append(accuracy_score(train_y[judge], model.predict(train_x[judge])))
        say(f"  fold {number}/{FOLDS}: accuracy {scores[-1]:.4f}")

    model = fit(family, parameters, train_x, train_y)
    predicted = model.predict(test_x)
    result = {
        "task": index,
        "family": family,
        "parameters": parameters,
        "label": label,
        "cv_accuracy": float(np.mean(scores)),
        "cv_std": float(np.std(scores)),
        "test_accuracy": float(accuracy_score(test_y, predicted)),
        "confusion": confusion_matrix(test_y, predicted).tolist(),
        "seconds": round(time.monotonic() - started, 3),
        "machine": socket.gethostname(),
        "model": f"task-{index:02}.joblib",
    }
    # The model first: a result names only a model that is there.
    write_whole(os.path.join(arguments.results, result["model"]), lambda f: joblib.dump(model, f))
    write_whole(os.path.join(arguments.results, f"task-{index:02}.json"), lambda f: f.write(json.dumps(result, indent=2).encode() + b"\n"))
    say(f"done in {result['seconds']:.1f} s: accuracy {result['cv_accuracy']:.4f} in cross-validation, {result['test_accuracy']:.4f} on new digits")


if __name__ == "__main__":
    main()
