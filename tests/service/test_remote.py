"""A teacher elsewhere: met and checked at start, and what it answers taken for nothing else."""

import shutil
import ssl
import subprocess
import threading

import inference_server as fake
import numpy as np
import pytest
from inference_server import InferenceServer, Model

from service.config import Output, Teacher
from service.errors import TeacherError, TeacherFailure, TeacherOverrun, TeacherSilent, TeacherUnreachable
from service.teachers.base import GraphInput
from service.teachers.remote import RemoteTeacher

INPUTS = [("x", "FP32", [-1, 2])]
OUTPUTS = [("p", "FP32", [-1, 2])]
ROWS = np.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]], dtype="<f4")


def echo(given):
    return {"p": given["x"]}


@pytest.fixture
def serve():
    """A server with one model ``m``, and teachers that ask it."""
    opened = []

    class Served:
        def __init__(self, inputs=INPUTS, outputs=OUTPUTS, answer=echo, **named):
            self.server = InferenceServer({"m": Model(inputs, outputs, answer)}, **named)

        def teacher(self, *, address=None, output=None, limit_s=30, met=True, **section):
            address = address or self.server.address("m")
            config = Teacher(
                name="far", model=address, output=Output(kind="probs", name=output), retries=0, **section
            )
            opened.append(RemoteTeacher(config, config.model, limit_s=limit_s))
            if met:
                opened[-1].meet()
            return opened[-1]

    served = []

    def start(*arguments, **named):
        served.append(Served(*arguments, **named))
        served[-1].server.__enter__()
        return served[-1]

    yield start
    for one in opened:
        one.close()
    for one in served:
        one.server.__exit__()


def refused(served, kind=TeacherError, **named):
    with pytest.raises(TeacherError) as caught:
        served.teacher(**named)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(
        f"teacher 'far': {named.get('address') or served.server.address('m')}"
    )
    return str(caught.value)


def failure(teacher, rows=ROWS, kind=TeacherFailure):
    with pytest.raises(TeacherFailure) as caught:
        teacher.answer({"x": rows})
    assert type(caught.value) is kind
    assert caught.value.teacher == "far"
    return str(caught.value)


# ---- met


@pytest.mark.parametrize("binary", [True, False])
def test_it_is_met_and_answers(serve, binary):
    served = serve(binary=binary)
    teacher = served.teacher()
    assert teacher.inputs == {"x": GraphInput("<f4", (2,))}
    assert (teacher.output, str(teacher.device), teacher.size_bytes) == ("p", "remote", 0)
    assert teacher.answer({"x": ROWS}).tolist() == ROWS.tolist()
    assert teacher.labels({"x": ROWS}) is None
    (request,) = served.server.infers()
    assert (fake.LENGTH.lower() in request.headers) == binary


def test_a_server_that_says_nothing_of_itself_is_asked_in_json(serve, monkeypatch):
    served = serve()
    routed = served.server._routed
    monkeypatch.setattr(
        served.server,
        "_routed",
        lambda request: fake.of_json({}, 404) if request.path == "/v2" else routed(request),
    )
    assert served.teacher().answer({"x": ROWS}).tolist() == ROWS.tolist()
    assert fake.LENGTH.lower() not in served.server.infers()[0].headers


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT16", "INT64", "UINT64", "FP16", "FP32", "FP64"])
def test_rows_go_in_the_datatype_that_the_model_takes(serve, datatype):
    inputs = [("x", datatype, [-1, 2])]
    served = serve(inputs, OUTPUTS, lambda given: {"p": given["x"].astype("f4")})
    teacher = served.teacher()
    dtype = teacher.inputs["x"].dtype
    rows = np.array([[0, 1], [1, 0]], dtype)
    assert np.dtype(dtype) == np.dtype(fake.NUMPY[datatype])
    assert teacher.answer({"x": rows}).tolist() == [[0, 1], [1, 0]]
    (sent,) = served.server.infers()[0].message["inputs"]
    assert (sent["datatype"], sent["shape"]) == (datatype, [2, 2])


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shape", [[-1], [-1, 1], [-1, -1]])
def test_text_goes_as_one_a_row(serve, shape, binary):
    def answer(given):
        assert given["t"].ndim == len(shape)
        longer = np.array([len(text) > 2 for text in given["t"].reshape(-1)], dtype="f4")
        return {"p": np.stack([longer, 1 - longer], axis=1)}

    teacher = serve([("t", "BYTES", shape)], OUTPUTS, answer, binary=binary).teacher()
    assert teacher.inputs == {"t": GraphInput("utf8", ())}
    texts = np.array(["no", "zwölf", ""], dtype=object)
    assert teacher.answer({"t": texts}).tolist() == [[0, 1], [1, 0], [0, 1]]


def test_several_inputs_and_one_of_several_outputs(serve):
    inputs = [("a", "INT32", [-1]), ("image", "UINT8", [-1, 2, -1])]
    outputs = [("label", "BYTES", [-1]), ("p", "FP64", [-1, -1]), ("other", "FP32", [-1, 7])]

    def answer(given):
        total = given["image"].sum(axis=(1, 2)) * 1.0
        return {"p": np.stack([given["a"] * 1.0, total], axis=1)}

    served = serve(inputs, outputs, answer)
    teacher = served.teacher(output="p")
    assert teacher.inputs == {"a": GraphInput("<i4", ()), "image": GraphInput("|u1", (2, None))}
    given = {"a": np.array([5, 6], "<i4"), "image": np.full((2, 2, 3), 2, "|u1")}
    assert teacher.answer(given).tolist() == [[5, 12], [6, 12]]
    (asked,) = served.server.infers()[0].message["outputs"]
    assert asked["name"] == "p"
    assert "say which output is meant" in refused(served)


def test_parameters_go_with_every_request(serve):
    served = serve()
    teacher = served.teacher(parameters={"soft_targets_temperature": 1, "deep": True, "note": "a"})
    teacher.answer({"x": ROWS})
    assert served.server.infers()[0].message["parameters"] == {
        "soft_targets_temperature": 1, "deep": True, "note": "a",
    }  # fmt: skip


def test_a_version_is_asked_for_by_its_path(serve):
    served = serve()
    teacher = served.teacher(address=served.server.address("m", "1"))
    teacher.answer({"x": ROWS})
    assert served.server.infers()[0].path == "/v2/models/m/versions/1/infer"
    assert "no version '2'" in refused(served, address=served.server.address("m", "2"))


def test_a_name_is_a_segment_whatever_is_in_it(serve):
    served = serve()
    served.server.models["a b/ü.default"] = served.server.models["m"]
    teacher = served.teacher(
        address=f"kserve+http://127.0.0.1:{served.server.port}/a%20b%2Fü.default", met=False
    )
    with pytest.raises(TeacherError):
        teacher.meet()  # the fake does not decode paths
    assert served.server.received[-1].path == "/v2/models/a%20b%2F%C3%BC.default"


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        ([], OUTPUTS, "does not say what the model's inputs and outputs are"),
        (INPUTS, [], "does not say what the model's inputs and outputs are"),
        ([("x", "BF16", [-1, 2])], OUTPUTS, "input 'x' (BF16 [-1, 2]) cannot be fed; known: BOOL, "),
        ([("x", "FP32", [1, 2])], OUTPUTS, "input 'x' (FP32 [1, 2]) must begin with a batch of any size, -1"),
        ([("x", "FP32", [])], OUTPUTS, "must begin with a batch"),
        (INPUTS, [("p", "INT64", [-1, 2])], "no output is one float a class"),
        (INPUTS, [("p", "FP32", [1, 2])], "no output is one float a class"),
        (INPUTS, [("p", "FP32", [-1])], "it offers 'p' (FP32 [-1])"),
        (INPUTS, [("p", "FP32", [-1, 2]), ("q", "FP32", [-1, 2])], "say which output is meant"),
        ([("x", "FP32", [-1, -2])], OUTPUTS, "not made of sizes"),
    ],
)
def test_a_model_that_cannot_be_a_teacher_is_refused(serve, inputs, outputs, said):
    assert said in refused(serve(inputs, outputs))


def test_an_output_that_it_has_not_is_refused_with_those_it_has(serve):
    assert "no output 'logits'; it offers 'p' (FP32 [-1, 2])" in refused(serve(), output="logits")
    served = serve(INPUTS, [("p", "FP32", [-1, 2]), ("q", "INT8", [-1, 2])])
    assert "no output is one float a class" in refused(served, output="q")


def test_half_precision_cannot_be_said_in_json(serve):
    served = serve([("x", "FP16", [-1, 2])], OUTPUTS, binary=False)
    assert "JSON has no FP16" in refused(served)


def test_a_model_that_is_not_there_is_a_wrong_configuration(serve):
    served = serve()
    said = refused(served, address=f"kserve+http://127.0.0.1:{served.server.port}/n")
    assert said.endswith("cannot be used: teacher 'far' failed: it answers HTTP 404: no model 'n'")


def test_a_server_that_describes_another_model_is_refused(serve, monkeypatch):
    served = serve()
    honest = served.server.answer
    monkeypatch.setattr(
        served.server,
        "answer",
        lambda request: fake.Reply(200, {}, honest(request).body.replace(b'"name": "m"', b'"name": "other"')),
    )
    assert "the server describes another model, 'other'" in refused(served)


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (fake.of_json({"error": "loading"}, 503), TeacherUnreachable, "HTTP 503: loading"),
        (fake.of_json({"error": "busy"}, 429), TeacherUnreachable, "HTTP 429: busy"),
        (fake.of_json({"error": "a bug"}, 500), TeacherError, "HTTP 500: a bug"),
        (fake.of_json({"error": "no"}, 403), TeacherError, "it wants a key: name its key_file"),
        (fake.Reply(301, {"Location": "http://127.0.0.1:1/"}, b""), TeacherError, "redirects (HTTP 301)"),
        (fake.Reply(200, {}, b"<html>"), TeacherError, "its reply cannot be taken: it is no JSON"),
    ],
)
def test_what_answers_instead_of_metadata_is_named(serve, monkeypatch, reply, kind, said):
    served = serve()
    monkeypatch.setattr(served.server, "answer", lambda _: reply)
    assert said in refused(served, kind)


def test_a_server_that_is_away_is_unreachable_and_can_be_met_later(serve):
    served = serve()
    served.server.away()
    teacher = served.teacher(met=False)
    with pytest.raises(TeacherUnreachable, match="cannot be reached: teacher 'far' does not answer"):
        teacher.meet()
    assert not teacher.met
    with served.server:
        teacher.meet()
        assert teacher.answer({"x": ROWS}).tolist() == ROWS.tolist()


# ---- answers


def test_its_answers_come_as_they_are_valid_or_not(serve):
    """Whether a row is a distribution is judged where every teacher's is."""
    odd = np.array([[np.nan, 1], [-3, 7], [np.inf, 0]], "<f4")
    for binary in (True, False):
        found = serve(answer=lambda _: {"p": odd}, binary=binary).teacher().answer({"x": ROWS})
        np.testing.assert_array_equal(found, odd)


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_answers_of_every_float(serve, datatype):
    found = serve(INPUTS, [("p", datatype, [-1, 2])]).teacher().answer({"x": ROWS})
    assert found.dtype == np.dtype(fake.NUMPY[datatype])
    assert found.tolist() == ROWS.tolist()


def test_a_row_that_json_cannot_say_is_answered_by_nothing_and_its_neighbours_are(serve):
    rows = ROWS.copy()
    rows[1, 0] = np.nan
    served = serve(binary=False)
    found = served.teacher().answer({"x": rows})
    assert np.isnan(found[1]).all()
    assert found[[0, 2]].tolist() == ROWS[[0, 2]].tolist()
    assert np.isnan(serve().teacher().answer({"x": rows})[1, 0])  # bytes can say it


LIES = [
    (lambda said: said.update(model_name="other"), "it comes from another model, 'other'"),
    (lambda said: said.update(id="8"), "it answers another request"),
    (lambda said: said["outputs"][0].update(name="q"), "it holds output 'p' 0 times"),
    (lambda said: said["outputs"][0].update(shape=[2, 3]), "answered 3 rows with shape [2, 3]"),
    (lambda said: said["outputs"][0].update(shape=[1, 6]), "answered 3 rows with shape [1, 6]"),
    (lambda said: said["outputs"][0].update(shape=[3, 2, 1]), "answered 3 rows with shape [3, 2, 1]"),
    (lambda said: said["outputs"][0].update(shape=[4, 2]), "takes 24 bytes"),
    (
        lambda said: said["outputs"][0].update(datatype="FP16", shape=[3, 4]),
        "is FP16, and was described as FP32",
    ),
    (lambda said: said["outputs"][0].update(datatype="INT32"), "is not one float a class"),
    (lambda said: said.update(outputs=[]), "its outputs take 0 bytes behind the JSON, and 24 came"),
    (lambda _: {"error": "with status 200"}, "its outputs take 0 bytes"),
    (lambda _: [], "it is no JSON object"),
]


@pytest.mark.parametrize(("lie", "said"), LIES)
def test_what_is_no_answer_to_this_is_a_failure_and_the_next_one_is_heard(serve, lie, said):
    served = serve()
    teacher = served.teacher()
    served.server.told.append(fake.edited(lie))
    found = failure(teacher)
    assert found.startswith("teacher 'far' ")
    assert said in found
    assert teacher.answer({"x": ROWS}).tolist() == ROWS.tolist()


@pytest.mark.parametrize("change", [{"model_name": None}, {"id": ""}, {"id": None}, {"model_version": None}])
def test_what_a_server_leaves_out_is_not_missed(serve, change):
    served = serve()
    served.server.always = fake.edited(lambda said: said.update(change))
    assert served.teacher().answer({"x": ROWS}).tolist() == ROWS.tolist()


@pytest.mark.parametrize("data", [b"", b"{}", b"garbage", b"\x00" * 1000, b'{"outputs": 5}'])
def test_garbage_is_a_failure(serve, data):
    served = serve()
    served.server.told.append(fake.body(data))
    assert "its reply cannot be taken: " in failure(served.teacher())


def test_another_version_than_the_one_that_was_met_is_refused(serve):
    served = serve()
    teacher = served.teacher()
    teacher.answer({"x": ROWS})
    served.server.models["m"] = served.server.models["m"]._replace(version="2")
    assert "it comes from version '2' of the model, not '1': reload the ensemble" in failure(teacher)
    served.server.models["m"] = served.server.models["m"]._replace(version="1")
    teacher.answer({"x": ROWS})
    named = served.teacher(address=served.server.address("m", "1"))
    served.server.told.append(fake.edited(lambda said: said.update(model_version="3")))
    assert "version '3' of the model, not '1'" in failure(named)


def test_a_hang_overruns_and_a_refusal_does_not(serve):
    served = serve()
    teacher = served.teacher(timeout_s=0.2)
    served.server.told.append(fake.never)
    assert "gave no answer within 0.2 s" in failure(teacher, kind=TeacherOverrun)
    served.server.told.append(fake.status(503, "full"))
    assert "HTTP 503: full" in failure(teacher, kind=TeacherSilent)
    served.server.told.append(fake.status(400, "no such shape"))
    assert "HTTP 400: no such shape" in failure(teacher)


def test_a_long_reply_is_refused(serve):
    served = serve()
    teacher = served.teacher(max_reply_bytes=400)
    teacher.answer({"x": ROWS})
    assert "longer than max_reply_bytes (400)" in failure(teacher, np.tile(ROWS, (100, 1)))


def test_rows_are_under_way_while_nobody_waits(serve):
    served = serve()
    teacher = served.teacher()
    heard, after = threading.Event(), threading.Event()
    served.server.told.append(fake.late(heard, after))
    wait = teacher.begin({"x": ROWS})
    assert heard.wait(20)
    assert teacher.answer({"x": ROWS[:1]}).tolist() == ROWS[:1].tolist()  # meanwhile
    after.set()
    assert wait().tolist() == ROWS.tolist()


def test_closing_ends_a_wait(serve):
    served = serve()
    teacher = served.teacher()
    heard = threading.Event()
    served.server.told.append(lambda handler, reply: (heard.set(), fake.never(handler, reply)))
    wait = teacher.begin({"x": ROWS})
    assert heard.wait(20)
    teacher.close()
    with pytest.raises(TeacherSilent, match="is being closed"):
        wait()
    teacher.close = lambda: None


# ---- its key, and what it is called by


def test_the_key_is_read_from_its_file(serve, tmp_path):
    (tmp_path / "key").write_text("st_secret\n")
    served = serve(key="st_secret")
    served.teacher(key_file=tmp_path / "key").answer({"x": ROWS})
    assert "it wants a key: name its key_file" in refused(served)
    (tmp_path / "key").write_text("st_other")
    assert "it refuses the key" in refused(served, key_file=tmp_path / "key")


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"two words", b"a\r\nX-Evil: 1", "schlüssel".encode(), b"\xff"]
)
def test_a_file_that_holds_no_key_is_refused_and_not_repeated(serve, tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    said = refused(serve(), key_file=tmp_path / "key")
    assert said.endswith(f"{tmp_path / 'key'} must hold one key, without spaces")
    assert "cannot be read: No such file" in refused(serve(), key_file=tmp_path / "nokey")


def test_over_tls_the_server_must_be_who_it_says(serve, tmp_path, monkeypatch):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: install the Debian package openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    served = serve(tls=tls, key="st_secret")
    (tmp_path / "key").write_text("st_secret")
    said = refused(served, TeacherUnreachable, key_file=tmp_path / "key")
    assert "certificate verify failed" in said
    assert served.server.received == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    teacher = served.teacher(key_file=tmp_path / "key")
    assert teacher.answer({"x": ROWS}).tolist() == ROWS.tolist()


def test_its_digest_is_of_what_is_configured_and_of_no_place_and_no_key(serve, tmp_path):
    (tmp_path / "key").write_text("st_secret")

    def digest(address="kserve+http://here:1/m", **section):
        return serve().teacher(address=address, met=False, **section).digest

    same = [
        digest(revision="1"),
        digest("kserve+https://there/m", revision="1"),
        digest(revision="1", key_file=tmp_path / "key"),
        digest(revision="1", timeout_s=3, max_reply_bytes=9),
    ]
    assert len(set(same)) == 1
    other = [
        digest(),
        digest(revision="2"),
        digest("kserve+http://here:1/n", revision="1"),
        digest("kserve+http://here:1/m/versions/1", revision="1"),
        digest(revision="1", parameters={"a": 1}),
        digest(revision="1", parameters={"a": True}),
        digest(revision="1", output="p"),
    ]
    assert len({*same, *other}) == 1 + len(other)
