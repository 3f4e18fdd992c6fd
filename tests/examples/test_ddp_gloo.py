import re


def test_two_ranks_with_uneven_shards_end_with_one_student(digits, run):
    """The program itself compares the ranks' weights, and fails where they differ."""
    said = run(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2,
        "ddp_gloo.py", "--url", digits.url, "--recipe", "ddp", "--epochs", 4,
    ).stdout  # fmt: skip
    steps = re.findall(r"rank (\d), epoch (\d): (\d+) steps, loss (\S+)", said)
    assert {(rank, count) for rank, _, count, _ in steps} == {("0", "21"), ("1", "20")}
    assert len(steps) == 2 * 4
    for rank in "01":
        losses = [float(loss) for of, _, _, loss in steps if of == rank]
        assert losses[-1] < losses[0] / 2
    # 4 epochs of 1281 rows, and 516 rows by both ranks; 1797 different ones, each of which was computed once.
    assert "on all ranks 6156 rows were asked for" in said
    assert "1797 had to be computed, of 1797 different ones" in said
    assert float(re.search(r"accuracy (\S+),", said)[1]) > 0.75  # guessing has 0.1
