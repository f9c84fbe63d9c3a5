"""Arms of the sentiment pilot: heads of the fine-tuning stage on frozen embeddings of sentences.

Every head chooses its settings by cross-validation on the same labelled sentences. `logistic`, `svm` and `mlp` see all
features, the circuit and the others the leading components, one for each qubit.
"""

from __future__ import annotations

from tasks.contract import Arm
from tasks.finetuning.head import arms as heads
from tasks.finetuning.head.problem import FewShot, Labels

_HEADS = {arm.name: arm for arm in (heads.INCUMBENT, *heads.OTHERS)}
_BESIDE = ("largest", "circuit-exact", "svm", "mlp", "logistic-8", "svm-8", "cosine", "nearest-mean")

INCUMBENT: Arm[FewShot, Labels] = _HEADS["logistic"]
CHALLENGER: Arm[FewShot, Labels] = heads.CHALLENGER
OTHERS: tuple[Arm[FewShot, Labels], ...] = tuple(_HEADS[name] for name in _BESIDE)
