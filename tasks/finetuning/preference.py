"""Preference tuning: direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290) by `trl`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infra.errors import BadInput
from tasks.finetuning.conversations import Preference, read_preferences
from tasks.finetuning.examples import PLAIN_TEMPLATE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from tasks.finetuning.options import Options
    from tasks.stage import Context

log = logging.getLogger("ketcycle.finetuning")


def read_pairs(options: Options) -> tuple[list[Preference], Any]:
    """Return the preferences of the file, and the library that tunes a model on them.

    Raises:
        BadInput: the file is malformed or has a single row, or `trl` is not installed.
    """
    preferences = read_preferences(Path(options.preferences).expanduser())
    if len(preferences) < 2:
        raise BadInput(f"{options.preferences} has 1 row(s); at least 2 are needed, because one is held out")
    try:
        return preferences, import_module("trl")  # an extra; it names its classes when they are asked for
    except ImportError as error:
        raise BadInput(
            f"preference tuning needs trl ({error}); install ketcycle[preference], or clear finetuning.preferences"
        ) from error


def tune_preferences(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, options: Options, context: Context
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Train a LoRA adapter on preferences with the given model as reference, and merge it.

    Returns:
        the merged model, and `pairs`, `held_out` (pairs that were not trained on), `steps`, and of the pairs held out
        `loss` and `accuracy`: the share whose preferred answer became likelier against the reference than the other
        one. Before the tuning the loss is ln 2.

    Raises:
        BadInput: the file is malformed or has a single row, or `trl` is not installed.
    """
    preferences, trl = read_pairs(options)
    from datasets import Dataset
    from datasets.utils import disable_progress_bars
    from peft import LoraConfig
    from transformers import PrinterCallback

    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in preferences]
    order = np.random.default_rng([context.seed, 6]).permutation(len(rows))
    held = min(len(rows) - 1, max(1, round(options.held_out * len(rows))))
    test, train = ([rows[i] for i in part] for part in np.split(order, [held]))
    arguments = trl.DPOConfig(
        output_dir=str(context.scratch / "preference"),
        per_device_train_batch_size=min(options.batch, len(train)),
        per_device_eval_batch_size=1,  # trl averages over batches, which may differ in size
        max_steps=options.preference_steps,
        learning_rate=options.preference_lr,
        beta=options.preference_beta,
        max_length=int(context.lake.meta(context.require("preprocessing/shards"))["context"]),
        activation_checkpointing=False,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        seed=context.seed,
    )
    config = LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    disable_progress_bars()
    trainer = trl.DPOTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(train),
        eval_dataset=Dataset.from_list(test),
        processing_class=tokenizer,
        peft_config=config,
    )
    trainer.remove_callback(PrinterCallback)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of trl, about names that it takes from transformers
        trainer.train()
        found: Mapping[str, float] = trainer.evaluate()
    merged: PreTrainedModel = trainer.model.merge_and_unload()
    merged.train(False)
    figures = {
        "pairs": len(rows),
        "held_out": len(test),
        "steps": int(trainer.state.global_step),
        "loss": float(found["eval_loss"]),
        "accuracy": float(found["eval_rewards/accuracies"]),
    }
    return merged, figures
