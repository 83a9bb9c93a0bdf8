"""Teacher and warm start: built or loaded, tokenised, fine-tuned, prepared once and found again."""

from __future__ import annotations

from opdcliff.models.answering import sample_answers
from opdcliff.models.batches import batch_of_update, prompt_batch
from opdcliff.models.decoding import Decoding, without_compiled
from opdcliff.models.device import free_device, pick_device
from opdcliff.models.load import build, load_tokenizer, same_vocabulary
from opdcliff.models.loaded import Loaded, load_kept
from opdcliff.models.make_pair import STUDENT, TEACHER, starting_model, tuned_model
from opdcliff.models.prepare import (
    MEASURING_CODE,
    Prepared,
    data_asset,
    load_trio,
    models_asset,
    prepare,
    prepare_data,
    shown_prompt,
)
from opdcliff.models.prompts import print_filters
from opdcliff.models.sft import fine_tune
from opdcliff.models.tokens.codec import Codec
from opdcliff.models.tokens.train_bpe import pad_left
from opdcliff.models.trio import Trio, fresh_student
from opdcliff.models.tuning.adapters import base_of, put_adapter
from opdcliff.models.tuning.own_answers import fine_tune_own
from opdcliff.models.tuning.saving import save_model
from opdcliff.models.weights.outputs import CutRows, uncut
from opdcliff.models.weights.smollm2 import fetch_smollm2

__all__ = [
    "MEASURING_CODE",
    "STUDENT",
    "TEACHER",
    "Codec",
    "CutRows",
    "Decoding",
    "Loaded",
    "Prepared",
    "Trio",
    "base_of",
    "batch_of_update",
    "build",
    "data_asset",
    "fetch_smollm2",
    "fine_tune",
    "fine_tune_own",
    "free_device",
    "fresh_student",
    "load_kept",
    "load_tokenizer",
    "load_trio",
    "models_asset",
    "pad_left",
    "pick_device",
    "prepare",
    "prepare_data",
    "print_filters",
    "prompt_batch",
    "put_adapter",
    "same_vocabulary",
    "sample_answers",
    "save_model",
    "shown_prompt",
    "starting_model",
    "tuned_model",
    "uncut",
    "without_compiled",
]
