"""Asking a server elsewhere: bounded in time and bytes, again only where that may help, and no other one."""

import threading
import time
import tracemalloc

import inference_server as fake
import numpy as np
import pytest
from inference_server import InferenceServer, Model, body, status

from service.errors import TeacherFailure, TeacherOverrun, TeacherSilent
from service.teachers import remote_server
from service.teachers.remote_server import RemoteServer, Terms

INFER = "/v2/models/m/infer"
QUESTION = b"""{"id": "1", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}],
  "outputs": [{"name": "p"}]}"""


@pytest.fixture
def server():
    model = Model([("x", "FP32", [-1, 1])], [("p", "FP32", [-1, 1])], lambda given: {"p": given["x"]})
    with InferenceServer({"m": model}) as running:
        yield running


@pytest.fixture
def asked(server, monkeypatch):
    """Asks the server, with terms of the test's; waits between tries are as short as they can be."""
    monkeypatch.setattr(remote_server, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(remote_server, "JITTER_S", 0.001)
    opened = []

    def open_one(*, key=None, **terms):
        given = {"timeout_s": 20, "limit_s": 30, "retries": 0, "max_reply_bytes": 1 << 20, **terms}
        address = f"http://127.0.0.1:{server.port}"
        opened.append(RemoteServer("far", address, key=key, terms=Terms(**given)))
        one = opened[-1]
        one.infer = lambda **named: one.ask("POST", INFER, body=QUESTION, **named).result(60)
        return one

    yield open_one
    for one in opened:
        one.close()


def failure(one, kind=TeacherFailure, **named):
    with pytest.raises(kind) as caught:
        one.infer(**named)
    assert type(caught.value) is kind
    assert caught.value.teacher == "far"
    assert str(caught.value).startswith("teacher 'far' ")
    return str(caught.value)


def test_a_reply_comes_whole_with_its_headers(asked):
    reply = asked().infer()
    assert b'"data": [1.0]' in reply.body
    assert reply.headers.get("content-LENGTH") == str(len(reply.body))


def test_questions_share_connections_and_many_are_under_way_at_once(server, asked):
    one = asked()
    together = threading.Barrier(20)
    server.always = lambda handler, reply: (together.wait(20), handler.send(reply))
    asking = [one.ask("POST", INFER, body=QUESTION) for _ in range(20)]
    assert len({future.result(30).body for future in asking}) == 1


# ---- asked again


@pytest.mark.parametrize("code", sorted(remote_server.TRY_AGAIN))
def test_load_is_asked_again(server, asked, code):
    server.told.extend([status(code), status(code)])
    asked(retries=2).infer()
    assert len(server.infers()) == 3


@pytest.mark.parametrize("code", [400, 404, 408, 413, 422, 500, 501])
def test_a_refusal_is_not_asked_again_and_is_passed_on(server, asked, code):
    server.told.append(status(code, "rows too\nlong"))
    assert failure(asked(retries=5)) == f"teacher 'far' failed: it answers HTTP {code}: rows too long"
    assert len(server.infers()) == 1


@pytest.mark.parametrize("code", [201, 202, 204, 206])
def test_only_200_is_an_answer(server, asked, code):
    server.told.append(status(code) if code != 204 else fake.raw(b"HTTP/1.1 204 No Content\r\n\r\n"))
    assert f"it answers HTTP {code}" in failure(asked(retries=5))


@pytest.mark.parametrize(
    "treatment",
    [
        fake.cut(0),
        fake.cut(20),
        fake.raw(b""),
        fake.raw(b"hello\r\n\r\n"),
        fake.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        fake.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345"),
        fake.raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000),
    ],
    ids=["no body", "half a body", "nothing", "no HTTP", "bad chunk", "two lengths", "endless headers"],
)
def test_what_is_cut_or_no_http_is_asked_again(server, asked, treatment):
    one = asked(retries=1)
    server.told.append(treatment)
    one.infer()
    assert len(server.infers()) == 2
    server.told.extend([treatment, treatment])
    assert "does not answer: " in failure(one, TeacherSilent)


def test_a_server_that_is_away_is_silent_until_it_is_back(server, asked):
    one = asked(retries=1)
    one.infer()
    server.away()
    assert "does not answer: " in failure(one, TeacherSilent)
    with server:
        one.infer()


def test_retry_after_is_waited_for_where_there_is_time(server, asked):
    server.told.append(status(503, Retry_After="0"))
    asked(retries=1).infer()
    server.told.append(status(503, "full", Retry_After="3600"))
    one = asked(retries=1)
    assert failure(one, TeacherSilent) == "teacher 'far' failed: it answers HTTP 503: full"
    for unreadable in ("-1", "soon", "1e9", "٣", "Wed, 21 Oct 2099 07:28:00 GMT"):
        server.told.append(fake.raw(f"HTTP/1.1 503 No\r\nRetry-After: {unreadable}\r\n\r\n".encode()))
        one.infer()
    assert len(server.infers()) == 2 + 1 + 2 * 5


def test_after_the_last_who_waits_is_gone_no_further_try_begins(server, asked):
    server.always = status(503)
    failure(asked(retries=5), TeacherSilent, until=time.monotonic())
    assert len(server.infers()) == 1


def test_retries_have_a_budget_which_answers_refill(server, asked):
    one = asked(retries=1)
    server.always = status(503)
    for _ in range(20):
        failure(one, TeacherSilent)
    assert len(server.infers()) == 20 + remote_server.MOST_RETRIES
    server.always = None
    for _ in range(int(1 / remote_server.RETRIES_EARNED)):
        one.infer()
    server.told.append(status(503))
    one.infer()
    server.told.append(status(503))
    failure(one, TeacherSilent)


# ---- bounded in time


def test_a_try_has_its_time_and_another_follows(server, asked):
    server.told.append(fake.never)
    asked(timeout_s=0.2, retries=1).infer()
    assert len(server.infers()) == 2


@pytest.mark.parametrize("treatment", [fake.never, fake.drip])
@pytest.mark.parametrize(
    ("terms", "limit"), [({"timeout_s": 0.2}, 0.2), ({"timeout_s": 0.2, "limit_s": 0.1, "retries": 9}, 0.1)]
)
def test_what_never_ends_overruns(server, asked, treatment, terms, limit):
    server.always = treatment
    said = failure(asked(**terms), TeacherOverrun)
    assert said == f"teacher 'far' gave no answer within {limit} s"
    assert len(server.infers()) == 1


def test_all_tries_together_have_their_time(server, asked):
    server.always = fake.never
    assert "within 0.5 s" in failure(asked(timeout_s=0.2, limit_s=0.5, retries=9), TeacherOverrun)
    assert 2 <= len(server.infers()) <= 3


def test_a_late_answer_is_nobody_s(server, asked):
    one, heard, after = asked(timeout_s=0.3), threading.Event(), threading.Event()
    server.told.append(fake.late(heard, after))
    failure(one, TeacherOverrun)
    assert heard.is_set()
    after.set()
    assert b'"model_name": "m"' in one.infer().body


# ---- bounded in bytes


def test_a_reply_is_read_no_further_than_its_bound(server, asked):
    one = asked(max_reply_bytes=100_000)
    server.told.append(body(b" " * 100_000))
    assert len(one.infer().body) == 100_000
    said = "teacher 'far' failed: its reply is longer than max_reply_bytes (100000)"
    server.told.append(body(b" " * 100_001))
    assert failure(one) == said
    server.told.append(fake.endless)
    assert failure(one) == said
    server.told.append(fake.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n"))
    assert failure(one) == said  # at once: none of it came
    one.infer()


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_reply_is_taken_though_it_was_not_asked_for(server, asked, coding):
    server.told.append(fake.coded(coding))
    assert b'"data": [1.0]' in asked().infer().body
    assert server.infers()[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_reply_is_inflated_no_further_than_its_bound(server, asked, coding):
    one, bomb = asked(max_reply_bytes=100_000), fake.Reply(200, {}, b" " * 100_000_000)
    server.told.append(lambda handler, _: fake.coded(coding)(handler, bomb))
    tracemalloc.start()
    assert "longer than max_reply_bytes (100000)" in failure(one)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 5_000_000


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:-5], "is no whole "),
        (lambda data: b"\x00" + data, "is not "),
        (lambda _: b"", "is no whole "),
        (lambda data: data + b"more", "is more than "),
    ],
)
def test_what_cannot_be_inflated_is_named(server, asked, coding, change, said):
    server.told.append(fake.coded(coding, change=change))
    assert f"its reply {said}{coding}" in failure(asked())


def test_a_coding_that_nobody_asked_for_is_refused(server, asked):
    server.told.append(body(b"x", Content_Encoding="br"))
    assert "its reply is coded as 'br'" in failure(asked())


def test_of_an_error_only_the_beginning_is_read(server, asked):
    server.told.append(status(400, "x" * 1000))
    assert failure(asked()).endswith(": " + "x" * remote_server.LONGEST_ERROR + " ...")

    def endless(handler, _):
        handler.send_response(400)
        handler.send_header("Content-Length", str(1 << 40))
        handler.end_headers()
        while True:
            handler.wfile.write(b"y" * 65536)

    server.told.append(endless)
    assert failure(asked()).endswith(": " + "y" * remote_server.LONGEST_ERROR + " ...")


# ---- to nobody else


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308, 304])
def test_a_redirect_is_not_followed(server, asked, code):
    with InferenceServer(server.models) as elsewhere:
        server.told.append(status(code, Location=f"http://127.0.0.1:{elsewhere.port}{INFER}"))
        said = failure(asked(key="st_secret", retries=3))
        assert (
            said
            == f"teacher 'far' failed: it redirects (HTTP {code}), which is not followed; name where it is"
        )
        assert elsewhere.received == []
    assert len(server.infers()) == 1


def test_the_environment_changes_neither_the_way_nor_the_key(server, asked, monkeypatch, tmp_path):
    with InferenceServer({}) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password mine\n")
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        asked().infer()
        assert proxy.received == []
    assert "authorization" not in server.infers()[0].headers


def test_a_key_goes_with_every_question_and_into_no_message(server, asked):
    server.key = "st_secret"
    one = asked(key="st_secret")
    one.infer()
    assert server.infers()[0].headers["authorization"] == "Bearer st_secret"
    server.told.append(status(500, "you sent Bearer st_secret"))
    assert failure(one) == "teacher 'far' failed: it answers HTTP 500: you sent Bearer [key]"
    assert "who are you?; it wants a key: name its key_file" in failure(asked())
    assert "who are you?; it refuses the key" in failure(asked(key="st_other"))


def test_closing_breaks_off_what_is_under_way(server, asked):
    heard = threading.Event()
    server.told.append(lambda handler, reply: (heard.set(), fake.never(handler, reply)))
    one = asked()
    asking = one.ask("POST", INFER, body=QUESTION)
    assert heard.wait(20)
    one.close()
    assert asking.cancelled()
    one.close = lambda: None


def test_what_is_sent_is_what_was_given(server, asked):
    one = asked()
    data = np.random.default_rng(0).bytes(3_000_000)
    with pytest.raises(TeacherFailure):
        one.ask("POST", "/v2/models/none/infer", body=data, headers={"X-One": "1"}).result(30)
    (received,) = server.received
    assert received.body == data
    assert received.headers["x-one"] == "1"
