"""A student under PyTorch Lightning: stopped within an epoch and started again, it ends the same.

    soft-targets demo    # once: trains the teachers of the ensemble "digits"
    SOFT_TARGETS__SERVER__PORT=8000 soft-targets serve build/demo/ensemble.yaml
    python examples/lightning_callback.py --output out    # again: goes on from out/last.ckpt

The stream is the Trainer's loader. Lightning keeps the state of a loader that has one; and as this one has
a length, it reads nothing ahead of the step, so that the state counts what was trained on.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from soft_targets import Client, Distillation, distillation_loss

SEED = 7


class Student(LightningModule):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, classes))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.net(rows)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """By hand: Lightning would rebuild the targets field by field, and they are frozen."""
        (rows, labels), targets = batch
        return (rows.to(device), labels.to(device)), targets

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        (rows, labels), targets = batch
        loss = distillation_loss(self(rows), targets, labels, alpha=0.9)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(rows))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


class Targets(Callback):
    """Ties the order to the epoch, lets random numbers go on, and logs how the stream does."""

    def __init__(self, stream: Distillation, sampler: DistributedSampler) -> None:
        self.stream, self.sampler = stream, sampler
        self.random: list[torch.Tensor] = []  # which Lightning does not keep

    def state_dict(self) -> dict[str, Any]:
        return {"random": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.random = state_dict["random"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.sampler.set_epoch(trainer.current_epoch)
        if self.random:
            torch.set_rng_state(self.random[0])
            torch.cuda.set_rng_state_all(self.random[1:])
        state = self.stream.state_dict()
        if state["batches"] == len(self.stream):  # Lightning saw the last batch, the stream not yet its end
            self.stream.load_state_dict({**state, "epoch": state["epoch"] + 1, "batches": 0, "rows": 0})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.sampler.set_epoch(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stats = self.stream.stats
        pl_module.log_dict({"stall": stats.stall, "hit_rate": stats.hit_rate})
        print(f"epoch {trainer.current_epoch + 1}: stall {stats.stall:.0%}, hits {stats.hit_rate:.0%}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--ensemble", default="digits")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=-1, help="stop after so many in all")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    seed_everything(SEED)
    with Client(args.url, ensemble=args.ensemble, recipe=args.recipe) as client:
        classes = client.info()["classes"]
        pixels, names = load_digits(return_X_y=True)
        rows = torch.from_numpy((pixels / 16).astype(np.float32))
        labels = torch.tensor([classes.index(str(name)) for name in names])
        data = TensorDataset(rows[:1400], labels[:1400])
        sampler = DistributedSampler(data, num_replicas=1, rank=0, seed=SEED)  # its order is the epoch's
        # Another thread reads the loader: with its own generator it draws none of the student's numbers.
        loader = DataLoader(data, batch_size=64, sampler=sampler, generator=torch.Generator())
        stream = client.distill(loader, inputs=lambda batch: {"pixels": batch[0]})
        student = Student(len(classes))
        trainer = Trainer(
            max_epochs=args.epochs,
            max_steps=args.steps,
            callbacks=[
                Targets(stream, sampler),
                ModelCheckpoint(args.output, save_last=True, every_n_train_steps=10),
            ],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        last = args.output / "last.ckpt"
        trainer.fit(student, train_dataloaders=stream, ckpt_path=last if last.exists() else None)
    student.eval()
    with torch.inference_mode():
        right = student(rows[1400:].to(student.device)).argmax(dim=1).cpu() == labels[1400:]
    print(f"accuracy {right.float().mean().item():.3f} on {len(right)} rows held out")


if __name__ == "__main__":
    main()
