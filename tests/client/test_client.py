import socket
import threading
from dataclasses import replace

import httpx2
import numpy as np
import pytest
import torch

from soft_targets import (
    Client,
    FailedRows,
    IncompleteStream,
    InputError,
    OtherFingerprint,
    RequestRefused,
    ServerUnreachable,
    SoftTargetsError,
    WireError,
)
from soft_targets.wire import ARROW, classes_digest

# ------------------------------------------------------------------------------------------- honest answers


def test_targets_come_in_the_order_of_the_inputs(server, client, answers):
    inputs = answers.inputs(7)
    targets = client.soft_targets(inputs)
    np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))
    np.testing.assert_allclose(targets.probabilities.sum(axis=1), 1, atol=1e-6)
    assert targets.row_ids == list(range(7))
    assert targets.source == ["miss"] * 7
    assert (targets.temperature, targets.fingerprint) == (2.0, "f" * 64)
    assert targets.classes == answers.classes
    assert len(targets) == 7
    assert not targets.is_sparse
    assert targets.log_probs.dtype == np.float32
    assert targets.log_probs.flags.writeable
    [asked] = server.asked
    np.testing.assert_array_equal(asked.inputs["pixels"], inputs["pixels"])
    assert list(asked.inputs["caption"]) == inputs["caption"]
    assert asked.headers["Content-Type"] == asked.headers["Accept"] == ARROW
    assert asked.query == {"recipe": "default"}


def test_answers_are_joined_by_row_id_not_by_position(server, client, answers):
    server.answer = lambda asked: answers.reply_of(
        asked, answers.rows_of(asked).take(list(reversed(range(len(asked.row_ids))))), size=3
    )
    inputs = answers.inputs(8)
    targets = client.soft_targets(inputs)
    np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))
    assert targets.source == ["hit", "miss"] * 4


@pytest.mark.parametrize(
    "row_ids",
    [["b", "a", "ü"], [7, 3, 2**64 - 1], np.array([5, 4, 3]), np.array(["x", "y", "z"]), torch.arange(3)],
)
def test_own_row_ids(server, client, answers, row_ids):
    server.answer = lambda asked: answers.reply_of(asked, answers.rows_of(asked).take([2, 0, 1]))
    inputs = answers.inputs(3)
    targets = client.soft_targets(inputs, row_ids=row_ids)
    assert targets.row_ids == list(row_ids)
    np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))


def test_no_two_requests_have_an_id_in_common(server, client, answers):
    with Client(server.url, ensemble="pets") as another:
        for asking in (client, client, another):
            asking.soft_targets(answers.inputs(300), row_ids=np.arange(300))
    ids = [row for asked in server.asked for row in asked.row_ids]
    assert len(set(ids)) == 900


def test_sparse_targets(server, answers):
    inputs = answers.inputs(5)
    with Client(server.url, ensemble="pets", top_k=2) as client:
        targets = client.soft_targets(inputs)
    dense = answers.target_of(inputs["pixels"])
    assert targets.is_sparse
    assert targets.indices.dtype == np.int32
    np.testing.assert_array_equal(targets.indices, np.argsort(-dense, axis=1)[:, :2])
    np.testing.assert_array_equal(targets.log_probs, np.take_along_axis(dense, targets.indices, axis=1))
    np.testing.assert_allclose(np.exp(targets.tail_log_mass), np.exp(dense).min(axis=1), rtol=1e-6)
    with pytest.raises(InputError, match="no full distribution"):
        _ = targets.probabilities


def test_what_overrides_the_recipe_is_sent(server, answers):
    with Client(
        server.url + "/",
        ensemble="pets",
        recipe="soft",
        temperature=np.float32(1.5),
        weights={"cnn": 0.5, "svm": np.float64(0.25)},
        top_k=np.int64(1),
    ) as client:
        client.soft_targets(answers.inputs(1))
    assert server.asked[0].query == {
        "recipe": "soft",
        "temperature": "1.5",
        "weights": "cnn:0.5,svm:0.25",
        "top_k": "1",
    }


@pytest.mark.parametrize(
    "convert",
    [
        np.asfortranarray,
        lambda x: x.astype(np.float64),
        lambda x: x.astype(">f4"),
        lambda x: x.tolist(),
        torch.from_numpy,
        lambda x: torch.from_numpy(x).requires_grad_(),
        lambda x: torch.from_numpy(x).double(),
        lambda x: np.repeat(x, 2, axis=0)[::2],
    ],
    ids=["fortran", "float64", "big-endian", "list", "torch", "torch-grad", "torch-float64", "strided"],
)
def test_inputs_may_be_arrays_tensors_or_lists(client, answers, convert):
    inputs = answers.inputs(4)
    targets = client.soft_targets(inputs | {"pixels": convert(inputs["pixels"])})
    np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))


def test_bfloat16_tensors_are_sent_as_the_numbers_they_are(client, answers):
    pixels = torch.from_numpy(answers.inputs(4)["pixels"]).bfloat16()
    targets = client.soft_targets(answers.inputs(4) | {"pixels": pixels})
    np.testing.assert_array_equal(targets.log_probs, answers.target_of(pixels.float().numpy()))


# ------------------------------------------------------------------------------------------------- requests


def test_rows_are_split_at_256(server, client, answers):
    inputs = answers.inputs(600)
    targets = client.soft_targets(inputs)
    assert sorted(len(asked.row_ids) for asked in server.asked) == [88, 256, 256]
    np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))


def test_the_servers_lower_row_limit_is_kept(server, client, answers):
    server.described["limits"]["max_rows_per_request"] = 10
    client.soft_targets(answers.inputs(25))
    assert sorted(len(asked.row_ids) for asked in server.asked) == [5, 10, 10]


def test_the_servers_lower_byte_limit_is_kept(server, client, answers):
    limit = server.described["limits"]["max_body_bytes"] = 20_000
    inputs = answers.inputs(30) | {"caption": ["ü" * (100 * i) for i in range(30)]}
    targets = client.soft_targets(inputs)
    np.testing.assert_array_equal(targets.log_probs, answers.target_of(inputs["pixels"]))
    assert len(server.asked) > 5
    assert all(int(asked.headers["Content-Length"]) <= limit for asked in server.asked)


def test_a_row_too_large_for_any_request_is_refused_before_sending(server, client, answers):
    server.described["limits"]["max_body_bytes"] = 20_000
    with pytest.raises(InputError, match=r"row 1 takes \d+ bytes.*20000"):
        client.soft_targets(answers.inputs(2) | {"caption": ["", "x" * 30_000]})
    assert server.asked == []


def test_connections_are_kept_and_the_description_is_fetched_once(server, client, answers):
    for _ in range(5):
        client.soft_targets(answers.inputs(3))
    assert client.info()["classes"] == list(answers.classes)
    assert (server.connections, server.described_times) == (1, 1)


def test_nothing_is_sent_before_the_first_question(server):
    with Client(server.url, ensemble="pets"):
        pass
    assert (server.connections, server.described_times) == (0, 0)


def test_stats_count_what_was_done(server, client, answers):
    assert client.stats.rows == 0
    before = client.stats
    inputs = answers.inputs(300)
    client.soft_targets({name: values[:150] for name, values in inputs.items()})
    client.soft_targets(inputs)
    stats = client.stats
    assert (stats.rows, stats.requests) == (450, 3)
    assert stats.rows_by_source == {"hit": 150, "miss": 300}
    assert stats.hit_rate == pytest.approx(1 / 3)
    assert stats.sent_bytes == sum(int(asked.headers["Content-Length"]) for asked in server.asked)
    assert stats.received_bytes > 450 * 12
    assert before.rows == 0


def test_a_client_may_be_shared_by_threads(server, answers):
    failures = []

    def work(seed):
        inputs = answers.inputs(20, seed)
        for _ in range(5):
            targets = client.soft_targets(inputs)
            if not np.array_equal(targets.log_probs, answers.target_of(inputs["pixels"])):
                failures.append(seed)

    with Client(server.url, ensemble="pets", connections=2) as client:
        threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(answers.patience_s)
            assert not thread.is_alive()
        assert client.stats.rows == 6 * 5 * 20
    assert failures == []
    assert server.connections <= 2
    assert server.described_times == 1


def test_a_transport_of_ones_own():
    def answer(request):
        assert request.url.raw_path == b"/base/v1/ensembles/a%20b"
        return httpx2.Response(404, json={"error": "no such ensemble", "code": "unknown_ensemble"})

    with (
        Client("http://x/base", ensemble="a b", transport=httpx2.MockTransport(answer)) as client,
        pytest.raises(RequestRefused, match="no such ensemble"),
    ):
        client.info()


# ------------------------------------------------------------------------------------------- refused by us


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": np.zeros((2, 4), np.float32)}, r"rows have shape \[4\], it takes <f4 of shape \[3\]"),
        ({"pixels": np.zeros((2, 3), bool)}, "bool cannot become <f4"),
        ({"pixels": np.full((2, 3), 1e300)}, "cannot be kept as <f4"),
        ({"pixels": np.zeros((3, 3), np.float32)}, "same number of rows"),
        ({"pixels": np.float32(1)}, "single value"),
        ({"pixels": [[1, 2, 3], [1, 2]]}, "differ in shape"),
        ({"caption": ["a", 1]}, "not text"),
        ({"caption": "text"}, "single value"),
        ({"pixel": 1}, "unknown: pixel; this ensemble takes pixels, caption"),
    ],
)
def test_inputs_that_do_not_fit_are_not_sent(server, client, answers, change, message):
    with pytest.raises(InputError, match=message.replace("; this", r"\); this")):
        client.soft_targets(answers.inputs(2) | change)
    assert server.asked == []


@pytest.mark.parametrize("name", ["row_id", "digest"])
def test_an_input_that_cannot_be_told_from_a_column_of_the_format_is_not_sent(server, client, name):
    server.described["inputs"] = {name: {"dtype": "<f4", "shape": [3], "allow_nan": False}}
    with pytest.raises(InputError, match=f"input '{name}' cannot be sent"):
        client.soft_targets({name: np.zeros((2, 3), np.float32)})
    assert server.asked == []


def test_missing_inputs_no_rows_and_no_mapping(client):
    with pytest.raises(InputError, match="missing: caption"):
        client.soft_targets({"pixels": np.zeros((2, 3), np.float32)})
    with pytest.raises(InputError, match="at least one"):
        client.soft_targets({"pixels": np.zeros((0, 3), np.float32), "caption": []})
    with pytest.raises(InputError, match="must map names to rows"):
        client.soft_targets(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize(
    ("row_ids", "message"),
    [
        ([1, 1], "unique"),
        ([1], "1 row ids for 2"),
        ([1, "a"], "all"),
        ([-1, 1], "non-neg"),
        ([1.5, 2.5], "all"),
    ],
)
def test_row_ids_that_do_not_fit(client, answers, row_ids, message):
    with pytest.raises(InputError, match=message):
        client.soft_targets(answers.inputs(2), row_ids=row_ids)


@pytest.mark.parametrize(
    ("url", "arguments", "message"),
    [
        ("teachers:8000", {}, "http://"),
        ("http://teachers:port", {}, "no address"),
        ("http://", {}, "http://host"),
        ("http://teachers", {"connections": 0}, "connections"),
        *(("http://teachers", {"top_k": k}, "top_k must be a whole number") for k in (2.7, 2.0, "2", True)),
        *(("http://teachers", {"top_k": k}, "top_k must be at least 1") for k in (0, -1)),
        *(
            ("http://teachers", {"temperature": t}, "temperature must be")
            for t in (np.nan, np.inf, -np.inf, -2.0, 0.0, "hot", np.float32("nan"), [2.0])
        ),
        *(
            ("http://teachers", {"weights": {"cnn": w, "svm": 1}}, "weight of 'cnn' must be")
            for w in (np.nan, np.inf, -0.5, "much", None)
        ),
        *(("http://teachers", {"weights": w}, "one weight must be above 0") for w in ({}, {"cnn": 0})),
    ],
)
def test_arguments_that_make_no_sense(url, arguments, message):
    with pytest.raises(InputError, match=message):
        Client(url, ensemble="pets", **arguments)


def test_a_closed_client_says_so(client, answers):
    client.close()
    with pytest.raises(SoftTargetsError, match="closed"):
        client.soft_targets(answers.inputs(1))
    client.close()


# ------------------------------------------------------------------------------------------ answers that lie


def test_a_stream_cut_at_any_batch_boundary_names_what_is_missing(server, client, answers):
    whole = {}

    def answer(asked):
        whole["reply"] = answers.reply_of(asked, size=2)
        return replace(whole["reply"], pieces=whole["reply"].pieces[: whole["keep"]], cut=whole["cut"])

    server.answer = answer
    for cut in (True, False):
        for keep in (1, 2, 3):
            whole |= {"keep": keep, "cut": cut}
            with pytest.raises(IncompleteStream, match="did not arrive") as caught:
                client.soft_targets(answers.inputs(6))
            assert caught.value.row_ids == tuple(range(2 * keep, 6))
    whole |= {"keep": 0, "cut": True}
    with pytest.raises(IncompleteStream, match="did not arrive") as caught:
        client.soft_targets(answers.inputs(6))
    assert caught.value.row_ids == tuple(range(6))
    whole |= {"keep": 4, "cut": False}
    assert len(client.soft_targets(answers.inputs(6))) == 6


def test_a_stream_cut_inside_a_batch(server, client, answers):
    def answer(asked):
        reply = answers.reply_of(asked, size=2)
        return replace(reply, pieces=[b"".join(reply.pieces)[:-2000]], cut=True)

    server.answer = answer
    with pytest.raises(IncompleteStream, match="cut") as caught:
        client.soft_targets(answers.inputs(6))
    assert caught.value.row_ids


def test_a_connection_lost_after_the_closing_batch_loses_nothing(server, client, answers):
    server.answer = lambda asked: replace(answers.reply_of(asked), cut=True)
    assert len(client.soft_targets(answers.inputs(6))) == 6


def test_an_empty_answer(server, client, answers):
    server.answer = lambda _: answers.reply([])
    with pytest.raises(WireError, match="not an Arrow"):
        client.soft_targets(answers.inputs(2))


@pytest.mark.parametrize(
    ("bend", "rows", "message"),
    [
        (lambda rows: rows.take([0, 1, 2]), (3,), "missing from a complete answer"),
        (lambda rows: rows.take([0, 1, 2, 3, 1]), (1,), "row 1 came twice"),
        (lambda rows: rows.take([0, 1, 1, 3]), (1,), "row 1 came twice"),
        (lambda rows: replace(rows, row_ids=[*rows.row_ids[:3], 99]), (99,), "row 99 was not asked for"),
        (lambda rows: replace(rows, row_ids=[0, 1, 2, 3]), (0, 1), "row 0 was not asked for"),
        (lambda rows: replace(rows, row_ids=["0", "1", "2", "3"]), ("0", "1"), "row '0' was not asked for"),
        (lambda rows: rows.take([]), (0, 1, 2, 3), "missing"),
    ],
    ids=["dropped", "doubled", "doubled-for-another", "foreign", "by-place", "text-for-number", "none"],
)
def test_rows_that_are_not_the_rows_asked_for(server, client, answers, bend, rows, message):  # noqa: PLR0917 - three fixtures and a case
    server.answer = lambda asked: answers.reply_of(asked, bend(answers.rows_of(asked)))
    with pytest.raises(IncompleteStream, match=message) as caught:
        client.soft_targets(answers.inputs(4))
    assert caught.value.row_ids == rows


def test_a_row_of_another_request_of_the_same_call_is_foreign(server, client, answers):
    server.described["limits"]["max_rows_per_request"] = 2
    server.answer = lambda asked: answers.reply_of(
        asked, replace(answers.rows_of(asked), row_ids=[row - 2 for row in asked.row_ids])
    )
    with pytest.raises(IncompleteStream, match="was not asked for"):
        client.soft_targets(answers.inputs(4))


@pytest.mark.parametrize("said", [b"3", b"5"])
def test_a_closing_batch_that_disagrees(server, client, answers, said):
    def answer(asked):
        reply = answers.reply_of(asked)
        assert reply.pieces[-1].count(b"\x00\x004\x00") >= 1
        return replace(
            reply, pieces=[*reply.pieces[:-1], reply.pieces[-1].replace(b"\x004\x00", b"\x00%b\x00" % said)]
        )

    server.answer = answer
    with pytest.raises(IncompleteStream, match="closing batch says"):
        client.soft_targets(answers.inputs(4))


def test_another_fingerprint_in_the_second_answer(server, client, answers):
    server.described["limits"]["max_rows_per_request"] = 2
    server.answer = lambda asked: answers.reply_of(asked, fingerprint=f"print{asked.number}")
    with pytest.raises(OtherFingerprint, match=r"print\d, earlier ones print\d"):
        client.soft_targets(answers.inputs(4))


def test_the_first_fingerprint_is_kept_for_the_client_s_life(server, client, answers):
    assert client.fingerprint is None
    targets = client.soft_targets(answers.inputs(2))
    assert client.fingerprint == targets.fingerprint == "f" * 64
    server.answer = lambda asked: answers.reply_of(asked, fingerprint="e" * 64)
    for _ in range(2):
        with pytest.raises(OtherFingerprint, match=r"the ensemble was changed meanwhile; make a new client"):
            client.soft_targets(answers.inputs(2))
    assert client.stats.rows == 2
    with Client(server.url, ensemble="pets") as renewed:
        assert renewed.soft_targets(answers.inputs(2)).fingerprint == renewed.fingerprint == "e" * 64
    server.answer = server.honest
    assert client.soft_targets(answers.inputs(2)).fingerprint == "f" * 64


def test_a_fingerprint_is_kept_where_every_row_failed(server, client, answers):
    def answer(asked):
        rows = replace(
            answers.rows_of(asked), values=[None], sources=["error"], errors=[("internal", "again later")]
        )
        return answers.reply_of(asked, rows)

    server.answer = answer
    with pytest.raises(FailedRows):
        client.soft_targets(answers.inputs(1))
    assert client.fingerprint == "f" * 64


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.0])
def test_a_value_that_is_no_log_probability_is_not_trained_on(server, client, answers, value):
    def answer(asked):
        rows = answers.rows_of(asked)
        rows.values[1] = np.array([-1, value, -1], "<f4").tobytes()
        return answers.reply_of(asked, rows)

    server.answer = answer
    with pytest.raises(WireError, match=r"row \d+ .* no log-probability"):
        client.soft_targets(answers.inputs(4))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "2"}, "format '2'"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": "0"}, "temperature"),
    ],
)
def test_metadata_that_makes_no_sense(server, client, answers, metadata, message):
    server.answer = lambda asked: answers.reply_of(asked, **metadata)
    with pytest.raises(WireError, match=message):
        client.soft_targets(answers.inputs(1))


def test_values_for_another_number_of_classes(server, client, answers):
    server.described["classes"] = ["cat", "dog"]
    lies = classes_digest(["cat", "dog"])
    server.answer = lambda asked: answers.reply_of(asked, classes_digest=lies)
    with pytest.raises(WireError, match="3 log-probabilities a row for 2 classes"):
        client.soft_targets(answers.inputs(1))


def test_an_index_that_is_no_class(server, answers):
    def answer(asked):
        layout, values = answers.layout_of(asked), np.zeros((1, 2), np.float32)
        rows = replace(answers.rows_of(asked), values=layout.pack(values, np.array([[0, 3]]), values[:, 0]))
        return answers.reply_of(asked, rows)

    server.answer = answer
    with Client(server.url, ensemble="pets", top_k=2) as client, pytest.raises(WireError, match="0 to 2"):
        client.soft_targets(answers.inputs(1))


def test_a_row_sent_whole_cannot_be_absent(server, client, answers):
    server.answer = lambda asked: answers.reply_of(
        asked, replace(answers.rows_of(asked), sources=["absent"], values=[None])
    )
    with pytest.raises(WireError, match="absent"):
        client.soft_targets(answers.inputs(1))


def test_error_rows_are_all_named_and_the_other_requests_still_asked(server, client, answers):
    server.described["limits"]["max_rows_per_request"] = 2

    def answer(asked):
        rows = answers.rows_of(asked)
        rows.values[1], rows.sources[1], rows.errors[1] = (
            None,
            "error",
            ("teacher_failed", "svm: out of memory"),
        )
        return answers.reply_of(asked, rows)

    server.answer = answer
    with pytest.raises(FailedRows, match="row b: teacher_failed: svm: out of memory") as caught:
        client.soft_targets(answers.inputs(4), row_ids=["a", "b", "c", "d"])
    assert caught.value.errors == dict.fromkeys(["b", "d"], ("teacher_failed", "svm: out of memory"))
    assert len(server.asked) == 2


def test_a_request_whose_rows_all_fail(server, client, answers):
    def answer(asked):
        n = len(asked.row_ids)
        rows = replace(
            answers.rows_of(asked), values=[None] * n, sources=["error"] * n, errors=[("internal", "")] * n
        )
        return answers.reply_of(asked, rows)

    server.answer = answer
    with pytest.raises(FailedRows, match="and 2 more") as caught:
        client.soft_targets(answers.inputs(5))
    assert list(caught.value.errors) == list(range(5))


# ------------------------------------------------------------------------------------------ refused by them


@pytest.mark.parametrize(
    ("status", "code"), [(400, "bad_weights"), (404, "unknown_recipe"), (500, "internal")]
)
def test_the_servers_own_words_are_kept(server, client, answers, status, code):
    server.answer = lambda _: answers.json_reply(
        status, {"error": "no teacher 'x'; there are a, b", "code": code}
    )
    with pytest.raises(RequestRefused, match="no teacher 'x'; there are a, b") as caught:
        client.soft_targets(answers.inputs(1))
    assert (caught.value.status, caught.value.code) == (status, code)


@pytest.mark.parametrize(
    "body", [b"<html><body>Bad Gateway</body></html>", b"", b"[]", b'"x"', b"\xff\xfe", b"null"]
)
def test_an_error_that_is_not_the_servers(server, client, answers, body):
    server.answer = lambda _: answers.reply([body], status=502, content_type="text/html")
    with pytest.raises(RequestRefused, match=r"text/html.*proxy") as caught:
        client.soft_targets(answers.inputs(1))
    assert (caught.value.status, caught.value.code) == (502, "unknown")


def test_a_redirect_says_where_to(server, client, answers):
    server.answer = lambda _: answers.reply(
        [], status=308, headers={"Location": "https://elsewhere/v1/ensembles/pets"}
    )
    with pytest.raises(RequestRefused, match="redirects to https://elsewhere"):
        client.soft_targets(answers.inputs(1))


def test_a_page_instead_of_an_answer(server, client, answers):
    server.answer = lambda _: answers.reply(
        [b"<html>Welcome</html>"], content_type="text/html; charset=utf-8"
    )
    with pytest.raises(WireError, match="text/html"):
        client.soft_targets(answers.inputs(1))


@pytest.mark.parametrize(
    "body", ["<html>", [], {"inputs": {}}, {"inputs": {"x": {"dtype": "<f4"}}, "classes": []}]
)
def test_a_description_that_is_none(server, client, answers, body):
    server.description = lambda: answers.json_reply(200, body)
    with pytest.raises(WireError, match="description"):
        client.info()


def test_a_description_with_a_dtype_of_the_future(server, client):
    server.described["inputs"]["pixels"]["dtype"] = "<f1"
    with pytest.raises(WireError, match="update the client"):
        client.info()


def test_an_unknown_ensemble_may_be_asked_for_again(server, client, answers):
    honest = server.description
    server.description = lambda: answers.json_reply(503, {"error": "loading", "code": "not_ready"})
    with pytest.raises(RequestRefused, match="loading"):
        client.info()
    server.description = honest
    assert client.info()["name"] == "pets"


def test_nobody_listens(answers):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(url, ensemble="pets", retry_s=0) as client, pytest.raises(ServerUnreachable) as caught:
            client.soft_targets(answers.inputs(1))
    assert url in str(caught.value)
    assert "check that the server runs" in str(caught.value)


def test_no_answer_in_time(server, answers):
    let_go = threading.Event()

    def answer(asked):
        let_go.wait(answers.patience_s)
        return answers.reply_of(asked)

    server.answer = answer
    with Client(server.url, ensemble="pets", timeout_s=0.05, retry_s=0) as client:
        with pytest.raises(ServerUnreachable, match="timeout_s"):
            client.soft_targets(answers.inputs(1))
        let_go.set()


def test_a_connection_closed_without_a_word(server, client, answers):
    def answer(asked):  # noqa: ARG001 - called with it
        raise ConnectionAbortedError

    server.answer = answer
    server.handle_error = lambda *_: None
    with pytest.raises(ServerUnreachable, match="cannot be reached"):
        client.soft_targets(answers.inputs(1))


def test_an_answer_over_other_classes(server, client, answers):
    server.answer = lambda asked: answers.reply_of(asked, classes_digest=classes_digest(["b", "a"]))
    with pytest.raises(WireError, match="over other classes"):
        client.soft_targets(answers.inputs(2))


# ------------------------------------------------------------------------------------------------------- keys


def test_a_key_is_sent_with_every_request_and_shown_nowhere(server, answers):
    with Client(server.url, ensemble="pets", key="st_secret-1") as client:
        client.soft_targets(answers.inputs(2))
        assert "st_secret" not in repr(client)
    assert server.asked[0].headers["Authorization"] == "Bearer st_secret-1"
    assert server.described_headers["Authorization"] == "Bearer st_secret-1"


def test_without_a_key_none_is_sent_whatever_the_environment_says(server, answers, monkeypatch):
    monkeypatch.setenv("SOFT_TARGETS_KEY", "st_secret")
    with Client(server.url, ensemble="pets") as client:
        client.soft_targets(answers.inputs(2))
    assert "Authorization" not in server.asked[0].headers


@pytest.mark.parametrize("key", ["", "st_a\n", " st_a", "st_a b", "st_ä"])
def test_what_cannot_be_a_key_is_refused_and_not_repeated(key):
    with pytest.raises(InputError, match="the key is empty or holds") as told:
        Client("http://127.0.0.1:1", ensemble="pets", key=key)
    assert "st_" not in str(told.value)


# ---------------------------------------------------------------------------------------- forms of an answer


def test_half_precision_and_compression_are_asked_for(server, answers):
    with Client(server.url, ensemble="pets", dtype="float16", compression="zstd") as client:
        client.soft_targets(answers.inputs(2))
    [asked] = server.asked
    assert asked.query == {"recipe": "default", "dtype": "float16"}
    assert asked.headers["Accept"] == f'{ARROW}; codecs="zstd"'
    assert asked.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("argument", [{"dtype": "bfloat16"}, {"compression": "gzip"}, {"digest_first": "no"}])
def test_forms_that_there_are_not(argument):
    with pytest.raises(InputError, match=f"{next(iter(argument))} must be"):
        Client("http://teachers", ensemble="pets", **argument)


def test_an_answer_without_end_is_not_read_to_its_end(server, client, answers):
    server.answer = lambda asked: replace(
        answers.reply_of(asked), pieces=answers.reply_of(asked).pieces[:1] + [bytes(1 << 20)] * 40
    )
    server.handle_error = lambda *_: None  # it is hung up on
    with pytest.raises(WireError, match="longer than its rows can be"):
        client.soft_targets(answers.inputs(2))
