#!/bin/sh
# StratifiedGroupKFold(shuffle=True) of scikit-learn before 1.8 stratifies less well: of 30 patients in three equal
# classes, 19 of 100 fifths do not hold two of each, where 1.8 gives all of them two. Splits by patient of the same seed
# differ between versions, and with few patients a part can get one of a class. Exit status 0: still so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/folds.py" <<'PY'
import sys
from importlib.metadata import version

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

classes = np.repeat([0, 1, 2], 10)  # one slide per patient
patients = np.arange(30)
equal = []
for seed in range(20):
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    for _, test in folds.split(classes[:, None], classes, patients):
        equal.append(np.array_equal(np.bincount(classes[test], minlength=3), [2, 2, 2]))
print(f"scikit-learn {version('scikit-learn')}: {sum(equal)} of {len(equal)} fifths hold two patients of each class")
sys.exit(int(sum(equal) != int(sys.argv[1])))
PY
for case in "1.7.2 81" "1.8.0 100"; do
    set -- $case
    python3 -m venv "$folder/$1"
    "$folder/$1/bin/pip" install --quiet "scikit-learn==$1" "numpy==2.3.5"
    "$folder/$1/bin/python" "$folder/folds.py" "$2"
done
