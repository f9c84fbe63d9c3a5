"""Fine-tunes the sentence encoder on the labelled sentences of one split: a program that `sentences` starts.

python -m tasks.pilots.sentiment.tuning MODEL SEED FOLDER < rows.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from tasks.pilots.sentiment.sentences import BATCH, EPOCHS, RATE, TUNED_BATCH, sentences


def main(source: str, seed: int, folder: Path) -> None:
    """Read the rows from standard input and write the embeddings of the wanted ones to `vectors.npy`.

    Args:
        source: folder of the encoder.
        seed: of the order of the sentences and of dropout.
        folder: an empty folder.
    """
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import BatchAllTripletLoss

    torch.set_num_threads(1)
    rows = json.load(sys.stdin)
    texts, labels = sentences()
    model = SentenceTransformer(source, device="cpu", local_files_only=True)
    labelled = {"sentence": [texts[i] for i in rows["train"]], "label": labels[rows["train"]].tolist()}
    asked = SentenceTransformerTrainingArguments(
        str(folder / "runs"),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=TUNED_BATCH,
        learning_rate=RATE,
        warmup_steps=0.1,  # of all steps
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=seed,
        use_cpu=True,
    )
    SentenceTransformerTrainer(
        model=model, args=asked, train_dataset=Dataset.from_dict(labelled), loss=BatchAllTripletLoss(model)
    ).train()
    wanted = [texts[i] for i in rows["wanted"]]
    np.save(folder / "vectors.npy", model.encode(wanted, batch_size=BATCH, show_progress_bar=False))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
