#!/usr/bin/env python3
"""Gather what the training tasks left: a table, a plot and the best model.

From RESULTS/task-*.json make results.csv, plot.png and best-model.joblib there. The
best model is the one with the highest accuracy in cross-validation; its accuracy on
digits it never saw is what it is worth.
"""

import argparse
import json
import pathlib
import shutil
import sys

import matplotlib

matplotlib.use("Agg")  # machines have no display

import matplotlib.pyplot as plt  # noqa: E402
import pandas as pd  # noqa: E402

# Colours that also people with a colour vision deficiency can tell apart.
COLOURS = {"SVC": "#0072b2", "MLP": "#e69f00", "Forest": "#009e73"}


def read_results(folder):
    """Return the results, best first; unreadable ones are named and left out."""
    rows = []
    for path in sorted(folder.glob("task-*.json")):
        try:
            row = json.loads(path.read_text())
            if not (folder / row["model"]).is_file():
                raise ValueError(f"its model {row['model']} is missing")
            rows.append({k: row[k] for k in ("task", "family", "label", "cv_accuracy", "cv_std", "test_accuracy", "seconds", "machine", "model", "confusion")})
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"gather.py: leaving out {path.name}: {error!r}", file=sys.stderr)
    if not rows:
        sys.exit(f"gather.py: no results in {folder}; run the training tasks first")
    return pd.DataFrame(rows).sort_values(["cv_accuracy", "test_accuracy", "task"], ascending=[False, False, True], ignore_index=True)


def draw(table, path):
    """Draw accuracy per parameter set, and where the best model errs."""
    best = table.iloc[0]
    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure, (bars, matrix) = plt.subplots(1, 2, figsize=(15, 0.42 * len(table) + 2.4), width_ratios=[1.7, 1], layout="constrained")
    figure.suptitle("Handwritten digits: which model reads them best?", fontsize=17, fontweight="bold")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.12)

    shown = table.iloc[::-1]
    low = max(0.0, min(shown.cv_accuracy.min() - shown.cv_std.max(), shown.test_accuracy.min()) - 0.02)
    low = int(low * 50) / 50
    y = range(len(shown))
    bars.barh(y, shown.cv_accuracy - low, left=low, height=0.7, color=[COLOURS.get(f, "#777777") for f in shown.family], alpha=0.85,
              xerr=shown.cv_std, error_kw={"ecolor": "#444444", "capsize": 3, "lw": 1})
    new = bars.scatter(shown.test_accuracy, y, marker="D", s=34, color="white", edgecolor="black", zorder=3)
    bars.set_yticks(y, [f"{'★ ' if i == 0 else ''}{label}" for i, label in zip(shown.index, shown.label)])
    # Values stand in a column of their own, where no bar or mark can cover them.
    for position, (accuracy, seconds) in enumerate(zip(shown.cv_accuracy, shown.seconds)):
        bars.text(1.012, position, f"{accuracy:.1%}   {seconds:.1f} s", va="center", ha="left", transform=bars.get_yaxis_transform(), family="monospace")
    bars.text(1.012, len(shown) - 0.35, "accuracy  time", va="bottom", ha="left", transform=bars.get_yaxis_transform(), family="monospace", color="#555555")
    bars.set_xlim(low, 1.0)
    bars.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(steps=[1, 2, 5, 10]))
    bars.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
    bars.set_xlabel("accuracy (axis does not begin at 0)" if low > 0 else "accuracy")
    bars.set_title("Accuracy by parameter set, 5-fold cross-validation", loc="left", pad=22)
    bars.grid(axis="x", color="#dddddd")
    bars.set_axisbelow(True)
    handles = [plt.Rectangle((0, 0), 1, 1, color=c, alpha=0.85) for f, c in COLOURS.items() if (table.family == f).any()]
    names = [f for f in COLOURS if (table.family == f).any()]
    bars.legend([*handles, new], [*names, "on new digits"], loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4, frameon=False)

    confusion = best.confusion
    matrix.imshow([[0 if i == j else n for j, n in enumerate(row)] for i, row in enumerate(confusion)], cmap="Reds", vmin=0, vmax=max(4, max(max(n for j, n in enumerate(row) if i != j) for i, row in enumerate(confusion))))
    for i, row in enumerate(confusion):
        for j, n in enumerate(row):
            if n:
                matrix.text(j, i, n, ha="center", va="center", color="#888888" if i == j else "black", fontweight="normal" if i == j else "bold")
    matrix.set_xticks(range(len(confusion)))
    matrix.set_yticks(range(len(confusion)))
    matrix.set_xlabel("read as")
    matrix.set_ylabel("digit")
    matrix.spines[:].set_visible(False)
    total = sum(map(sum, confusion))
    wrong = total - sum(row[i] for i, row in enumerate(confusion))
    matrix.set_title(f"★ Best: {wrong} of {total} new digits misread", pad=14)

    figure.savefig(path, dpi=110)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=pathlib.Path, help="folder that the training tasks wrote to")
    folder = parser.parse_args().results.absolute()

    table = read_results(folder)
    best = table.iloc[0]
    csv, plot, model = folder / "results.csv", folder / "plot.png", folder / "best-model.joblib"
    table.drop(columns=["confusion"]).to_csv(csv, index=False, float_format="%.4f")
    draw(table, plot)
    shutil.copyfile(folder / best.model, model)

    width = max(table.label.str.len())
    print(f"{'':2}{'parameter set':{width}}  accuracy  new digits  seconds  machine")
    for i, row in table.iterrows():
        print(f"{'*' if i == 0 else '':2}{row.label:{width}}  {row.cv_accuracy:8.4f}  {row.test_accuracy:10.4f}  {row.seconds:7.1f}  {row.machine}")
    print()
    print(f"best accuracy: {best.test_accuracy:.4f} on new digits, {best.cv_accuracy:.4f} in cross-validation ({best.label})")
    print(f"model: {model}")
    print(f"table: {csv}")
    print(f"plot:  {plot}")


if __name__ == "__main__":
    main()
