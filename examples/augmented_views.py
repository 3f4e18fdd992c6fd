"""Random augmentation that a cache keeps up with: a few views of each row, which come round again.

    soft-targets demo    # once: trains the teachers of the ensemble "digits"
    SOFT_TARGETS__SERVER__PORT=8000 soft-targets serve build/demo/ensemble.yaml
    python examples/augmented_views.py --views 3 --epochs 12

Student and teachers see the same augmented row. Were it drawn anew every time, no row would come twice and
each would be computed by all teachers. With ``Views`` the first ``views`` epochs are computed, and all others
are hits: of E epochs a share of 1 - views / E.
"""

import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

from soft_targets import Client, Views, distillation_loss

SEED = 7


def augment(row: tuple[np.ndarray, int], generator: np.random.Generator) -> tuple[np.ndarray, int]:
    """A digit moved by up to a pixel either way, with some noise; random by this generator alone."""
    pixels, label = row
    down, right = generator.integers(-1, 2, size=2)
    moved = np.roll(pixels.reshape(8, 8), (down, right), axis=(0, 1)).reshape(64)
    noise = generator.normal(scale=0.02, size=64)
    return np.clip(moved + noise, 0, 1).astype(np.float32), label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--ensemble", default="digits")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--views", type=int, default=3)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(SEED)
    with Client(args.url, ensemble=args.ensemble, recipe=args.recipe) as client:
        classes = client.info()["classes"]
        pixels, names = load_digits(return_X_y=True)
        rows = (pixels / 16).astype(np.float32)
        labels = [classes.index(str(name)) for name in names]
        train = list(zip(rows[:1400], labels[:1400], strict=True))
        data = Views(train, augment, views=args.views, seed=SEED)
        order = torch.Generator()
        loader = DataLoader(data, batch_size=64, shuffle=True, generator=order)
        stream = client.distill(loader, inputs=lambda batch: {"pixels": batch[0]})
        student = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, len(classes))).to(device)
        optimiser = torch.optim.AdamW(student.parameters(), lr=3e-3)

        for epoch in range(args.epochs):
            data.set_epoch(epoch)  # before the epoch begins: it is read ahead
            order.manual_seed(SEED + epoch)
            before, losses = stream.stats, []
            for (batch, truth), targets in stream:
                loss = distillation_loss(student(batch.to(device)), targets, truth.to(device), alpha=0.9)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
            hits = stream.stats.rows_by_source.get("hit", 0) - before.rows_by_source.get("hit", 0)
            share = hits / (stream.stats.rows - before.rows)
            print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}, hits {share:.0%}")

        bound = max(0.0, 1 - args.views / args.epochs)
        print(f"hit rate {stream.stats.hit_rate:.4f}; on a server that has never seen the rows {bound:.4f}")
        student.eval()
        with torch.inference_mode():
            answers = student(torch.from_numpy(rows[1400:]).to(device)).argmax(dim=1).cpu()
        accuracy = (answers == torch.tensor(labels[1400:])).float().mean().item()
        print(f"accuracy {accuracy:.3f} on {len(answers)} rows held out")


if __name__ == "__main__":
    main()
