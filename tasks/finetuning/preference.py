"""Preference tuning: direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290) by `trl`."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        BadInput: the file is malformed, or `trl` is not installed.
    """
    preferences = read_preferences(Path(options.preferences).expanduser())
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
        the merged model, and `pairs`, `steps`, `loss`, and `accuracy`: the share of training pairs whose preferred
        answer became likelier against the reference than the other one, in the last logged step.

    Raises:
        BadInput: the file is malformed, or `trl` is not installed.
    """
    preferences, trl = read_pairs(options)
    from datasets import Dataset
    from peft import LoraConfig

    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in preferences]
    arguments = trl.DPOConfig(
        output_dir=str(context.scratch / "preference"),
        per_device_train_batch_size=min(options.batch, len(rows)),
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
    trainer = trl.DPOTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=config,
    )
    trainer.train()
    logged: list[Mapping[str, float]] = [row for row in trainer.state.log_history if "rewards/accuracies" in row]
    merged: PreTrainedModel = trainer.model.merge_and_unload()
    merged.train(False)
    last = logged[-1] if logged else {}
    figures = {
        "pairs": len(rows),
        "steps": int(trainer.state.global_step),
        "loss": float(last.get("loss", math.nan)),
        "accuracy": float(last.get("rewards/accuracies", math.nan)),
    }
    return merged, figures
