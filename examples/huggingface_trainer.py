"""A student under Hugging Face's Trainer: a small ConvNeXT, made from a configuration.

    soft-targets demo    # once: trains the teachers of the ensemble "digits"
    SOFT_TARGETS__SERVER__PORT=8000 soft-targets serve build/demo/ensemble.yaml
    python examples/huggingface_trainer.py --output out    # again: goes on from the last checkpoint

Targets are put into the batches by ``get_batch_samples``. It is handed the epoch as the Trainer wants it,
after a resume without what was trained on before, and ``client.distill`` reads that ahead. A collator would
ask while the step waits; a loader of ``get_train_dataloader`` is rebuilt on resume, then without targets.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import get_last_checkpoint, set_seed

from soft_targets import Client, distillation_loss

SEED = 7


class DistillationTrainer(Trainer):
    def __init__(self, *args: Any, client: Client, **kwargs: Any) -> None:
        super().__init__(*args, callbacks=[Fingerprint(client)], **kwargs)
        self.client = client
        self._epoch: Iterator[Any] | None = None
        # compute_loss divides by num_items_in_batch, so the Trainer does not divide by the micro-batches.
        self.model_accepts_loss_kwargs = True

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The micro-batches of one update with their targets, and how many rows they are on all ranks."""
        if epoch_iterator is not self._epoch:
            stream = self.client.distill(
                epoch_iterator,
                inputs=lambda batch: {"pixels": batch["pixels"]},
                row_ids=lambda batch: batch["row_id"],  # errors name rows as the data set does
            )
            self._epoch = epoch_iterator
            self._batches = ({**batch, "targets": targets} for batch, targets in stream)
        # The Trainer's own count is of labels, and None without any.
        batches, _ = super().get_batch_samples(self._batches, num_batches, device)
        rows = torch.tensor(sum(len(batch["targets"]) for batch in batches), device=device)
        return batches, self.accelerator.gather(rows).sum()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - the Trainer's signature
        num_items_in_batch: Any = None,
    ) -> Any:
        outputs, labels = model(pixel_values=inputs["pixel_values"]), inputs["labels"]
        if model.training:
            total = distillation_loss(outputs.logits, inputs["targets"], labels, alpha=0.9, reduction="sum")
            # The same update however its rows are cut up. Gradients are averaged over ranks, not summed.
            loss = total * self.accelerator.num_processes / num_items_in_batch
        else:
            loss = cross_entropy(outputs.logits, labels)  # evaluation asks for no targets
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the stream too; what a callback adds in on_log reaches neither reporters nor the history."""
        stats = self.client.stats
        super().log({**logs, "stall": stats.stall, "hit_rate": stats.hit_rate}, start_time)


class Fingerprint(TrainerCallback, ExportableState):
    """Writes into each checkpoint which targets it was trained on."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"fingerprint": self.client.fingerprint}}

    @classmethod
    def of(cls, checkpoint: str) -> str:
        state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
        return state.stateful_callbacks[cls.__name__]["attributes"]["fingerprint"]


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    pixels = np.stack([row["pixels"] for row in rows])
    return {
        "pixel_values": torch.from_numpy(pixels).reshape(-1, 1, 8, 8),  # the student's: goes to its device
        "pixels": pixels,  # the teachers': an array, which stays where it is
        "labels": torch.tensor([row["label"] for row in rows]),
        "row_id": [row["row_id"] for row in rows],
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--ensemble", default="digits")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches an update")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    set_seed(SEED)
    last = get_last_checkpoint(args.output) if args.output.exists() else None
    # Training that is resumed refuses targets of another fingerprint.
    expected = None if last is None else Fingerprint.of(last)
    with Client(args.url, ensemble=args.ensemble, recipe=args.recipe, fingerprint=expected) as client:
        classes = client.info()["classes"]
        pixels, names = load_digits(return_X_y=True)
        data = [
            {"row_id": row, "pixels": (values / 16).astype(np.float32), "label": classes.index(str(name))}
            for row, (values, name) in enumerate(zip(pixels, names, strict=True))
        ]
        config = ConvNextConfig(
            num_channels=1,
            patch_size=2,
            num_stages=2,
            hidden_sizes=[32, 64],
            depths=[1, 1],
            num_labels=len(classes),
        )
        arguments = TrainingArguments(
            output_dir=str(args.output),
            per_device_train_batch_size=args.batch,
            gradient_accumulation_steps=args.accumulate,
            num_train_epochs=args.epochs,
            learning_rate=3e-3,
            seed=SEED,
            save_steps=50,
            logging_steps=10,
            remove_unused_columns=False,  # else what the student's forward does not name is dropped
            use_cpu=not torch.cuda.is_available(),  # which torchrun has to be told
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to="none",
        )
        trainer = DistillationTrainer(
            ConvNextForImageClassification(config),
            arguments,
            client=client,
            data_collator=collate,
            train_dataset=data[:1400],
            eval_dataset=data[1400:],
            compute_metrics=lambda said: {"accuracy": (said.predictions.argmax(1) == said.label_ids).mean()},
        )
        trainer.train(resume_from_checkpoint=last)
        print(f"accuracy {trainer.evaluate()['eval_accuracy']:.3f} on {len(data[1400:])} rows held out")


if __name__ == "__main__":
    main()
