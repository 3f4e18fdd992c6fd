"""One student on several ranks, each with a stream of its own over its own shard.

    soft-targets demo    # once: trains the teachers of the ensemble "digits"
    SOFT_TARGETS__SERVER__PORT=8000 soft-targets serve build/demo/ensemble.yaml
    torchrun --standalone --nproc-per-node 2 examples/ddp_gloo.py

A client talks to its server and never to other ranks, so a rank may wait for targets, or run out of batches,
on its own. A row that several ranks ask for is computed once: the others get what was kept, or wait for it.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from soft_targets import Client, distillation_loss

SEED = 7
TRAINED = 1281  # an odd number: the shards of two ranks are 641 and 640 rows, or 21 and 20 batches


class UnevenSampler(DistributedSampler[int]):
    """Every row on one rank, and once: the plain sampler repeats rows to make shards even, or drops some."""

    def __len__(self) -> int:
        return len(range(self.rank, len(self.dataset), self.num_replicas))

    def __iter__(self) -> Iterator[int]:
        return islice(super().__iter__(), len(self))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--ensemble", default="digits")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(SEED)
    with Client(args.url, ensemble=args.ensemble, recipe=args.recipe) as client:
        classes = client.info()["classes"]
        pixels, names = load_digits(return_X_y=True)
        rows = torch.from_numpy((pixels / 16).astype(np.float32))
        labels = torch.tensor([classes.index(str(name)) for name in names])
        data = TensorDataset(rows[:TRAINED], labels[:TRAINED])
        sampler = UnevenSampler(data, seed=SEED)
        loader = DataLoader(data, batch_size=32, sampler=sampler)
        stream = client.distill(loader, inputs=lambda batch: {"pixels": batch[0]})
        net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, len(classes)))
        student = DistributedDataParallel(net)
        optimiser = torch.optim.AdamW(student.parameters(), lr=3e-3)

        # A rank that is done sooner answers the others' all-reduces. One join around all epochs: it makes
        # weights equal but not what the optimisers remember, so in an epoch after it ranks would drift apart.
        with student.join(divide_by_initial_world_size=False):
            for epoch in range(args.epochs):
                sampler.set_epoch(epoch)
                losses = []
                for (batch, truth), targets in stream:
                    loss = distillation_loss(student(batch), targets, truth, alpha=0.9)
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    losses.append(loss.item())
                print(f"rank {rank}, epoch {epoch + 1}: {len(losses)} steps, loss {np.mean(losses):.4f}")

        net.eval()
        dist.barrier()
        targets = client.soft_targets({"pixels": rows[TRAINED:]})  # the same rows, on all ranks at once
        with torch.inference_mode():
            answers = net(rows[TRAINED:])
        accuracy = (answers.argmax(dim=1) == labels[TRAINED:]).float().mean().item()
        off = distillation_loss(answers, targets).item()

        weights = nn.utils.parameters_to_vector(net.parameters()).detach()
        of_ranks = [torch.empty_like(weights) for _ in range(ranks)]
        dist.all_gather(of_ranks, weights)
        sources: list[Counter[str]] = [Counter() for _ in range(ranks)]
        dist.all_gather_object(sources, Counter(client.stats.rows_by_source))
    if not all(torch.equal(weights, other) for other in of_ranks):
        raise RuntimeError("the ranks have different students")
    if rank == 0:
        total = sum(sources, Counter())
        print(f"on all ranks {total.total()} rows were asked for: {dict(total)}")
        print(f"{total['miss']} had to be computed, of {len(rows)} different ones")
        print(f"accuracy {accuracy:.3f}, loss towards the teachers {off:.3f} on {len(targets)} rows held out")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
