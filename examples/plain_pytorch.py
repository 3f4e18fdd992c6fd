"""A student in plain PyTorch: stopped at any time and started again, it ends with the same weights.

    soft-targets demo    # once: trains the teachers of the ensemble "digits"
    SOFT_TARGETS__SERVER__PORT=8000 soft-targets serve build/demo/ensemble.yaml
    python examples/plain_pytorch.py --checkpoint student.pt

It shows a loop over ``client.distill``, an order of the rows that depends on the epoch alone, and a
checkpoint of all that the next step depends on: weights, optimiser, random numbers, and where the stream is.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from soft_targets import Client, distillation_loss

SEED = 7


def digits(classes: list[str]) -> list[TensorDataset]:
    """Rows to train on, and rows held out; a label is a place in the ensemble's list of classes."""
    pixels, names = load_digits(return_X_y=True)
    rows = torch.from_numpy((pixels / 16).astype(np.float32))
    labels = torch.tensor([classes.index(str(name)) for name in names])
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED))
    return [TensorDataset(rows[part], labels[part]) for part in (order[:1400], order[1400:])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--ensemble", default="digits")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--steps", type=int, help="stop after so many, as a job does whose time is up")
    parser.add_argument("--checkpoint", type=Path, required=True)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(SEED)

    with Client(args.url, ensemble=args.ensemble, recipe=args.recipe) as client:
        classes = client.info()["classes"]
        train, held_out = digits(classes)
        student = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, len(classes)))
        student.to(device)
        optimiser = torch.optim.AdamW(student.parameters(), lr=3e-3)
        order = torch.Generator()
        loader = DataLoader(train, batch_size=64, shuffle=True, generator=order)
        stream = client.distill(loader, inputs=lambda batch: {"pixels": batch[0]})

        def save() -> None:
            new = args.checkpoint.with_suffix(".new")  # a run that is killed leaves the old one whole
            parts = {"student": student, "optimiser": optimiser, "stream": stream}
            states = {name: part.state_dict() for name, part in parts.items()}
            random = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
            torch.save(states | {"random": random}, new)
            new.replace(args.checkpoint)

        if args.checkpoint.exists():
            saved = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
            student.load_state_dict(saved["student"])
            optimiser.load_state_dict(saved["optimiser"])
            stream.load_state_dict(saved["stream"])  # refuses targets of another fingerprint
            torch.set_rng_state(saved["random"][0])
            torch.cuda.set_rng_state_all(saved["random"][1:])

        steps = 0
        while stream.epoch < args.epochs:
            order.manual_seed(SEED + stream.epoch)  # whenever this epoch is gone through, it is the same
            student.train()
            losses = []
            for (rows, labels), targets in stream:
                loss = distillation_loss(student(rows.to(device)), targets, labels.to(device), alpha=0.9)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.detach())
                steps += 1
                if steps % 20 == 0 or steps == args.steps:
                    save()
                if steps == args.steps:
                    print(f"stopped in epoch {stream.epoch + 1}; the same command goes on from here")
                    return
            save()
            loss = torch.stack(losses).mean().item() if losses else float("nan")
            stall, hits = stream.stats.stall, stream.stats.hit_rate
            print(f"epoch {stream.epoch}: loss {loss:.4f}, stall {stall:.0%}, hits {hits:.0%}")

        student.eval()
        rows, labels = held_out.tensors
        with torch.inference_mode():
            right = student(rows.to(device)).argmax(dim=1).cpu() == labels
        print(f"accuracy {right.float().mean().item():.3f} on {len(labels)} rows held out")


if __name__ == "__main__":
    main()
