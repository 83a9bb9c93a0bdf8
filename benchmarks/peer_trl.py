"""TRL's trainers for `peers.py`: their own loop, one step at a time.

TRL is imported where a trainer is made: it lives in an environment of its own.
"""

from __future__ import annotations

import copy
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

import torch
from made_models import make_tokenizer
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback

from opdcliff.models import Trio
from opdcliff.rollout import Rollout
from opdcliff.settings import RunConfig


class Turns(TrainerCallback):  # type: ignore[misc]
    """Lets a trainer's own loop run one step at a time, from another thread."""

    def __init__(self, trainer: Any, threads: int) -> None:
        self.trainer, self.threads = trainer, threads
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.stopping, self.error = False, None
        trainer.add_callback(self)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.go.acquire()
        try:
            if not self.stopping:
                # OpenMP counts threads for each thread that calls it.
                torch.set_num_threads(self.threads)
                self.trainer.train()
        except BaseException as error:
            self.error = error
        finally:
            self.done.release()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Between two steps: all that the loop does in a turn lies behind it or before it."""
        self.done.release()
        self.go.acquire()
        control.should_training_stop = self.stopping

    def step(self) -> None:
        """One turn of the trainer's loop."""
        self.go.release()
        self.done.acquire()
        if self.error is not None:
            raise RuntimeError("the trainer's loop ended") from self.error

    def close(self) -> None:
        """End the loop and its thread."""
        self.stopping = True
        self.go.release()
        self.thread.join()


class Trl:
    """A trainer of TRL on the same models, prompts and settings."""

    def __init__(self, which: str, config: RunConfig, trio: Trio, prompts: Sequence[str]) -> None:
        from datasets import Dataset
        from trl import DistillationConfig, DistillationTrainer
        from trl.experimental.iw_opd import IWOPDConfig, IWOPDTrainer

        self.rows, self.new_tokens = (
            config.rollout.prompts_per_update,
            config.rollout.max_new_tokens,
        )
        self.iw = which == "trl_iw_opd"
        vocabulary = trio.student.config.vocab_size
        tokenizer = copy.deepcopy(make_tokenizer(vocabulary))
        self.folder = tempfile.TemporaryDirectory()
        student, teacher = copy.deepcopy(trio.student), copy.deepcopy(trio.teacher)
        student.requires_grad_(True)
        # Where IWOPDTrainer looks for the teacher's tokenizer, to compare it with the student's.
        tokenizer.save_pretrained(self.folder.name)
        teacher.config._name_or_path = self.folder.name
        common: dict[str, Any] = {
            "output_dir": self.folder.name,
            "use_cpu": config.engine.device == "cpu",
            "bf16": False,
            "gradient_checkpointing": False,
            "per_device_train_batch_size": self.rows,
            "gradient_accumulation_steps": 1,
            "max_completion_length": self.new_tokens,
            "temperature": config.rollout.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "beta": 1.0,
            "learning_rate": config.optim.lr,
            "lr_scheduler_type": "constant",
            "adam_beta1": config.optim.beta1,
            "adam_beta2": config.optim.beta2,
            "weight_decay": config.optim.weight_decay,
            "max_grad_norm": config.optim.grad_clip,
            "max_steps": 10**6,
            "logging_strategy": "no",
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
        }
        if self.iw:
            made: Any = IWOPDConfig
            kind: Any = IWOPDTrainer
            length = len(tokenizer(prompts[0])["input_ids"])
            common |= {"iw_opd_gamma": 0.0, "max_length": length + self.new_tokens}
            filling = " ".join(["w2"] * self.new_tokens)
            messages = [
                [
                    {"role": "user", "content": text},
                    # Behind a blank, so that its first word is a word of its own.
                    {"role": "assistant", "content": f" {filling}"},
                ]
                for text in prompts
            ]
            data = Dataset.from_dict({"messages": messages})
        else:
            made, kind = DistillationConfig, DistillationTrainer
            data = Dataset.from_dict({"prompt": list(prompts)})
        self.trainer = kind(
            model=student,
            teacher_model=teacher,
            args=made(**common),
            train_dataset=data,
            processing_class=tokenizer,
        )
        # It would print a summary of the run.
        self.trainer.remove_callback(PrinterCallback)
        self.turns = Turns(self.trainer, config.engine.threads)

    def loss(self, rollout: Rollout) -> Tensor:
        """TRL's loss of given answers; before the first update."""
        count = rollout.mask_BT.sum()
        length = rollout.mask_BT.shape[1]
        prompt, answer = slice(0, -length), slice(-length, None)
        ids_BL, mask_BL = rollout.ids_BL, rollout.attention_BL
        if self.iw:
            labels_BL = ids_BL.clone()
            labels_BL[:, prompt] = -100
            labels_BL[:, answer][~rollout.mask_BT] = -100
            inputs = {
                "input_ids": ids_BL,
                "attention_mask": mask_BL,
                "labels": labels_BL,
                "prompts": ids_BL[:, prompt],
            }
        else:
            inputs = {
                "prompt_ids": ids_BL[:, prompt],
                "prompt_mask": mask_BL[:, prompt],
                "completion_ids": ids_BL[:, answer],
                "completion_mask": mask_BL[:, answer],
                "num_items_in_batch": count,
            }
        self.trainer.model.train()
        loss: Tensor = self.trainer.compute_loss(
            self.trainer.model, inputs, num_items_in_batch=count
        )
        return loss

    def update(self) -> None:
        self.turns.step()

    def tokens(self) -> float:
        last = self.trainer._buffered_inputs[0]
        of_answers = last["labels"] != -100 if self.iw else last["completion_mask"]
        return float(of_answers.sum()) / self.rows

    def close(self) -> None:
        """End its thread."""
        self.turns.close()
        self.folder.cleanup()
