"""The server asked by clients that are no dependency of this project; each test runs where its client is installed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import torch

from tasks.model.causal import load_model, load_tokenizer
from tasks.serving.client import running_server

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(tiny_model, made)
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(folder, tmp_path_factory.mktemp("home"), "clients") as base_url:
        yield base_url


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tokenized", [True, False])
def test_lm_evaluation_harness_scores_as_the_model_does(url: str, folder: Path, tokenized: bool) -> None:
    reason = "needs `pip install lm-eval[api]`"
    completions = pytest.importorskip("lm_eval.models.openai_completions", reason=reason)
    instance = pytest.importorskip("lm_eval.api.instance", reason=reason).Instance
    client = completions.LocalCompletionsAPI(
        model="ketcycle",
        base_url=f"{url}/v1/completions",
        tokenizer_backend="huggingface",
        tokenizer=str(folder),
        tokenized_requests=tokenized,
        max_retries=1,
        max_length=63,
    )
    pairs = [("This LICENSE", " AGREEMENT is"), ("Python", " Software"), ("a naïve", " café")]
    asked = [instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    found = client.loglikelihood(asked, disable_tqdm=True)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    for (context, continuation), (logprob, greedy) in zip(pairs, found, strict=True):
        before = tokenizer.encode(context, add_special_tokens=False)
        ids = tokenizer.encode(context + continuation, add_special_tokens=False)
        lead = [] if tokenized else [0]  # a text is read after the token between documents, tokens as they are
        with torch.no_grad():
            said = torch.log_softmax(model(torch.tensor([lead + ids])).logits[0], -1)
        places = range(len(lead) + len(before) - 1, len(lead) + len(ids) - 1)
        wanted = [float(said[at, ids[at + 1 - len(lead)]]) for at in places]
        assert logprob == pytest.approx(sum(wanted), abs=1e-5 * len(wanted))
        assert greedy == all(float(said[at].max()) == w for at, w in zip(places, wanted, strict=True))


@pytest.mark.filterwarnings("ignore")  # of a package that is not ours
def test_litellm_completes_streams_and_chats(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no look at the network
    litellm = pytest.importorskip("litellm", reason="needs `pip install litellm`")
    known = {"api_base": f"{url}/v1", "api_key": "none", "temperature": 0, "max_tokens": 6}
    text = litellm.text_completion(model="text-completion-openai/ketcycle", prompt="Python", **known)
    assert text.choices[0].text
    turns = [{"role": "user", "content": "Python"}]
    whole = litellm.completion(model="openai/ketcycle", messages=turns, **known)
    pieces = litellm.completion(model="openai/ketcycle", messages=turns, stream=True, **known)
    said = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert said == whole.choices[0].message.content
    assert whole.usage.completion_tokens == 6


@pytest.mark.filterwarnings("ignore")
def test_langchain_completes_streams_and_chats(url: str) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="needs `pip install langchain-openai`")
    known = {"base_url": f"{url}/v1", "api_key": "none", "model": "ketcycle", "temperature": 0, "max_tokens": 6}
    assert langchain.OpenAI(**known).invoke("Python")
    chat = langchain.ChatOpenAI(**known)
    whole = chat.invoke([("system", "short"), ("human", "Python")])
    assert whole.usage_metadata["output_tokens"] == 6
    assert "".join(piece.content for piece in chat.stream([("system", "short"), ("human", "Python")])) == whole.content


PAGE = """<!doctype html><title>asking</title><script type="module">
const url = URL_OF_SERVER;
const asked = {model: "ketcycle", prompt: "Python", max_tokens: 6, temperature: 0};
const headers = {"Content-Type": "application/json", "Authorization": "Bearer none"};
const tell = (found) => fetch("/", {method: "POST", body: JSON.stringify(found)});
const send = (more) => fetch(url + "/v1/completions",
  {method: "POST", headers, credentials: "include", body: JSON.stringify({...asked, ...more})});
try {
  const whole = (await (await send({})).json()).choices[0].text;
  const reader = (await send({stream: true})).body.pipeThrough(new TextDecoderStream()).getReader();
  let said = "", pieces = 0, rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    rest += part.value;
    const lines = rest.split("\\n\\n");
    rest = lines.pop();
    for (const line of lines.filter((line) => line !== "data: [DONE]")) {
      said += JSON.parse(line.slice(6)).choices[0].text;
      pieces += 1;
    }
  }
  const wrong = await (await send({prompt: 5})).json();
  tell({whole, said, pieces, param: wrong.error.param});
} catch (error) {
  tell({failed: String(error)});
}
</script>"""


class Pages(ThreadingHTTPServer):
    """Serves the page, and keeps what its script finds."""

    def __init__(self) -> None:
        self.asked, self.told = "", Queue[dict[str, Any]]()
        super().__init__(("127.0.0.1", 0), PageHandler)
        self.origin = f"http://127.0.0.1:{self.server_port}"


class PageHandler(BaseHTTPRequestHandler):
    server: Pages

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE.replace("URL_OF_SERVER", json.dumps(self.server.asked)).encode())

    def do_POST(self) -> None:
        self.server.told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def visit(browser: str, pages: Pages, profile: Path) -> dict[str, Any]:
    """Return what the script of the page finds in a browser without a screen."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", "--remote-debugging-port=0"]
    with (profile.parent / "browser.log").open("wb") as log:
        command = [browser, *flags, f"--user-data-dir={profile}", pages.origin]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            return pages.told.get(timeout=60)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)


def test_a_page_in_a_browser_streams_from_an_origin_that_is_allowed(folder: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium")
    with Pages() as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        for allowed in (pages.origin, "http://elsewhere.example"):
            options = ["--allow-origin", allowed]
            with running_server(folder, tmp_path / "home", "page", options=options) as pages.asked:
                found = visit(browser, pages, tmp_path / f"profile-{allowed == pages.origin}")
            if allowed == pages.origin:
                assert found["said"] == found["whole"] != ""
                assert found["pieces"] > 1
                assert found["param"] == "prompt", "a refusal can be read, too"
            else:
                assert "failed" in found
        pages.shutdown()


def test_curl_gets_an_answer_and_a_reason(url: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    asked = ["curl", "-s", "--noproxy", "*", f"{url}/v1/completions", "-d", '{"prompt": "Python", "max_tokens": 2}']
    assert "Content-Type: application/json" in json.loads(subprocess.check_output(asked))["error"]["message"]
    answer = json.loads(subprocess.check_output([*asked, "-H", "Content-Type: application/json"]))
    assert answer["usage"]["completion_tokens"] == 2
