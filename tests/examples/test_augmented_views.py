import re


def test_the_first_epochs_are_computed_and_the_others_are_hits(digits, run):
    said = run(
        "augmented_views.py", "--url", digits.url, "--recipe", "views", "--views", 2, "--epochs", 8
    ).stdout
    assert re.findall(r"hits (\d+)%", said) == ["0", "0", *["100"] * 6]
    measured, bound = re.search(
        r"hit rate (\S+); on a server that has never seen the rows (\S+)", said
    ).groups()
    assert measured == bound == "0.7500"
    losses = [float(loss) for loss in re.findall(r"loss (\S+),", said)]
    assert losses[-1] < losses[0] / 2
    assert float(re.search(r"accuracy (\S+) on 397 rows", said)[1]) > 0.8  # guessing has 0.1
